"""The parts of a classifier: its heads, blocks and last layer, and the layers that an adapter adapts by default."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .forward import unwrap

BLOCK_LISTS = (".layer", ".layers", ".blocks", ".block", ".stages", ".h")  # how the names of lists of blocks end
HEADS = ("classifier", "score", "head", "classification_head", "fc")


def find_head(model: nn.Module) -> str:
    """Return the name of the classification head: the outermost module behind the backbone with a value per class."""
    model = unwrap(model)
    for name in HEADS:
        if isinstance(module := getattr(model, name, None), nn.Module) and any(True for _ in module.parameters()):
            return name
    linear = [n for n, m in model.named_modules() if _gives_classes(model, m)]
    if not linear:
        raise ValueError("`update='head'`: no classification head found. Give a regular expression of parameter names.")
    return linear[-1]


def find_heads(model: nn.Module) -> list[str]:
    """Return the names of all classification heads, `find_head` first. Models distilled from a teacher average two."""
    model, first = unwrap(model), find_head(model)
    children = [
        n for n, m in model.named_children() if "classifier" in n and any(_gives_classes(model, x) for x in m.modules())
    ]
    return [first, *(n for n in children if not f"{first}.".startswith(f"{n}."))]


def last_linear(model: nn.Module) -> str:
    """Return the name of the layer in the head of `model` that gives a value for each class."""
    head = find_head(model)
    inner = [n for n, m in unwrap(model).named_modules() if f"{n}.".startswith(f"{head}.") and _gives_classes(model, m)]
    return inner[-1] if inner else head


def _gives_classes(model: nn.Module, module: nn.Module) -> bool:
    """Whether `module` is a linear layer with one output per class."""
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    return isinstance(module, nn.Linear) and module.out_features == classes


def find_blocks(model: nn.Module) -> list[str]:
    """Return the names of the backbone's blocks in order: the innermost repeated layers of its outermost lists."""
    model = unwrap(model)
    lists = [n for n, m in model.named_modules() if _is_list(m) and len(m) > 0 and n.endswith(BLOCK_LISTS)]
    blocks = []
    for name in lists:
        if any(name.startswith(f"{outer}.") for outer in lists):
            continue
        stages: Any = model.get_submodule(name)
        for i, stage in enumerate(stages):
            inner = next((n for n in ("layers", "blocks", "layer") if _is_list(getattr(stage, n, None))), None)
            if inner is None:
                blocks.append(f"{name}.{i}")
            else:
                blocks += [f"{name}.{i}.{inner}.{j}" for j in range(len(getattr(stage, inner)))]
    return blocks


def _is_list(module: Any) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def default_targets(root: nn.Module, norms: bool = False) -> list[str]:
    """Return the names of the modules that an adapter adapts by default, all inside the backbone's blocks.

    These are the square linear layers, which are the projections of attention; without any, all linear layers; without
    these, all ungrouped convolutions. With `norms`, they are the layer norms. An adapted layer counts as the original.
    """
    blocks, heads = prefixes(find_blocks(root)), prefixes(find_heads(root))
    adapted = prefixes(n for n, m in root.named_modules() if hasattr(m, "base_layer"))
    inside = {}
    for name, module in root.named_modules():
        name = name.removesuffix(".base_layer")
        within = name.startswith(blocks) if blocks else not f"{name}.".startswith(heads)
        if within and not name.startswith(adapted):
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
    """Return the parameters `names` by layer: `embeddings`, one group for each block, and `head` behind the last block.

    What stands between two blocks (downsampling) counts to the block before it. Without blocks, modules are the groups.
    """
    model, wanted, current = unwrap(model), set(names), "embeddings"
    blocks = find_blocks(model)
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        if blocks:
            inside = next((b for b in blocks if name.startswith(f"{b}.")), None)
            current = inside or ("head" if current in (blocks[-1], "head") else current)
        else:
            current = name.rpartition(".")[0] or name
        if name in wanted:
            groups.setdefault(current, []).append(name)
    return groups


def prefixes(modules: Iterable[str]) -> tuple[str, ...]:
    """Return what the names of the parameters inside `modules` start with."""
    return tuple(f"{m}." for m in modules)


def find_last_layer(model: nn.Module) -> nn.Linear:
    """Return the layer that gives the logits: the last linear layer inside the head with one output per class."""
    return last_layers(model)[-1]


def last_layers(model: nn.Module) -> list[nn.Linear]:
    """Return all layers that may give the logits: adapters keep several copies of the last one."""
    model = unwrap(model)
    head = model.get_submodule(find_head(model))
    linear: list[Any] = [m for m in head.modules() if _gives_classes(model, m)]
    if not linear:
        classes = model.config.num_labels  # type: ignore[union-attr]
        raise ValueError(f"`model`: its head ({type(head).__name__}) has no linear layer with {classes} outputs.")
    return linear


@contextmanager
def last_layer_inputs(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, every forward pass adds the input and output of the last layer to the list, with their gradients.

    Adapters keep several copies of that layer; all are watched, so that the one in use is seen.
    """
    layers = last_layers(model)
    width = max(layer.in_features for layer in layers)  # the factors of a low-rank adapter are narrower
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda _m, args, output: seen.append((args[0], output)))
        for layer in layers
        if layer.in_features == width
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
