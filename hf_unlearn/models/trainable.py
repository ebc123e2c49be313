"""The parameters that may move: `update="all" | "head" | "last:n" | <regular expression>`."""

import re
from collections.abc import Iterable

import torch
from torch import nn

from .forward import unwrap
from .structure import find_blocks, find_heads, prefixes


def updated_names(model: nn.Module, update: str) -> list[str]:
    """Return the names of the parameters that `update` lets move.

    `update` is `all`; `head`, the classification head; `last:n`, the last n blocks and all that follows; or a regular
    expression, which is searched for in the names.
    """
    names, given = [n for n, _ in unwrap(model).named_parameters()], f"`update={update!r}`"
    if update == "all":
        return names
    if update == "head":
        chosen = [n for n in names if n.startswith(prefixes(find_heads(model)))]
    elif match := re.fullmatch(r"last:(\d+)", update):
        blocks, count = find_blocks(model), int(match[1])
        if not blocks:
            raise ValueError(
                f"{given}: the model has no blocks of its own to count (ALBERT's layers share their weights). Use 'all', "
                "'head' or a regular expression of parameter names."
            )
        if not 1 <= count <= len(blocks):
            raise ValueError(f"{given}: the model has {len(blocks)} blocks. Give a number from 1 to {len(blocks)}.")
        first = next(i for i, n in enumerate(names) if n.startswith(f"{blocks[-count]}."))
        heads = prefixes(find_heads(model))
        chosen = [n for i, n in enumerate(names) if i >= first or n.startswith(heads)]
    else:
        try:
            pattern = re.compile(update)
        except re.error as error:
            raise ValueError(f"{given} is not 'all', 'head', 'last:n' or a regular expression: {error}.") from error
        chosen = [n for n in names if pattern.search(n)]
    if not chosen:
        raise ValueError(f"{given} matches no parameter. Names look like: {', '.join(names[:3])}, …, {names[-1]}.")
    return chosen


def check_precision(model: nn.Module, names: Iterable[str]) -> None:
    """Check that none of the parameters `names` is in half precision, which would round small steps away."""
    parameters = dict(unwrap(model).named_parameters())
    half = [n for n in names if parameters[n].dtype in (torch.float16, torch.bfloat16)]
    if not half:
        return
    dtype = str(parameters[half[0]].dtype).removeprefix("torch.")
    remedy = "Load the model with `dtype=torch.float32` (`bf16=True` of the arguments still computes in half precision)"
    if all(".modules_to_save." in n for n in half):
        raise ValueError(
            f"`peft_config.modules_to_save`: PEFT keeps its copies, such as `{half[0]}`, in the model's {dtype}, which "
            f"would round small steps away. {remedy}, or leave out `modules_to_save` and `task_type`, which adds the head to "
            "it: an adapter alone is in float32 over any model."
        )
    raise ValueError(
        f"`model`: {len(half)} tensors that are to move are in {dtype}, such as `{half[0]}`. Small steps would be rounded "
        f"away. {remedy}, or pass `peft_config`: adapters are in float32 over any model."
    )


def restrict(model: nn.Module, names: Iterable[str]) -> None:
    """Let exactly the parameters called `names` require a gradient."""
    allowed = set(names)
    for name, parameter in unwrap(model).named_parameters():
        parameter.requires_grad_(name in allowed)
