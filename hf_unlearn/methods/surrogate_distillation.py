"""Surrogate distillation: back towards the base, and then taught what a model that never saw the forget rows would say."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..data.sampling import DrawnRows, draw
from ..models.adapters import is_adapted
from ..models.base import StartingPoint
from ..models.forward import eval_mode, has_batch_norm, unwrap
from ..models.prediction import predict
from ..models.reference import Reference
from ..utils.argument_checks import check_positive, renamed
from .base import ALL_WEIGHTS, UnlearningMethod, find_method, setting
from .components.fitting_rate import fitting_rate
from .components.losses import joint_logits, kl_to_target
from .components.rewinding import (
    ROWS,
    learned_by_training,
    read_features,
    renew_head_rows,
    rewind,
    root_mean_square,
)
from .components.surrogate import (
    LEAST,
    accuracies,
    as_unseen,
    geometric_mean,
    log_odds,
    mean_confidence,
    power,
    probe_opinions,
    sharpened,
    sharpness,
)
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

TAUGHT_ROWS = 512  # most retain rows that the probes learn from
UNSEEN_ROWS = 512  # most held-out rows that tell how sure the original is
DEPTHS = (1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)  # of the base, at which probes are tried
PASSES = {"base": 0.75, "adapter": 1.0, "scratch": 1.0}  # over the retain set, by how the original was trained
PASSES_FOR_ROWS = 0.5  # for single rows of such an original, which does not go back
FEWEST_STEPS, MOST_STEPS = 12, 400
ASKED_ROWS = 256  # rows to forget of which it is asked whether they are like those that are kept
GROUP = 0.25  # by which probes are worse on the rows to forget, so that these are a group of their own
CONTRAST = 16.0  # with which linear layers go back by direction
# Retain rows are answered nearly as before then, so other weights go farther back, and targets may weigh as much as labels.
BY_DIRECTION = {"rewind": 0.25, "rate": 0.07, "forget_weight": 1.0}
BY_SHARE = {"rewind": 0.5, "rate": 0.12, "forget_weight": 0.3}
SAMPLES = 0.7  # `rewind` for single rows, if rewinding alone has to forget them
FOR_ROWS = {  # each single row is read several times, and rows that are kept start as the original answers them
    "per_device_train_batch_size": 16,
    "retain_per_forget": 1,
    "max_retain_drop": 0.05,
}
FROM_SCRATCH = 0.85  # `rewind` towards random weights, which know nothing to go back to


@dataclass(kw_only=True)
class SurrogateDistillation(UnlearningMethod):
    """Go back towards the base, and teach the model what one that never saw the forget rows says. Ours; there is no paper.

    θ_b is the base from which the original θ₀ was fine-tuned, f₀ the original without the forgotten classes, and q₁ … q₁₅ the
    outputs of linear probes on five blocks of the frozen base (mean, maximum and first token of each), taught with retain rows
    alone. Start at θ_b + a (θ₀ − θ_b), and minimize

        CE(retain) + μ KL(t(x) ‖ f_θ(x)) over forget x,    t ∝ (q^σ f₀)^τ,    q ∝ (q₁ ⋯ q₁₅)^(1/15)

    No single block is best for all data, and probes and original err in different ways, so t is a geometric mean. σ makes q as
    confident on retain rows that the probes were not taught (by cross-validation) as f₀ is on unseen rows of kept classes. τ ≥ 1
    makes t as confident as f₀ is there, less a tenth, because a retrained model is a little less sure of a class that it lacks.
    A forgotten class is as unlikely in t as the original finds it on retain rows, and its row in the last layer is drawn anew and
    moved until it gives that: with a logit of −∞ the class would be relearned more slowly than it should.

    The start is not one share of the way for all weights, if training began at a known base. A linear layer keeps what training
    taught it of the directions that retain rows have, and goes back in those that forget rows have more of (`components.rewinding`).
    So retain rows are answered nearly as before, and little of the class is left in the features, before a single step is made.
    All other weights start at θ_b + a (θ₀ − θ_b). An original that was trained as an adapter starts with a share a of that adapter.

    Rewinding takes back what the forget rows shaped, and the model then learns anew from retain rows. The targets keep outputs
    and features on forget rows from going back to the original's. Where all weights go back by one share, a smaller μ brings outputs
    nearer to retrained models, but features can stay the original's.

    For single rows nothing is rewound, which would cost accuracy on retain rows, and with ℓ the log-odds of a row's label

        CE(retain) + μ Huber(ℓ_θ(x) − ℓ*(x)) over forget x

    ℓ*(x) are the log-odds that f₀ gives the labels of held-out rows of the same class, and each forget row gets the one of its
    rank. Held-out rows show nothing about a group of its own, such as all questions for a date in a class of numbers. If the
    probes answer forget rows much worse than retain rows of the same classes, which they were not taught either, then the rows
    are such a group. They are forgotten as a class is, with t ∝ q^τ, and retain rows show what is kept.
    An attack on membership reads the log-odds of rows that are all but sure, which a divergence of probabilities leaves.
    There is no dropout for single rows, because f₀ answers without it.

    `term` adds what another method minimizes to forget, with that method's own weight, as the information of IT-reg between outputs
    and membership in the data.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | inputs, labels | 1, and those of `term` | none; the base, before the first step |

    AdamW's rate is a share of the root mean square by which fine-tuning moved a weight, so that the steps fit a model that was
    moved a little as well as one that was moved far. For a model that was trained from scratch, random weights are the base.

    Use it for a class or for single rows if the retain set is at hand. Do not use it without one.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=SurrogateDistillation(),
                                    forget_dataset=split.forget, retain_dataset=split.retain, base_model="org/base")
        ```
    """

    name: ClassVar[str] = "surrogate_distillation"
    needs_retain: ClassVar[bool] = True
    reads_held_out: ClassVar[bool] = True
    reads_base: ClassVar[bool] = True
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "it compares whole weights with those of the base",
        "deepspeed": "it compares whole weights with those of the base",
    }
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"forget_weight": (0.1, 3.0)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **ALL_WEIGHTS,
        "check_steps": 1_000_000,  # the start loses accuracy, which the steps bring back, so only the end is checked
        # It learns the retain rows anew, and reads each less often than the training did that knows them by heart.
        "max_retain_drop": 0.15,
        "per_device_train_batch_size": 4,
        "retain_per_forget": 4,
    }

    rewind: float | None = setting(
        None,
        "Share a of the way from the base to the original at which weights start that do not go back by direction. None: 0.25 for a "
        "class, and 0.5 without a `contrast`; for single rows 1, or 0.7 without labelled held-out rows; 0.85 if training started "
        "from random weights. 1: no rewinding.",
    )
    contrast: float | None = setting(
        None,
        "How strongly linear layers go back in directions that forget rows have more of than retain rows. 0: they go back by the "
        "share `rewind`, as all other weights do. None: 16 for a class if the base is known and `rewind` is not given, 0 otherwise.",
    )
    rate: float | None = setting(
        None,
        "Learning rate as a share of the root mean square by which training moved a weight. None: 0.07 with a `contrast`, 0.12 "
        "without. Where that is not known, 0.12 stands for a usual rate.",
    )
    passes: float | None = setting(
        None,
        "Passes over the retain set, unless `max_steps` or `num_train_epochs` say how long to run. None: 0.75 for a class and "
        "0.5 for single rows, or 1 if the original was trained as an adapter or from random weights, which takes more passes.",
    )
    forget_weight: float | None = setting(
        None, "Weight μ of the distance from the targets on forget rows. None: 1 with a `contrast`, 0.3 without."
    )
    term: UnlearningMethod | str | None = setting(  # noqa: RUF009
        None,
        "Method whose forgetting term is added to the loss, such as `marginal_information` or `jit`: an instance, or a key of the "
        "table (with default settings).",
    )
    caution: float = setting(0.9, "Confidence on forget rows, as a share of the original's confidence on unseen rows.")

    def __post_init__(self) -> None:
        if self.rewind is not None and not 0 <= self.rewind <= 1:
            raise ValueError(f"`rewind` is a share of the way from the base, in [0, 1], got {self.rewind}.")
        for name in ("forget_weight", "contrast"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must not be negative, got {value}. 0 turns it off.")
        check_positive(self, "rate", "passes", "caution")
        self.term = None if self.term is None else _forgetting(self.term)
        self._term: UnlearningMethod = UnlearningMethod() if self.term is None else self.term
        vars(self).update(backends=self.backends & self._term.backends)

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        return {**self.arguments, **FOR_ROWS} if kind == "samples" else self.arguments

    def moves_statistics(self) -> bool:
        return True

    def default_steps(
        self, retain_rows: int | None, retain_batch: int, trained: str = "base", kind: str = "class"
    ) -> int | None:
        usual = PASSES_FOR_ROWS if trained == "base" and kind == "samples" else PASSES[trained]
        passes = usual if self.passes is None else self.passes
        wanted = MOST_STEPS if retain_rows is None else math.ceil(passes * retain_rows / retain_batch)
        return min(max(wanted, FEWEST_STEPS), MOST_STEPS)

    def reads_labels(self, side: str) -> bool:
        return super().reads_labels(side) or self._term.reads_labels(side)

    def describe(self) -> dict[str, Any]:
        """Return a JSON-ready description, with the method of `term` described too."""
        return super().describe() | {"term": None if self.term is None else self._term.describe()}

    def setup(self, run: UnlearningRun) -> None:
        self._term.setup(run)  # while the model is the original
        start, reference = run.starting_point(), run.reference
        if not reference.kept_classes:
            raise ValueError("`forget_class` names every class of the head, so none is left to answer with.")
        if start is None and not is_adapted(run.model):
            logger.warning(
                "It is not known what the original was fine-tuned from, so nothing is rewound, and the middle of the original stands "
                "in for the base. Name the base (`base_model`), or 'none' if the training started from random weights."
            )
        # Both are drawn from the whole set, whose rows may lie in order of their classes.
        kept, few = (
            PreparedRows(draw(run.retain_dataset, count, run.args.seed), run.processor, "retain_dataset")
            for count in (TAUGHT_ROWS, ROWS)
        )
        held_out = run.monitor.held_out_answers(UNSEEN_ROWS)
        if reference.forgotten_classes:
            before, _ = predict(run.model, few, run.processor, run.args.eval_batch_size)
            self._targets = self._for_classes(run, start, kept, before, held_out)
        else:
            self._labels = reference.predictions if reference.labels is None else reference.labels
            grouped = self._for_group(run, start, kept, few, held_out)
            self._targets = _for_rows(reference.logits, self._labels, held_out) if grouped is None else grouped
        learned = learned_by_training(run, start)
        length = root_mean_square(learned.values())
        self._idle = list(learned) if length == 0 else []
        if self._idle:
            logger.warning(
                "Training moved nothing but the head of the original, so nothing below it knows the rows to forget, and only the "
                "head is changed."
            )
        contrast = self._contrast(run, start)
        usual = BY_DIRECTION if contrast else BY_SHARE
        self._weight = usual["forget_weight"] if self.forget_weight is None else self.forget_weight
        rate = usual["rate"] if self.rate is None else self.rate
        self._found_rate = fitting_rate(run, start, length, rate, usual["rate"])
        if not self._idle:
            rewind(run, learned, self._share(start, reference, held_out, usual["rewind"]), kept, contrast)
        if reference.forgotten_classes:
            renew_head_rows(run, few, before)
        run.monitor.model_changed()

    def _contrast(self, run: UnlearningRun, start: StartingPoint | None) -> float:
        """The λ with which linear layers go back by direction; 0 if all weights go back by one share."""
        if self.contrast is not None:
            return self.contrast
        # An adapter that the original was trained with goes back by one share: by direction it ended no nearer, for more passes.
        known = start is not None and start.pretrained and run.patch is None and not is_adapted(run.model)
        return CONTRAST if known and self._targets.ndim == 2 and self.rewind is None else 0.0

    def _share(self, start: StartingPoint | None, reference: Reference, held_out: Any, usual: float) -> float:
        """The share a of the way from the starting point to the original; `usual` for a class whose base is known."""
        if self.rewind is not None:
            return self.rewind
        if start is not None and not start.pretrained:
            return FROM_SCRATCH
        if self._targets.ndim == 2:
            return usual
        return SAMPLES if held_out is None else 1.0

    def _for_classes(
        self,
        run: UnlearningRun,
        start: StartingPoint | None,
        kept: PreparedRows,
        before: Tensor,
        held_out: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Return targets (n, classes) for rows of forgotten classes. `before` are the original's logits on retain rows."""
        reference, gone = run.reference, list(run.reference.forgotten_classes)
        unseen = before if held_out is None else held_out[0][~torch.isin(held_out[1], torch.tensor(gone))]
        sure = mean_confidence(reference.struck_out(unseen if len(unseen) else before).softmax(-1))
        believed = reference.struck_out(reference.logits).softmax(-1)
        asked = self._opinions(run, start, kept, run.forget_rows)
        if asked is not None:
            said, unseen, _ = asked
            said = power(said, sharpness(unseen, sure))
            believed = geometric_mean([said, believed])
        targets = sharpened(believed, self.caution * sure)
        unlikely = before.softmax(-1)[:, gone].clamp_min(LEAST).log().mean(0).exp()
        targets[:, gone] = 0
        targets *= (1 - unlikely.sum()) / targets.sum(-1, keepdim=True)
        targets[:, gone] = unlikely
        return targets

    def _for_group(
        self,
        run: UnlearningRun,
        start: StartingPoint | None,
        kept: PreparedRows,
        few: PreparedRows,
        held_out: tuple[Tensor, Tensor] | None,
    ) -> Tensor | None:
        """Return targets (n, classes) for single rows that are a group of their own; None if they are like others of their classes."""
        rows = run.forget_rows
        drawn = np.linspace(0, len(rows) - 1, min(ASKED_ROWS, len(rows))).astype(int)
        if start is None or (asked := self._opinions(run, start, kept, DrawnRows(rows, drawn))) is None:
            return None
        said, unseen, labels = asked
        found, expected, error = accuracies(said, self._labels[drawn], unseen, labels)
        if not expected - found > max(GROUP, 3 * error):
            return None
        logger.warning(
            "Probes that never saw the rows to forget answer %.0f%% of them as they are labelled, and %.0f%% of such rows that are "
            "kept. So they are a group of their own, which is forgotten as a class would be.",
            100 * found,
            100 * expected,
        )
        run.monitor.judge_by_retain_rows()  # held-out rows may be of the group too
        if len(drawn) < len(rows):
            asked = self._opinions(run, start, kept, rows)
            assert asked is not None
        told = held_out or predict(run.model, few, run.processor, run.args.eval_batch_size)
        sure = mean_confidence(told[0].softmax(-1))
        return sharpened(power(asked[0], sharpness(asked[1], sure)), self.caution * sure)

    def _opinions(
        self, run: UnlearningRun, start: StartingPoint | None, kept: PreparedRows, rows: Any
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return what probes say of `rows` and of retain rows that they were not taught, and labels of these; None without labels."""
        # Random weights never saw the rows either. Without both, the middle of the original stands in, which training moved less
        # than the end.
        witness, depths = (run.model, (0.5,)) if start is None else (start.model.to(run.args.device), DEPTHS)
        features, labels = read_features(run, witness, kept, depths)
        about, _ = read_features(run, witness, rows, depths)
        if labels is None or len(labels.unique()) < 2:
            return None
        classes = run.reference.logits.shape[-1]
        pairs = zip(features, about, strict=True)
        opinions = [probe_opinions(x, labels, others, classes, run.args.seed) for x, others in pairs]
        said, unseen = (geometric_mean(of) for of in zip(*opinions, strict=True))
        return said, unseen, labels

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        index = batch["index"].cpu()
        targets = self._targets[index]
        single = targets.ndim == 1  # log-odds of single rows; probabilities for a class
        # One forward for both, so that BatchNorm sees what it will see, and not the forget rows alone. Single rows are moved by
        # little, and less than by what dropout adds, without which their targets were found.
        with eval_mode(model) if single and not has_batch_norm(model) else nullcontext():
            kept, gone = joint_logits(model, batch)
        targets = targets.to(gone.device)
        if single:
            apart = F.smooth_l1_loss(log_odds(gone, self._labels[index].to(gone.device)), targets)
        else:
            apart = kl_to_target(targets, gone)
        terms = {"retain": F.cross_entropy(kept, batch["retain"]["labels"]), "forget": self._weight * apart}
        if self.term is not None:
            others = self._term.loss(model, batch, reference)
            terms |= {f"{self._term.name}/{name}": value for name, value in others.items() if name != "retain"}
        return terms

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        self._term.before_step(model, batches)

    def adjust_gradients(self, model: nn.Module) -> None:
        """Leave alone what training never moved, if it moved nothing but the head."""
        self._term.adjust_gradients(model)
        if self._idle:
            parameters = dict(unwrap(model).named_parameters())
            for name in self._idle:
                parameters[name].grad = None

    def state(self) -> dict[str, Any]:
        return {"term": self._term.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._term.load_state(state["term"])


def _forgetting(given: UnlearningMethod | str) -> UnlearningMethod:
    """Return the method of the setting `term`, if its loss has a term that forgets rows."""
    with renamed({"method": "term"}):
        method = find_method(given)
    plain = type(method).after_step is UnlearningMethod.after_step and not (method.needs_column or method.anchors)
    if method.one_shot or method.starts_fresh or method.reads_base or not (method.needs_forget and plain):
        raise ValueError(
            f"`term={method.name!r}` has no term of a loss over forget rows that could be added. Use 'marginal_information', 'jit' or "
            "'gradient_ascent'."
        )
    return method


def _for_rows(logits: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return log-odds of the labels (n,) for single rows; the original's if there are no held-out rows to compare with."""
    own = log_odds(logits, labels)
    if held_out is None:
        logger.warning(
            "Without labelled held-out rows (`eval_dataset`) it is not known how sure a retrained model would be of the rows to "
            "forget, so only rewinding forgets them."
        )
        return own
    return as_unseen(own, labels, log_odds(*held_out), held_out[1])
