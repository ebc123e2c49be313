"""Which parameters may move: `update="all" | "head" | "last:n" | <regular expression>`."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .processing import unwrap
from .sharding import as_held, whole


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


def updated_names(model: nn.Module, update: str) -> list[str]:
    """Names of the parameters that `update` lets move.

    Raises:
        ValueError: `update` matches nothing or is malformed.
    """
    names = [n for n, _ in unwrap(model).named_parameters()]
    if update == "all":
        return names
    if update == "head":
        chosen = [n for n in names if n.startswith(_prefixes(find_heads(model)))]
    elif match := re.fullmatch(r"last:(\d+)", update):
        blocks, n = find_blocks(model), int(match[1])
        if not blocks:
            raise ValueError(
                f"`update={update!r}`: the model has no blocks of its own to count (ALBERT's layers share their weights). Use 'all', "
                "'head' or a regular expression of parameter names."
            )
        if not 1 <= n <= len(blocks):
            raise ValueError(
                f"`update={update!r}`: the model has {len(blocks)} blocks. Give a number from 1 to {len(blocks)}."
            )
        first = _first_index(names, blocks[-n])
        inside = [i for i, name in enumerate(names) if any(name.startswith(b + ".") for b in blocks)]
        heads, last_block = _prefixes(find_heads(model)), inside[-1]
        chosen = [x for i, x in enumerate(names) if i >= first or i > last_block or x.startswith(heads)]
    else:
        try:
            pattern = re.compile(update)
        except re.error as error:
            raise ValueError(
                f"`update={update!r}` is neither 'all', 'head', 'last:n' nor a regular expression: {error}."
            ) from error
        chosen = [n for n in names if pattern.search(n)]
    if not chosen:
        raise ValueError(
            f"`update={update!r}` matches no parameter. Names look like: {', '.join(names[:3])}, …, {names[-1]}."
        )
    return chosen


def default_targets(root: nn.Module, norms: bool = False) -> list[str]:
    """Names of the modules that an adapter adapts by default, all inside the backbone's blocks; the head is not.

    The square linear layers, which are the projections of attention; without any, all linear layers; without these, all
    ungrouped convolutions. With `norms` the layer norms. Layers that are adapted already count as what they adapt.

    Raises:
        ValueError: there is none.
    """
    blocks, heads = _prefixes(find_blocks(root)), _prefixes(find_heads(root))
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


def _prefixes(modules: Iterable[str]) -> tuple[str, ...]:
    """What the names of the parameters inside `modules` start with."""
    return tuple(f"{m}." for m in modules)


def _first_index(names: list[str], prefix: str) -> int:
    return next(i for i, n in enumerate(names) if n.startswith(prefix + "."))


def check_precision(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ValueError where a parameter called one of `names`, which is to move, is in half precision."""
    parameters = dict(unwrap(model).named_parameters())
    half = [n for n in names if parameters[n].dtype in (torch.float16, torch.bfloat16)]
    copies = [n for n in half if ".modules_to_save." in n]
    if half and len(copies) == len(half):
        raise ValueError(
            f"`peft_config.modules_to_save`: PEFT keeps its copies, such as `{half[0]}`, in the precision of the model, "
            f"{str(parameters[half[0]].dtype).removeprefix('torch.')}, in which small steps would be rounded away. Load the model with "
            "`dtype=torch.float32` (`bf16=True` of the arguments still computes in half precision), or leave out `modules_to_save` "
            "and `task_type`, which adds the head to it: an adapter alone is in float32 over any model."
        )
    if half:
        raise ValueError(
            f"`model`: {len(half)} tensors that are to move are in {str(parameters[half[0]].dtype).removeprefix('torch.')}, such as "
            f"`{half[0]}`: small steps and averages of weights would be rounded away. Load it with `dtype=torch.float32` (`bf16=True` "
            "of the arguments still computes in half precision), or pass `peft_config`: adapters are in float32 over any model."
        )


def restrict(model: nn.Module, names: Iterable[str]) -> None:
    """Let exactly the parameters called `names` require a gradient."""
    allowed = set(names)
    for name, parameter in unwrap(model).named_parameters():
        parameter.requires_grad_(name in allowed)


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A digest of every parameter and buffer, to tell afterwards what changed; tied ones under their first name."""

    def digest(tensor: Tensor) -> str:
        raw = whole(tensor).contiguous().cpu().view(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
        return hashlib.blake2b(raw.numpy().tobytes(), digest_size=16).hexdigest()

    model = unwrap(model)
    own = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    return {name: digest(tensor) for name, tensor in model.state_dict().items() if name in own}


def joint_digest(prints: dict[str, str]) -> str:
    """One digest of all `fingerprints` of a model."""
    return hashlib.blake2b("".join(f"{n}{d}" for n, d in sorted(prints.items())).encode(), digest_size=16).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """One digest of the values of all parameters and buffers, whatever they are called: the same for a saved copy."""
    return hashlib.blake2b("".join(sorted(fingerprints(model).values())).encode(), digest_size=16).hexdigest()


class Snapshot:
    """A copy, on the CPU, of some of a model's tensors: the original to compare with, or a state to go back to.

    Of a sharded model the tensors are whole, so all processes make and restore it together.

    Saved buffers (BatchNorm statistics) are always in it: parameters without them would be another model.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        state = unwrap(model).state_dict()
        buffers = (n for n, _ in unwrap(model).named_buffers() if n in state)
        self.tensors = {n: whole(state[n]).to("cpu", copy=True).contiguous() for n in dict.fromkeys([*names, *buffers])}

    def mixed(self, other: Snapshot, share: float) -> Snapshot:
        """(1 − share) of this one and `share` of `other`; counters are those of `other`."""
        pairs = {n: (a, other.tensors[n]) for n, a in self.tensors.items()}
        return self.holding({n: torch.lerp(a, b, share) if a.is_floating_point() else b for n, (a, b) in pairs.items()})

    def holding(self, tensors: dict[str, Tensor]) -> Snapshot:
        """A snapshot of these tensors."""
        out = copy.copy(self)
        out.tensors = tensors
        return out

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Write the copy back into `model`."""
        state = unwrap(model).state_dict()
        for name, saved in self.tensors.items():
            state[name].copy_(as_held(saved, state[name]))
