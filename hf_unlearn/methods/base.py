"""The base class of all methods: named loss terms of a batch, and hooks before, in and after the steps of a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ..models.reference import Reference
from ..utils.argument_checks import did_you_mean
from .choice import AUTO, choose_method
from .components.counterfactual_anchors import CounterfactualAnchors
from .protocols import UnlearningRun

METHODS: dict[str, type[UnlearningMethod]] = {}
"""key -> method; `methods/__init__.py` fills this table."""

EVERY_BACKEND = frozenset({"single", "ddp", "fsdp", "deepspeed"})
ALL_WEIGHTS = {"update": "all", "trust_region": 0.0, "max_steps": -1}
"""Arguments of a method that trains all weights for some epochs with an ordinary optimizer."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A hyper-parameter with its help text, which `--help`, the README and cards quote."""
    return field(default=default, metadata={"help": help, **metadata})


def find_method(given: UnlearningMethod | str, retain: bool = False) -> UnlearningMethod:
    """Return a method as it is, or the method of a name in `METHODS` with its default settings.

    For the name `auto` it is the one that `choose_method` finds, if rows to keep are at hand (`retain`) or not.

    Raises:
        ValueError: the name is unknown.
        TypeError: `given` is neither a name nor a method.
    """
    if isinstance(given, str):
        given = choose_method(retain)[0] if given == AUTO else given
        if given not in METHODS:
            hint = did_you_mean(given, METHODS)
            raise ValueError(f"`method={given!r}` is unknown. Known: auto, {', '.join(METHODS)}.{hint}")
        return METHODS[given]()
    if not isinstance(given, UnlearningMethod):
        raise TypeError(f"`method` must be a name or an `UnlearningMethod` such as `JiT()`, got {given!r}.")
    return given


