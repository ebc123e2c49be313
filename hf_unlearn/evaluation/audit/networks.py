"""Compare the weights of a model with the original's: which network it is, how much of it is unchanged, and how far others lie."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.forward import unwrap
from ...models.structure import find_head

WRAPPERS = re.compile(
    r"(base_model\.model|base_layer|original_module|modules_to_save\.default)\."
)  # added to names by PEFT
ADAPTED = re.compile(r"\.(lora|vera|loha|lokr|hada|oft|ia3|boft|randlora|fourierft|hra|ln_tuning|adalora)_")
SAMPLE = 65_536  # weights that tell how far models lie from each other


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, without what PEFT adds to names."""
    return {WRAPPERS.sub("", n): p.detach() for n, p in unwrap(model).named_parameters()}


def _name_in(parameters: dict[str, Tensor], name: str) -> str | None:
    """Return the name that a parameter of the original has among those of another model, which may lie in a wrapper."""
    return name if name in parameters else next((n for n in parameters if n.endswith("." + name)), None)


def counterparts(model: nn.Module, original: nn.Module) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield the name of each parameter of the original, the parameter, and that of `model`; None where it has none."""
    theirs = _parameters(model)
    for name, own in _parameters(original).items():
        found = _name_in(theirs, name)
        yield name, own, None if found is None else theirs[found]


def network_difference(model: nn.Module, original: nn.Module) -> str:
    """Return in words how the network of `model` differs from the original's, adapters apart; "" if it does not."""
    configs: list[Any] = [unwrap(m).config for m in (model, original)]
    theirs, ours = (config.model_type for config in configs)
    if theirs != ours:
        return f"it is of the type {theirs}, and the original of the type {ours}"
    for name, own, other in counterparts(model, original):
        if ADAPTED.search(name):
            continue
        if other is None:
            return f"it lacks {name}, which the original has"
        if other.shape != own.shape:
            return f"its {name} has the shape {tuple(other.shape)}, and the original's {tuple(own.shape)}"
    parameters = _parameters(model)
    known = {_name_in(parameters, name) for name in _parameters(original)}
    more = [name for name in parameters if name not in known and not ADAPTED.search(name)]
    return f"it has weights that the original has not, such as {more[0]}" if more else ""


def _learned(original: nn.Module) -> set[str]:
    """Return the names of the parameters that training may have moved: those of its adapters, if the original has any."""
    names = _parameters(original).keys()
    return {name for name in names if ADAPTED.search(name)} or set(names)


def unchanged_share(model: nn.Module, original: nn.Module) -> float:
    """Return the share of what the original learned outside its head that is bit-equal in `model`, in [0, 1].

    That is the adapters of an original that was trained as an adapter, and all parameters of any other.
    """
    head, learned = find_head(original) + ".", _learned(original)
    same = total = 0
    for name, own, other in counterparts(model, original):
        if name in learned and not name.startswith(head):
            total += own.numel()
            if other is not None and other.shape == own.shape:
                same += int((other.cpu() == own.cpu()).sum())
    return same / max(total, 1)


def sampled_weights(model: nn.Module, original: nn.Module, seed: int) -> Tensor | None:
    """Return some weights of `model` (n,), the same ones of every model; None if it is another network than the original.

    They are drawn by `seed` from what the original learned (see `unchanged_share`).
    """
    learned = _learned(original)
    pairs = [(own, other) for name, own, other in counterparts(model, original) if name in learned]
    sizes = np.array([own.numel() for own, _ in pairs])
    ends = np.cumsum(sizes)
    places = np.sort(np.random.default_rng(seed).integers(ends[-1], size=SAMPLE))
    tensor = np.searchsorted(ends, places, side="right")
    found = []
    for i, (own, other) in enumerate(pairs):
        if other is None or other.shape != own.shape:
            return None
        chosen = torch.from_numpy(places[tensor == i] - (ends[i] - sizes[i]))
        found.append(other.flatten().cpu()[chosen].double())
    return torch.cat(found)


def distance_share(sample: Tensor | None, original: Tensor | None, others: Sequence[Tensor | None]) -> float | None:
    """Return how far a model lies from the original, as a share of how far `others` lie on the mean; None if that is not known.

    No verdict rests on it: weights can be far and know all, or near and know nothing. Models near the original relearn sooner
    (arXiv 2505.22310).

    Args:
        sample, original, others: what `sampled_weights` returned for the model, for the original and for the others.
    """
    known = [other for other in others if other is not None]
    if sample is None or original is None or not known:
        return None
    ways = [float((other - original).norm()) for other in known]
    mean = sum(ways) / len(ways)
    return round(float((sample - original).norm()) / mean, 4) if mean else None
