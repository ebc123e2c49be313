"""Which parameters may move: `update="all" | "head" | "last:n" | <regular expression>`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from .forward import unwrap
from .structure import find_blocks, find_heads, prefixes


def updated_names(model: nn.Module, update: str) -> list[str]:
    """Names of the parameters that `update` lets move.

    Raises:
        ValueError: `update` matches nothing or is malformed.
    """
    names = [n for n, _ in unwrap(model).named_parameters()]
    if update == "all":
        return names
    if update == "head":
        chosen = [n for n in names if n.startswith(prefixes(find_heads(model)))]
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
        heads, last_block = prefixes(find_heads(model)), inside[-1]
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
