"""SCRUB: a student that obeys its teacher on retain rows, and disobeys on forget rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import classify, model_inputs
from ..models.reference import FrozenOriginal, Reference
from ..utils.argument_checks import check_counts, check_positive
from .base import Paper, setting
from .baseline import Baseline
from .components.losses import kl_to_target
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class Scrub(Baseline):
    """Go away from the original on forget rows, and stay near it on retain rows (Kurmanji et al., arXiv 2302.09880, eq. 3).

    With K(x) = T² KL(softmax(f₀(x)/T) ‖ softmax(f_θ(x)/T)), steps of two kinds take turns:

        max_θ E_{D_f} K(x)        and        min_θ E_{D_r} γ CE(f_θ(x), y) + α K(x)

    The run has `rounds`. In each of the first `ascent_rounds`, a share `ascent` of the steps climbs, and then the others descend.
    The authors' code takes a pass over the forget set and a pass over the retain set in each of its epochs, for which fine-tuning
    has no time. Their loss is the paper's, and so are γ, α and T of their setting for single rows.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | inputs, labels | 1; 1 more of the original in steps that descend | one copy of the model |

    Use it as a baseline that reaches the features of a class. Do not raise the number of climbing steps without a look at kept
    accuracy: the ascent has no bound, and rate and forget batch decide everything.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=Scrub(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "scrub"
    paper: ClassVar[Paper | None] = Paper("Towards Unbounded Machine Unlearning", "2302.09880")
    needs_labels: ClassVar[bool] = False
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"ascent": (0.05, 0.5)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **Baseline.arguments,
        "per_device_train_batch_size": 16,
        "retain_per_forget": 1,
    }

    gamma: float = setting(1.0, "Weight γ of the cross-entropy on retain rows.")
    alpha: float = setting(0.5, "Weight α of the distance from the original on retain rows.")
    temperature: float = setting(4.0, "Temperature T at which outputs are compared.")
    rounds: int = setting(4, "Rounds into which the run is divided.")
    ascent_rounds: int = setting(2, "Rounds, from the first on, that begin with steps that climb.")
    ascent: float = setting(0.2, "Share of the steps of such a round that climb, in (0, 1).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "rounds", "ascent_rounds")
        check_positive(self, "gamma", "alpha", "temperature")
        if not 0 < self.ascent < 1:
            raise ValueError(f"`ascent` is a share of the steps of a round, in (0, 1), got {self.ascent}.")
        if self.ascent_rounds >= self.rounds:
            raise ValueError(
                f"`ascent_rounds={self.ascent_rounds}` leaves none of `rounds={self.rounds}` to descend alone, and the run would end "
                "soon after it climbed. Take fewer."
            )

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        self._original = FrozenOriginal(run.model, run.patch)

    def climbs(self, step: int, steps: int) -> bool:
        """Return True if `step`, counted from 0, of `steps` goes away from the original."""
        place = step * self.rounds / steps  # the round, and the share of it that is done
        return place < self.ascent_rounds and place % 1 < self.ascent

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        if self.climbs(self._steps - 1, self._all_steps):
            logits = classify(model, model_inputs(batch["forget"])).float()
            return {"forget": -self.distance(reference.logits[batch["index"].cpu()].to(logits.device), logits)}
        inputs = model_inputs(batch["retain"])
        logits = classify(model, inputs).float()
        return {
            "retain": self.gamma * F.cross_entropy(logits, batch["retain"]["labels"]),
            "teacher": self.alpha * self.distance(self._original.logits(inputs), logits),
        }

    def distance(self, before: Tensor, logits: Tensor) -> Tensor:
        """Return the mean of K over rows, from the original's logits (B, classes) to the model's."""
        t = self.temperature
        return t**2 * kl_to_target((before / t).softmax(-1), logits / t)