@dataclass(kw_only=True)
class UnlearningMethod:
    """One objective of unlearning. The fields are its hyper-parameters; a subclass overrides `loss`.

    A method of your own needs nothing but this class: `UnlearningTrainer(method=MyMethod(), ...)`.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    needs_forget: ClassVar[bool] = True  # Without forget rows an epoch is a pass over the retain set.
    needs_retain: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False  # Labels of the forget set are read.
    needs_column: ClassVar[bool] = False  # The column `attribute` of the retain set gives `batch["group"]`.
    kinds: ClassVar[frozenset[str]] = frozenset({"class", "samples"})  # Requests that it can forget.
    one_shot: ClassVar[bool] = False  # `setup` does all the work, and no step is trained.
    starts_fresh: ClassVar[bool] = False  # The run starts from untrained weights instead of the original's.
    stops_at_target: ClassVar[bool] = False  # The run ends once the forget set is at its target.
    reads_held_out: ClassVar[bool] = False  # Labeled rows of `eval_dataset` are used if there are any.
    reads_base: ClassVar[bool] = False  # The model that the original was fine-tuned from is loaded, if it is known.
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Settings, beside the length of a step, that a comparison with equal budgets looks for: lowest and highest value, on a log scale."""
    loads_with: ClassVar[str] = ""
    """The function that loads a saved model if `from_pretrained` loses a part: `hf_unlearn.X.from_pretrained`."""
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp"})
    """Keys of `training.backends.BACKENDS` on which the method works. Others are refused before a model is loaded."""
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "a method is not taken to work on sharded parameters unless it says so in `backends`",
        "deepspeed": "a method is not taken to work with an optimizer that keeps weights and gradients to itself unless it says "
        "so in `backends`",
    }
    """backend -> why the method does not work there, in one line."""
    arguments: ClassVar[Mapping[str, Any]] = {}
    """Values for the fields of `UnlearningArguments` that the user left at None."""

    anchors: bool | None = setting(False, "Also keep outputs on counterfactual anchors, a stand-in for retain data.")
    anchor_weight: float = setting(1.0, "Weight of the KL divergence on the anchors.")

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        """Return `arguments` for what the user chose to `update` (None: nothing yet) and a request for a `class` or `samples`."""
        return self.arguments

    def default_steps(
        self, retain_rows: int | None, retain_batch: int, trained: str = "base", kind: str = "class"
    ) -> int | None:
        """Return the steps of a run for which the user named no length; None: as `arguments` say.

        Args:
            retain_rows: rows of the retain set. None for a stream, or without one.
            retain_batch: retain rows that a step reads.
            trained: how the original was trained: all weights from a `"base"`, an `"adapter"` over one, or from `"scratch"`, which
                takes the most passes.
            kind: what is forgotten, a `"class"` or `"samples"`.
        """
        return None

    def rows_before_steps(self, forget_rows: int, retain_rows: int, weights: int) -> int:
        """Return how many rows of a training cost as much as `setup`, if `weights` parameters may move. Reading does not count."""
        return 0

    def passes_a_step(self) -> float:
        """Return how many passes of a training a step takes for each of its forget rows. Retain rows count apart."""
        return 1.0

    def resolved(self, update: str, retain_given: bool) -> UnlearningMethod:
        """Return this method with `anchors` decided. None means: if more than the head moves and no retain set is given."""
        return self if self.anchors is not None else replace(self, anchors=update != "head" and not retain_given)

    def why_not(self, backend: str) -> str:
        """Say why `backend` is not one of `backends`."""
        return {**UnlearningMethod.reasons, **self.reasons}[backend]

    def reads_labels(self, side: str) -> bool:
        """Return True if these settings need the labels of `side`, which is `forget` or `retain`."""
        return self.needs_labels if side == "forget" else self.needs_retain

    def moves_statistics(self) -> bool:
        """Return True if forward passes may be in training mode, in which BatchNorm statistics move."""
        return not self.needs_forget or getattr(self, "mode", "eval") == "train"

    def prepare(self, run: UnlearningRun) -> None:
        """Build the anchors, if there are any. Called once before `setup`, while `run.model` is the original."""
        wanted = self.anchors and run.reference.forgotten_classes
        made = CounterfactualAnchors(seed=run.args.seed) if wanted else None
        vars(self)["_anchors"] = made
        if made is not None:
            made.build(run.model, run.forget_rows, run.processor, run.reference, progress=not run.args.disable_tqdm)

    def setup(self, run: UnlearningRun) -> None:
        """Prepare for the first step. A resumed run calls this again, with the same original weights."""

    @property
    def held_anchors(self) -> CounterfactualAnchors | None:
        """The anchors of the present run, or None."""
        return vars(self).get("_anchors")

    @property
    def found_rate(self) -> float | None:
        """The learning rate that `setup` found for this original. It holds unless the user gave one."""
        return vars(self).get("_found_rate")

    def ends_at_target(self) -> bool:
        """Return True if reaching the target may end the run. With anchors the repair goes on up to the last step."""
        return self.stops_at_target and self.held_anchors is None

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        """Read all micro-batches of an optimizer step before the first of them, for statistics over the whole step."""

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        """Return named, weighted terms of one batch. The trainer adds them up and logs each.

        Terms are means over rows, so that accumulation and data parallelism give the value of one big batch. A term that is
        not linear in the batch pools its sums (`components/pooled_sums.py`). Text is padded to one length on both sides.

        Args:
            model: in training mode, as the HF Trainer leaves it; `eval_mode` changes that for a forward pass.
            batch: `forget` and, with `needs_retain`, `retain`: model inputs and labels. `index`, (B,): the row numbers in the
                set that leads the epoch. `seed`, (B,): a seed for each row's random draws. `group`, with `needs_column`: the
                groups of the retain rows.
            reference: the original's outputs on the forget set.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def terms(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        """Return the terms of `loss` and, if the run has anchors, theirs."""
        terms = self.loss(model, batch, reference)
        if self.held_anchors is not None:
            terms["anchors"] = self.anchor_weight * self.held_anchors.loss(model, batch["seed"])
        return terms

    def adjust_gradients(self, model: nn.Module) -> None:
        """Change the gradients, once per optimizer step, after accumulation and clipping."""

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        """Change the weights right after an optimizer step, in a way that no optimizer rescales.

        Args:
            learning_rate: of that step.
            share: that rate over the sum of the rates of all steps that the run may take.
        """

    def measures(self) -> dict[str, float]:
        """Return numbers for the log beside the loss terms."""
        return {}

    def undone(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which `model` is without the changes of `setup`."""
        return nullcontext()

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write what `setup` added to `model` beside its saved parameters."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside weights and optimizer, JSON-ready. Every checkpoint keeps it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned. A resumed run calls this after `setup`."""

    def save_checkpoint(self, folder: Path) -> None:
        """Write tensors into a checkpoint that a resumed run needs and `setup` cannot compute again."""

    def load_checkpoint(self, folder: Path) -> None:
        """Read what `save_checkpoint` wrote. A resumed run calls this after `load_state`."""

    def describe(self) -> dict[str, Any]:
        """Return name and hyper-parameters, for reports."""
        return {"method": self.name or type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def about(cls) -> dict[str, Any]:
        """Describe the method for a card: its paper, and from its docstring the first paragraph and the indented formulas."""
        doc = inspect.cleandoc(cls.__doc__ or "").partition("\n\nExample:")[0]
        if doc.startswith(f"{cls.__name__}("):  # a dataclass without a docstring gets its signature
            doc = ""
        return {
            "class": cls.__name__,
            "summary": " ".join(doc.partition("\n\n")[0].split()),
            "formula": "\n".join(line[4:] for line in doc.splitlines() if line.startswith("    ")),
            "paper": None if cls.paper is None else {"title": cls.paper.title, "url": cls.paper.url},
            "loads_with": cls.loads_with,
        }
