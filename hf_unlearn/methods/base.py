"""What a method is: named loss terms of a batch and, if it needs them, a set-up and an edit of the gradients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from ..models.reference import Reference
from .components.counterfactual_anchors import CounterfactualAnchors
from .protocols import UnlearningRun

METHODS: dict[str, type[UnlearningMethod]] = {}
"""key -> method; `methods/__init__.py` fills it."""


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

    A method of your own needs nothing but this class: `UnlearningTrainer(method=MyMethod(), ...)`.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    needs_forget: ClassVar[bool] = True
    """Reads forget samples. Without it an epoch is a pass over the retain set."""
    needs_retain: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    """Reads the labels of the forget set."""
    needs_column: ClassVar[bool] = False
    """Reads the column `attribute` of the retain set, whose values are groups; `batch["group"]` holds their numbers."""
    one_shot: ClassVar[bool] = False
    """Does all its work in `setup`; no step is trained."""
    starts_fresh: ClassVar[bool] = False
    """Starts from untrained weights, not from the original's."""
    stops_at_target: ClassVar[bool] = False
    """The run ends once the forget set is at its target, rather than after all steps."""
    reads_held_out: ClassVar[bool] = False
    """Uses labelled rows of `eval_dataset`, where there are any, without stopping at a target."""
    loads_with: ClassVar[str] = ""
    """What loads a saved model where `from_pretrained` alone would lose a part of it, such as `hf_unlearn.X.from_pretrained`."""
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp"})
    """Where its steps can be taken: keys of `training.backends.BACKENDS`. Elsewhere a run is refused before a model is loaded."""
    reasons: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "fsdp": "a method is not taken to work on parameters in parts unless it says so in `backends`",
            "deepspeed": "a method is not taken to work with an optimiser that keeps weights and gradients to itself unless it says "
            "so in `backends`",
        }
    )
    """Why not on one of the others, in a line."""
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Values for the fields of `UnlearningArguments` that were left at None."""

    anchors: bool | None = setting(
        False, "Also hold the outputs on counterfactual anchors, a zero-shot stand-in for retain data."
    )
    anchor_weight: float = setting(1.0, "Weight of the anchors' KL divergence.")

    # --- what it needs, and what it wants by default ---

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        """`arguments`, where they depend on what may move (None: left open) and on what is forgotten (`class`, `samples`)."""
        return self.arguments

    def resolved(self, update: str, retain_given: bool) -> UnlearningMethod:
        """This method with `anchors` decided where it is None: on where more than the head moves and no retain set is given."""
        return self if self.anchors is not None else replace(self, anchors=update != "head" and not retain_given)

    def why_not(self, backend: str) -> str:
        """Why `backend` is not one of `backends`."""
        return {**UnlearningMethod.reasons, **self.reasons}[backend]

    def reads_labels(self, side: str) -> bool:
        """Whether labels of the `forget` or the `retain` set are needed, under the settings of this instance."""
        return self.needs_labels if side == "forget" else self.needs_retain

    def moves_statistics(self) -> bool:
        """Whether its forward passes may be those of training, with dropout, in which BatchNorm statistics move."""
        return not self.needs_forget or getattr(self, "mode", "eval") == "train"

    # --- before the first step ---

    def prepare(self, run: UnlearningRun) -> None:
        """Once, before `setup`, while `run.model` is the original: a patch is switched off. Builds the anchors, if any."""
        wanted = self.anchors and run.reference.forgotten_classes
        made = CounterfactualAnchors(seed=run.args.seed) if wanted else None
        vars(self)["_anchors"] = made
        if made is not None:
            made.build(run.model, run.forget_rows, run.processor, run.reference, progress=not run.args.disable_tqdm)

    def setup(self, run: UnlearningRun) -> None:
        """Once, before the first step, on the original weights; again, from the same weights, when a run is resumed."""

    @property
    def held_anchors(self) -> CounterfactualAnchors | None:
        """The anchors of the present run; None where it holds none."""
        return vars(self).get("_anchors")

    def ends_at_target(self) -> bool:
        """Whether a look at the target may end the run: anchors are mended up to the last step."""
        return self.stops_at_target and self.held_anchors is None

    # --- in every step ---

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        """Before the micro-batches of an optimiser step, for what must be known of all of them (pooled statistics)."""

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        """Named, weighted terms of this batch; the trainer adds them up and logs each.

        Terms are means over samples, so that accumulation and data parallelism give the value of one big batch. One that is
        not linear in the batch pools its sums (`components/pooled_sums.py`). Text is padded to one length on both sides.

        Args:
            model: in training mode, as the HF Trainer leaves it; `eval_mode` changes that for a forward pass.
            batch: `forget` and, if `needs_retain`, `retain`: model inputs and labels. `index`, (B,), the row numbers in the set
                that leads the epoch. `seed`, (B,), a seed for each row's random draws. With `needs_column` `group`, the
                groups of the retain rows.
            reference: what the original said about the forget set.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def terms(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        """`loss`, and the term of the anchors where the run holds any."""
        terms = self.loss(model, batch, reference)
        if self.held_anchors is not None:
            terms["anchors"] = self.anchor_weight * self.held_anchors.loss(model, batch["seed"])
        return terms

    def adjust_gradients(self, model: nn.Module) -> None:
        """Once per optimiser step, after accumulation and clipping."""

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        """Right after an optimiser step, for a pull on the weights that no optimiser may rescale.

        Args:
            learning_rate: of that step.
            share: that rate over the sum of the rates of all steps that the run may take.
        """

    def measures(self) -> dict[str, float]:
        """Numbers for the log beside the loss terms."""
        return {}

    # --- what goes with the model and its checkpoints ---

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

    # --- what is told of it ---

    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters, for reports."""
        return {"method": self.name or type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def about(cls) -> dict[str, Any]:
        """What the method is, for a card: its paper and, of its docstring, the first paragraph and the formulas (what is indented)."""
        doc = inspect.cleandoc(cls.__doc__ or "")
        generated = doc.startswith(f"{cls.__name__}(")  # a dataclass without a docstring gets its signature
        doc = "" if generated else doc.partition("\n\nExample:")[0]
        formula = "\n".join(line[4:] for line in doc.splitlines() if line.startswith("    "))
        return {
            "class": cls.__name__,
            "summary": " ".join(doc.partition("\n\n")[0].split()),
            "formula": formula,
            "paper": None if cls.paper is None else {"title": cls.paper.title, "url": cls.paper.url},
            "loads_with": cls.loads_with,
        }
