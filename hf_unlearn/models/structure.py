"""The parts of a classifier: its head, its blocks, its last layer, and the layers that an adapter adapts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .forward import unwrap


def find_head(model: nn.Module) -> str:
    """Name of the classification head: the outermost module after the backbone whose output has one value per class.

    Raises:
        ValueError: no such module.
    """
    model = unwrap(model)
    for name in ("classifier", "score", "head", "classification_head", "fc"):
        if isinstance(getattr(model, name, None), nn.Module) and any(True for _ in getattr(model, name).parameters()):
            return name
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linear:
        raise ValueError("`update='head'`: no classification head found. Give a regular expression of parameter names.")
    return linear[-1]


def find_heads(model: nn.Module) -> list[str]:
    """Names of all classification heads, that of `find_head` first: a model distilled from a teacher averages two.

    Raises:
        ValueError: as `find_head`.
    """
    model, first = unwrap(model), find_head(model)
    classes = getattr(getattr(model, "config", None), "num_labels", None)

    def gives_classes(module: nn.Module) -> bool:
        return any(isinstance(m, nn.Linear) and m.out_features == classes for m in module.modules())

    children = [n for n, m in model.named_children() if "classifier" in n and gives_classes(m)]
    return [first, *(n for n in children if not f"{first}.".startswith(f"{n}."))]


def find_blocks(model: nn.Module) -> list[str]:
    """Names of the backbone's blocks in forward order: the innermost repeated layers of its outermost module lists."""
    model = unwrap(model)
    lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 0]
    lists = [
        n
        for n in lists
        if n and any(n.endswith(s) for s in (".layer", ".layers", ".blocks", ".block", ".stages", ".h"))
    ]
    outer = [n for n in lists if not any(n.startswith(o + ".") for o in lists)]
    blocks = []
    for name in outer:
        stages: Any = model.get_submodule(name)
        for i, stage in enumerate(stages):
            inner = [
                n
                for n in ("layers", "blocks", "layer")
                if isinstance(getattr(stage, n, None), nn.ModuleList | nn.Sequential)
            ]
            if inner:
                blocks += [f"{name}.{i}.{inner[0]}.{j}" for j in range(len(getattr(stage, inner[0])))]
            else:
                blocks.append(f"{name}.{i}")
    return blocks


def default_targets(root: nn.Module, norms: bool = False) -> list[str]:
    """Names of the modules that an adapter adapts by default, all inside the backbone's blocks; the head is not.

    The square linear layers, which are the projections of attention; without any, all linear layers; without these, all
    ungrouped convolutions. With `norms` the layer norms. Layers that are adapted already count as what they adapt.

    Raises:
        ValueError: there is none.
    """
    blocks, heads = prefixes(find_blocks(root)), prefixes(find_heads(root))
    inside, adapted = {}, [f"{n}." for n, m in root.named_modules() if hasattr(m, "base_layer")]
    for name, module in root.named_modules():
        name = name.removesuffix(".base_layer")
        within = name.startswith(blocks) if blocks else not f"{name}.".startswith(heads)
        if within and not name.startswith(tuple(adapted)):
            inside[name] = module
    linear = {n: m for n, m in inside.items() if isinstance(m, nn.Linear)}
    square = [n for n, m in linear.items() if m.in_features == m.out_features]
    convolutions = [n for n, m in inside.items() if isinstance(m, nn.Conv2d) and m.groups == 1]
    found = square or list(linear) or convolutions
    if norms:
        found = [n for n, m in inside.items() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]
    if not found:
        raise ValueError("`peft_config.target_modules` is missing, and no layer to adapt was found. Name them.")
    return found


def layer_groups(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Parameters `names` by layer: `embeddings`, one group for each block, and `head`, all that follows the last block.

    What stands between two blocks (downsampling) counts to the block before; a model without blocks is grouped by module.
    """
    model, wanted = unwrap(model), set(names)
    blocks, order = find_blocks(model), [n for n, _ in model.named_parameters()]
    if not blocks:
        place = {n: n.rpartition(".")[0] or n for n in order}
    else:
        place, current = {}, "embeddings"
        for name in order:
            inside = next((b for b in blocks if name.startswith(b + ".")), None)
            after = current in (blocks[-1], "head")
            current = inside or ("head" if after else current)
            place[name] = current
    groups: dict[str, list[str]] = {}
    for name in order:
        if name in wanted:
            groups.setdefault(place[name], []).append(name)
    return groups


def prefixes(modules: Iterable[str]) -> tuple[str, ...]:
    """What the names of the parameters inside `modules` start with."""
    return tuple(f"{m}." for m in modules)


# --- on a model -------------------------------------------------------------------------------------------------------


def find_last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last one inside the head with one output per class.

    Raises:
        ValueError: there is none.
    """
    return _last_layers(model)[-1]


def _last_layers(model: nn.Module) -> list[nn.Linear]:
    model = unwrap(model)
    head = model.get_submodule(find_head(model))
    classes = model.config.num_labels  # type: ignore[union-attr]
    linear = [m for m in head.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linear:
        raise ValueError(f"`model`: its head ({type(head).__name__}) has no linear layer with {classes} outputs.")
    return linear


@contextmanager
def last_layer_inputs(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, every forward pass adds what the last layer read and gave, whichever of its copies is in use (adapters keep several)."""
    layers = _last_layers(model)
    width = max(layer.in_features for layer in layers)  # the factors of a low-rank adapter are narrower
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda _m, args, output: seen.append((args[0].detach(), output.detach())))
        for layer in layers
        if layer.in_features == width
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
