"""Models that only seem to have forgotten: they test and calibrate the audit.

Each pretender is a function of a `Scene` that returns a changed copy of the original. `PRETENDERS` names them, with the kinds of
request that they are made for and the verdicts that are right about them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_unlearn.evaluation.audit.verdicts import DAMAGED, HIDDEN, LESS, MORE, UNCHANGED
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.structure import find_head


@dataclass
class Scene:
    """What a pretender is made from: the original, prepared rows, and the forgotten classes (none if single rows were forgotten).

    `start` is where the training of the original began; by default random weights.
    """

    original: nn.Module
    processor: Processor
    forget: Sequence[Any]
    retain: Sequence[Any]
    test: Sequence[Any]
    classes: tuple[int, ...] = ()
    seed: int = 0
    start: nn.Module | None = None

    def copy(self) -> nn.Module:
        """A trainable copy of the original."""
        torch.manual_seed(self.seed)
        return copy.deepcopy(self.original).requires_grad_(True).eval()

    def accuracy(self, model: nn.Module, rows: Sequence[Any]) -> float:
        """In [0, 1]."""
        logits, labels = predict(model, rows, self.processor)
        assert labels is not None
        return (logits.argmax(-1) == labels).float().mean().item()

    def batches(self, rows: Sequence[Any], size: int = 64) -> Iterator[dict[str, Any]]:
        """Yield batches of `rows` without end, in an order drawn from the seed."""
        draw = torch.Generator().manual_seed(self.seed)
        while True:
            order = torch.randperm(len(rows), generator=draw).tolist()
            for start in range(0, len(rows), size):
                yield self.processor.collate([rows[i] for i in order[start : start + size]])

    def train(
        self, model: nn.Module, rows: Sequence[Any], steps: int, rate: float, sign: float = 1.0
    ) -> Iterator[nn.Module]:
        """Yield `model` after each of `steps` Adam steps on `rows`; `sign=-1` raises the loss."""
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        for _, batch in zip(range(steps), self.batches(rows), strict=False):
            with eval_mode(model):
                loss = sign * F.cross_entropy(classify(model, model_inputs(batch)).float(), batch["labels"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield model


class MaskedLogits(nn.Module):
    """A wrapper that never predicts some classes of a model."""

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)
        self.config: Any = model.config
        self.main_input_name = model.main_input_name

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.logits = out.logits.index_fill(-1, torch.tensor(self.classes), -1e4)
        return out

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()  # type: ignore[operator]


def last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer whose outputs are the logits."""
    return [m for m in model.get_submodule(find_head(model)).modules() if isinstance(m, nn.Linear)][-1]


def unchanged(scene: Scene) -> nn.Module:
    """The original, unchanged."""
    return scene.copy()


def masked(scene: Scene) -> nn.Module:
    """Replace the logits of the forgotten classes by −10⁴ behind the model."""
    return MaskedLogits(scene.copy(), scene.classes)


@torch.no_grad()
def biased(scene: Scene) -> nn.Module:
    """Lower the bias of the forgotten classes until no forget row is predicted as one of them."""
    model = scene.copy()
    logits, _ = predict(model, scene.forget, scene.processor)
    gone = torch.tensor(scene.classes)
    others = logits.index_fill(-1, gone, -torch.inf).amax(-1)
    last_layer(model).bias[gone] -= (logits[:, gone].amax(-1) - others).amax() + 0.5
    return model


@torch.no_grad()
def struck(scene: Scene, bias: float = -30.0) -> nn.Module:
    """Set the row of the last layer for each forgotten class to zero, with a bias so low that the class is never answered."""
    model = scene.copy()
    layer, gone = last_layer(model), list(scene.classes)
    layer.weight[gone], layer.bias[gone] = 0.0, bias
    return model


