"""What a method is: named loss terms of a batch, and, if it needs them, a set-up and an edit of the gradients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..models.reference import Reference
    from ..trainer import UnlearningTrainer


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A hyper-parameter with its help text, which `--help`, the README and cards all quote."""
    return dataclass_field(default=default, metadata={"help": help, **metadata})


@dataclass(kw_only=True)
class UnlearningMethod:
    """One objective. Its fields are its hyper-parameters; a subclass overrides `loss`, and what else it needs.

    A private method needs nothing but this class: `UnlearningTrainer(method=MyMethod(), ...)`.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    needs_forget: ClassVar[bool] = True
    """Reads forget samples; without it an epoch is a pass over the retain set."""
    needs_retain: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    """Reads the labels of the forget set."""
    needs_column: ClassVar[bool] = False
    """Reads the column `attribute` of the retain set, whose values are groups; `batch["group"]` holds their numbers."""
    one_shot: ClassVar[bool] = False
    """Does all its work in `setup`; no step is trained."""
    stops_at_target: ClassVar[bool] = False
    """End the run once the forget set is at its target, rather than after all steps."""
    reads_held_out: ClassVar[bool] = False
    """Uses labelled rows of `eval_dataset`, where there are any, without stopping at a target."""
    loads_with: ClassVar[str] = ""
    """What loads a saved model, such as `hf_unlearn.X.from_pretrained`, where `from_pretrained` alone would lose a part of it."""
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp"})
    """Where its steps can be taken: keys of `backends.BACKENDS`. On the others a run is refused before a model is loaded."""
    reasons: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "fsdp": "a method is not taken to work on parameters in parts unless it says so in `backends`",
            "deepspeed": "a method is not taken to work with an optimiser that keeps weights and gradients to itself unless it says "
            "so in `backends`",
        }
    )
    """Why not on one of the others, in a line."""
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What the fields of `UnlearningArguments` that were left at None become."""

    anchors: bool | None = setting(
        False, "Also hold the outputs on counterfactual anchors, a zero-shot stand-in for retain data."
    )
    anchor_weight: float = setting(1.0, "Weight of the anchors' KL divergence.")

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        """`arguments`, where they depend on what may move (None: left open) and on what is forgotten (`class`, `samples`)."""
        return self.arguments

    def why_not(self, backend: str) -> str:
        """Why `backend` is not one of `backends`."""
        return {**UnlearningMethod.reasons, **self.reasons}[backend]

    def reads_labels(self, side: str) -> bool:
        """Whether labels of the `forget` or the `retain` set are needed, under the settings of this instance."""
        return self.needs_labels if side == "forget" else self.needs_retain

    def moves_statistics(self) -> bool:
        """Whether its forwards may be those of training, dropout and all, in which BatchNorm statistics move."""
        return not self.needs_forget or getattr(self, "mode", "eval") == "train"

    def setup(self, trainer: UnlearningTrainer) -> None:
        """Once, before the first step, on the original weights; again, from the same weights, when a run is resumed."""

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        """Before the micro-batches of an optimiser step, for what must be known of all of them (pooled statistics)."""

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        """Named, weighted terms of this batch; the trainer adds them up and logs each.

        `batch` holds `forget` and `retain` (model inputs and labels; `retain` only if `needs_retain`), `index` (row numbers
        in the driving set, (B,)), `seed` (one per row, (B,), for the row's random draws) and, with `needs_column`, `group`
        (of the retain rows). Text is padded to one length on both sides. Terms are means over samples, so that accumulation
        and data parallelism give the value of one big batch; one that is not linear in the batch pools (`pooling.py`).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def adjust_gradients(self, model: nn.Module) -> None:
        """Once per optimiser step, after accumulation and clipping."""

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        """Right after an optimiser step of that rate, for a pull on the weights that no optimiser may rescale.

        `share` is the rate over the sum of the rates of all steps that the run may take.
        """

    def measures(self) -> dict[str, float]:
        """Numbers for the log beside the loss terms."""
        return {}

    def undone(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, `model` is without what `setup` changed."""
        return nullcontext()

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write what `setup` put on `model` beside its saved parameters."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside weights and optimiser, JSON-ready; kept in every checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """After `setup`, when a run is resumed: the inverse of `state`."""

    def save_checkpoint(self, folder: Path) -> None:
        """Write tensors that a resumed run needs and `setup` cannot find again into a checkpoint."""

    def load_checkpoint(self, folder: Path) -> None:
        """After `load_state`: the inverse of `save_checkpoint`."""

    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters, for reports."""
        return {"method": self.name or type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def about(cls) -> dict[str, Any]:
        """What the method is, for a card: from the docstring its first paragraph and its formulas (what is indented), and the paper."""
        doc = inspect.cleandoc(cls.__doc__ or "")
        doc = (
            "" if doc.startswith(f"{cls.__name__}(") else doc.partition("\n\nExample:")[0]
        )  # or a dataclass's signature
        formula = "\n".join(line[4:] for line in doc.splitlines() if line.startswith("    "))
        return {
            "class": cls.__name__,
            "summary": " ".join(doc.partition("\n\n")[0].split()),
            "formula": formula,
            "paper": None if cls.paper is None else {"title": cls.paper.title, "url": cls.paper.url},
            "loads_with": cls.loads_with,
        }

    @classmethod
    def help(cls) -> dict[str, tuple[Any, str]]:
        """field -> (default, help)."""
        return {f.name: (None if f.default is MISSING else f.default, f.metadata.get("help", "")) for f in fields(cls)}
