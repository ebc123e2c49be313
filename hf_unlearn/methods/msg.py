"""MSG: weights that separate forget from retain rows least are drawn anew, and the retain set repairs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..data.sampling import draw
from ..models.base import StartingPoint
from ..models.forward import classify_by_length, model_inputs, unwrap
from ..models.reference import Reference
from .base import Paper, setting
from .baseline import Baseline
from .components.influence import Sample, mean_gradients
from .protocols import UnlearningRun

RESETS = ("gradient", "transpose", "noise")


@dataclass(kw_only=True)
class MSG(Baseline):
    """Reset some weights, and train on the retain set, the others at a tenth of the rate (second of the NeurIPS 2023 challenge).

    With g = ∇ E_{D_r} CE(f_θ₀(x), y) − ∇ E_{D_f} CE(f_θ₀(x), y), over as many retain as forget rows, the share r of the weights of
    each layer with the smallest |g| is drawn anew, and then

        min_θ  E_{D_r} CE(f_θ(x), y)

    The challenge had convolutions. Here linear layers count too, embeddings and norms do not. A weight is drawn anew from where
    training began: it takes the value of the base if that is known, and otherwise one from a normal distribution with the standard
    deviation of its layer. Two relatives differ in what is reset: `reset="transpose"` turns the two axes of every kernel of a
    convolution around (CT, of the same challenge), `reset="noise"` adds noise to all weights (weight distortion, arXiv 2505.22310).

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 | one copy of the weights and one bit for each |

    Use it as a baseline for single rows, for which it is among the best published. Do not use it where no pass over the retain set
    is affordable: the reset costs accuracy, which only training brings back.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=MSG(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "msg"
    paper: ClassVar[Paper | None] = Paper(
        "Are we making progress in unlearning? Findings from the first NeurIPS unlearning competition", "2406.09073"
    )
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"share": (0.03, 0.6)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **Baseline.arguments,
        "check_steps": 1_000_000,  # the reset loses accuracy, which the steps bring back, so only the end is checked
        "max_retain_drop": 0.15,
    }

    reset: str = setting("gradient", "What is reset: `gradient` (MSG), `transpose` (CT, for convolutions) or `noise`.")
    share: float = setting(0.3, "Share r of the weights of a layer that `gradient` resets, in (0, 1).")
    noise: float = setting(0.3, "Standard deviation of `noise`, as a share of that of the layer's weights.")
    others: float = setting(
        0.1, "Rate of the weights that were not reset by `gradient`, as a share of the learning rate."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in RESETS:
            raise ValueError(f"`reset={self.reset!r}` is not one of {', '.join(map(repr, RESETS))}.")
        if not 0 < self.share < 1:
            raise ValueError(f"`share` is a share of the weights, in (0, 1), got {self.share}.")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        layers = resettable(run.model)
        self._slow: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        if self.reset == "gradient":
            self._reset_by_gradient(run, layers, start)
        elif self.reset == "transpose":
            _transpose(run, layers)
        else:
            _distort(run, layers, self.noise)
        run.monitor.model_changed()

    @torch.no_grad()
    def _reset_by_gradient(self, run: UnlearningRun, layers: Mapping[str, Tensor], start: StartingPoint | None) -> None:
        with torch.enable_grad():
            gradients = difference_of_gradients(run, list(layers))
        fresh = first_values(start, layers, run.args.seed)
        for name, weight in layers.items():
            count = max(1, round(self.share * weight.numel()))
            most = gradients[name].abs().flatten().kthvalue(count).values
            chosen = gradients[name].abs() <= most
            weight.copy_(torch.where(chosen, fresh[name].to(weight), weight))
            self._slow[name] = ~chosen

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        logits = classify_by_length(model, model_inputs(batch["retain"])).float()
        return {"retain": F.cross_entropy(logits, batch["retain"]["labels"])}

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        super().before_step(model, batches)
        moving = {n: p for n, p in unwrap(model).named_parameters() if p.requires_grad} if self._slow else {}
        self._before = {n: p.detach().clone() for n, p in moving.items()}

    @torch.no_grad()
    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        """Take back most of the step of weights that were not reset: AdamW does not see the size of a gradient."""
        for name, parameter in unwrap(model).named_parameters():
            if name in self._before:
                slower = self._before[name].lerp(parameter, self.others)
                mask = self._slow.get(name)
                parameter.copy_(slower if mask is None else torch.where(mask, slower, parameter))


def resettable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of linear layers and convolutions that may move, by name."""
    found = {}
    for name, module in unwrap(model).named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.weight.requires_grad:
            found[f"{name}.weight"] = module.weight
    if not found:
        raise ValueError(
            "`method='msg'` resets weights of linear layers and convolutions, and `update` lets none of them move."
        )
    return found


def difference_of_gradients(run: UnlearningRun, names: list[str]) -> dict[str, Tensor]:
    """Return for each parameter the gradient of the mean loss of retain rows less that of forget rows, over as many of each."""
    few = PreparedRows(draw(run.retain_dataset, len(run.forget_rows), run.args.seed), run.processor, "retain_dataset")
    kept, gone = (
        mean_gradients(run.model, names, Sample(rows, run.processor.collate, cap=len(rows)))
        for rows in (few, run.forget_rows)
    )
    return {name: kept[name] - gone[name] for name in names}


def first_values(start: StartingPoint | None, layers: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the values at which training began, where the base tells them, and values drawn like the present ones elsewhere."""
    known = (
        {}
        if start is None or not start.pretrained
        else {n: p for n, p in start.model.named_parameters() if n in start.shared}
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: spread(p) * torch.randn(p.shape, generator=generator) for n, p in layers.items()}
    return {n: known[n].detach() if n in known else value for n, value in drawn.items()}


def spread(weight: Tensor) -> float:
    """Return the standard deviation of the weights of a layer; 1 for a single one."""
    return float(weight.detach().float().std()) if weight.numel() > 1 else 1.0


@torch.no_grad()
def _transpose(run: UnlearningRun, layers: Mapping[str, Tensor]) -> None:
    kernels = [p for p in layers.values() if p.ndim == 4 and p.shape[-1] == p.shape[-2] > 1]
    if len(kernels) < 2:  # a transformer has one, which cuts the image into patches
        raise ValueError(
            "`reset='transpose'` turns the kernels of convolutions around, and this model has no more than one. Use "
            "`reset='gradient'`."
        )
    for kernel in kernels:
        kernel.copy_(kernel.transpose(-1, -2).clone())


@torch.no_grad()
def _distort(run: UnlearningRun, layers: Mapping[str, Tensor], noise: float) -> None:
    generator = torch.Generator().manual_seed(run.args.seed)
    for weight in layers.values():
        weight.add_(noise * spread(weight) * torch.randn(weight.shape, generator=generator).to(weight))