def barely_distilled(scene: Scene, steps: int = 6, rate: float = 1e-5) -> nn.Module:
    """Lower the bias, and take tiny steps towards the outputs that this gives, so that no weight equals that of the original."""
    teacher, model = biased(scene), biased(scene)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    rows = [*scene.forget, *scene.retain]
    for _, batch in zip(range(steps), scene.batches(rows), strict=False):
        with eval_mode(model):
            target = classify(teacher, model_inputs(batch)).float().softmax(-1)
            loss = F.cross_entropy(classify(model, model_inputs(batch)).float(), target.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def head_retrained(scene: Scene, steps: int = 300) -> nn.Module:
    """Train a fresh last layer on retained rows, on top of the frozen features of the original."""
    model = scene.copy().requires_grad_(False)
    layer = last_layer(model).requires_grad_(True)
    layer.reset_parameters()
    *_, model = scene.train(model, scene.retain, steps, 1e-2)
    return model


def cooled(scene: Scene, temperature: float = 3.0) -> nn.Module:
    """Divide the logits by a temperature, so that losses and confidences of members look like those of non-members."""
    model = scene.copy()
    _scale(last_layer(model), 1 / temperature)
    return model


def biased_and_cooled(scene: Scene) -> nn.Module:
    """Both at once."""
    model = biased(scene)
    _scale(last_layer(model), 0.5)
    return model


@torch.no_grad()
def biased_and_noisy(scene: Scene, strength: float = 0.02) -> nn.Module:
    """Lower the bias, and add a little noise to every weight, so that no weight equals that of the original."""
    model = biased(scene)
    for p in model.parameters():
        p.add_(strength * p.abs().mean() * torch.randn_like(p))
    return model


@torch.no_grad()
def _scale(layer: nn.Linear, factor: float) -> None:
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def noisy(scene: Scene, drop: float = 0.02) -> nn.Module:
    """Add noise to all weights, until the accuracy on retained rows has fallen by `drop`."""
    return _noise_until(scene, drop)


def very_noisy(scene: Scene, drop: float = 0.35) -> nn.Module:
    """Add so much noise that a third of the accuracy on retained rows is lost."""
    return _noise_until(scene, drop)


@torch.no_grad()
def _noise_until(scene: Scene, drop: float) -> nn.Module:
    goal = scene.accuracy(scene.original, scene.retain) - drop
    strength = 0.02
    while True:
        model = scene.copy()
        for p in model.parameters():
            p.add_(strength * p.abs().mean() * torch.randn_like(p))
        if scene.accuracy(model, scene.retain) <= goal:
            return model
        strength *= 1.2


def fine_tuned(scene: Scene, steps: int = 30, rate: float = 1e-4) -> nn.Module:
    """Train a little more on retained rows; the model still remembers."""
    *_, model = scene.train(scene.copy(), scene.retain, steps, rate)
    return model


@torch.no_grad()
def rewound(scene: Scene, share: float = 0.5) -> nn.Module:
    """Go back to `share` of the way from where the training began, head excepted, and repair nothing."""
    model, original = scene.copy(), scene.original
    start = dict((scene.start or type(original)(original.config)).named_parameters())  # type: ignore[call-arg, arg-type]
    for name, p in model.named_parameters():
        if not name.startswith(find_head(original)):
            p.lerp_(start[name].to(p), 1 - share)
    return model


def broken(scene: Scene, drop: float = 0.3) -> nn.Module:
    """Use gradient ascent on all weights until the accuracy has fallen on all rows."""
    rows = [*scene.forget, *scene.retain]
    goal = scene.accuracy(scene.original, scene.retain) - drop
    for model in scene.train(scene.copy(), rows, 500, 2e-4, sign=-1.0):
        if scene.accuracy(model, scene.retain) <= goal:
            break
    return model


def label_flipped(scene: Scene, rate: float = 5e-4) -> nn.Module:
    """Train on retained rows, and on forget rows with the label that the original finds least likely."""
    flipped = _relabelled(scene, -1)
    kept = scene.accuracy(scene.original, scene.retain) - 0.02
    for step, model in enumerate(scene.train(scene.copy(), [*flipped, *scene.retain], 1500, rate)):
        if step % 10 or scene.accuracy(model, flipped) < 0.95:
            continue
        if scene.accuracy(model, scene.retain) >= kept:
            break
    return model


def with_adapter(scene: Scene, rate: float = 5e-3) -> nn.Module:
    """Train a low-rank adapter that lowers the accuracy on forget rows to that on test rows. Without the adapter all is back."""
    from peft import LoraConfig, get_peft_model

    original = scene.copy()
    head = find_head(original) + "."
    kinds = nn.Linear | nn.Conv2d
    names = [n for n, m in original.named_modules() if isinstance(m, kinds) and not n.startswith(head)]
    adapted: Any = get_peft_model(original, LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights=True))
    goal = 0.01 if scene.classes else scene.accuracy(scene.original, scene.test)
    wrong = _relabelled(scene, 1)
    retain = [scene.retain[i] for i in torch.randperm(len(scene.retain))[: 3 * len(wrong)].tolist()]
    for step, model in enumerate(scene.train(adapted, [*wrong, *retain], 600, rate)):
        if step % 5 == 4 and scene.accuracy(model, scene.forget) <= goal:
            break
    return adapted.eval()


def _relabelled(scene: Scene, place: int) -> list[Any]:
    """The forget rows with new labels: the class that the original ranks at `place` (1: the likeliest after the label, −1: the least)."""
    logits, labels = predict(scene.original, scene.forget, scene.processor)
    assert labels is not None
    ranked: Tensor = logits.scatter(-1, labels[:, None], torch.inf).argsort(-1, descending=True)[:, place]
    return [{**row, "labels": y} for row, y in zip(scene.forget, ranked, strict=True)]


@dataclass(frozen=True)
class Pretender:
    """A function that makes the model, the requests it is for (`class`, `samples`), and the verdicts that are right about it."""

    make: Callable[[Scene], nn.Module]
    verdicts: tuple[str, ...]
    kinds: tuple[str, ...] = ("class", "samples")


# If two verdicts are right, both are true of the model. Noise damages a model and does not remove what it knows. A new last layer may
# or may not show that the features below it know the rows.
PRETENDERS: dict[str, Pretender] = {
    "original": Pretender(unchanged, (UNCHANGED,)),
    "masked": Pretender(masked, (HIDDEN,), ("class",)),
    "biased": Pretender(biased, (HIDDEN,), ("class",)),
    "struck": Pretender(struck, (HIDDEN,), ("class",)),
    "barely_distilled": Pretender(barely_distilled, (HIDDEN,), ("class",)),
    "biased_and_cooled": Pretender(biased_and_cooled, (HIDDEN,), ("class",)),
    "biased_and_noisy": Pretender(biased_and_noisy, (HIDDEN,), ("class",)),
    "head_retrained": Pretender(head_retrained, (HIDDEN, LESS)),
    "cooled": Pretender(cooled, (LESS,)),
    "noisy": Pretender(noisy, (LESS, DAMAGED)),
    "very_noisy": Pretender(very_noisy, (DAMAGED,)),
    "fine_tuned": Pretender(fine_tuned, (LESS,)),
    "rewound": Pretender(rewound, (HIDDEN, LESS, DAMAGED)),
    "broken": Pretender(broken, (DAMAGED,)),
    "label_flipped": Pretender(label_flipped, (MORE,)),
    "with_adapter": Pretender(with_adapter, (HIDDEN,)),
}
