"""The optimizer of a run: a trust region, the optimizer that the arguments name, or one that the user passes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..methods.components.trust_region import TrustRegion
from ..models.adapters import ADAPTER_STEP_FLOOR, is_adapted
from ..models.forward import unwrap
from .arguments import UnlearningArguments

# Where optimizers and schedules keep rates and bounds of rates.
GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
SCHEDULE_RATES = ("base_lrs", "max_lrs", "min_lrs", "eta_min", "_last_lr")
OPTIMIZER_OPTIONS = ("optim", "optim_args", "weight_decay", "momentum", "adam_beta1", "adam_beta2", "adam_epsilon")


def check_options(args: UnlearningArguments, optimizer: Any | None, peft_config: Any | None) -> None:
    """Raise ValueError for options that would have no effect, with the reason and an alternative."""
    if args.data_seed is not None:
        raise ValueError(f"`data_seed={args.data_seed}` has no effect: all draws depend on `seed`. Set `seed` instead.")
    if (order := args.train_sampling_strategy) not in ("random", "sequential"):
        raise ValueError(f"`train_sampling_strategy={order!r}` cannot order pairs. Choose 'random' or 'sequential'.")
    if optimizer is not None and args.trust_region:
        raise ValueError("`trust_region` and `optimizers` cannot both take the steps. Leave one of them out.")
    if optimizer is not None and peft_config is not None:
        raise ValueError(
            "`optimizers` were made before `peft_config` makes the parameters that move. Set `optim` and `learning_rate` instead, "
            "or wrap the model first (`get_peft_model`)."
        )


def check_idle(given: UnlearningArguments, resolved: UnlearningArguments, optimizer: Any | None) -> None:
    """Raise ValueError if `given` configures an optimizer, but the method's trust region takes the steps instead."""
    if optimizer is not None or given.trust_region is not None or not resolved.trust_region:
        return
    fields = type(given).__dataclass_fields__
    for name in OPTIMIZER_OPTIONS:
        value = getattr(given, name)
        if value != fields[name].default:
            raise ValueError(
                f"`{name}={getattr(value, 'value', value)}` does nothing under the method's trust region, which takes the steps. "
                f"Pass `trust_region=0` and a `learning_rate`, or leave `{name}` out."
            )


def choose_optimizer(
    args: UnlearningArguments, model: nn.Module, updated: Iterable[str], given: torch.optim.Optimizer | None
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Return class and settings of the optimizer; None for `given` or for the choice of the base class.

    Set the rate and the clipping of the resolved `args` to those that then hold. Raise ValueError if `given` holds parameters
    that are not in `updated`.
    """
    if given is not None:
        args.trust_region = 0.0
        _check_parameters(given, model, set(updated), args.update)
        return None
    if args.trust_region:
        args.learning_rate = args.trust_region  # for the schedule and the log
        args.max_grad_norm = 0.0  # clipping has no effect on steps of fixed length
        # An adapter starts at zero and stays small, so a step relative to its own norm would be too short.
        return TrustRegion, {"lr": args.trust_region, **({"floor": ADAPTER_STEP_FLOOR} if is_adapted(model) else {})}
    if args.optim == "sgd":
        return torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.momentum}
    return None


def scale_rates(optimizer: Any, schedule: Any, factor: float) -> None:
    """Multiply the learning rates of `optimizer`, present and future ones, by `factor`. `schedule` may hold other schedules."""
    for group in optimizer.param_groups:
        group.update({name: factor * group[name] for name in GROUP_RATES if group.get(name) is not None})
    _scale_schedule(schedule, factor)


def _scale_schedule(schedule: Any, factor: float) -> None:
    for name in SCHEDULE_RATES:
        rates = getattr(schedule, name, None)
        if rates is not None:
            setattr(schedule, name, [factor * r for r in rates] if isinstance(rates, list) else factor * rates)
    for part in getattr(schedule, "_schedulers", ()):
        _scale_schedule(part, factor)


def forget_moments(optimizer: Any) -> None:
    """Bring the state of `optimizer` back to that before its first step."""
    optimizer.state.clear()
    if isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.Adagrad):  # it makes its state at once
        for group in optimizer.param_groups:
            for p in group["params"]:
                start = torch.full_like(p, group["initial_accumulator_value"], requires_grad=False)
                optimizer.state[p] = {"step": torch.tensor(0.0), "sum": start}


def _check_parameters(given: torch.optim.Optimizer, model: nn.Module, updated: set[str], update: str | None) -> None:
    moving = {id(p) for n, p in unwrap(model).named_parameters() if n in updated}
    held = [p for group in given.param_groups for p in group["params"]]
    idle = sum(id(p) not in moving for p in held)
    if idle:
        raise ValueError(
            f"`optimizers`: {idle} of its {len(held)} tensors are not among the {len(moving)} that `update={update!r}` lets move. "
            "Set `update`, or make the optimizer from those tensors only."
        )
