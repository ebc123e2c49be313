"""The backend of a run (one process, data parallelism, FSDP2, DeepSpeed), and the check that the method supports it."""

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..methods import METHODS, UnlearningMethod
from ..models.forward import unwrap
from ..models.sharding import is_sharded, whole_state
from ..utils.distributed import in_parallel
from .arguments import UnlearningArguments
from .protocols import TrainingRun

logger = logging.getLogger(__name__)

BACKENDS = {
    "single": "one process",
    "ddp": "data parallelism",
    "fsdp": "FSDP2",
    "deepspeed": "DeepSpeed (ZeRO-1 and ZeRO-2)",
}


def backend_of(args: UnlearningArguments) -> str:
    """Return the key in `BACKENDS` for the arguments and for the environment that `accelerate launch` makes."""
    if args.deepspeed or _is_on("ACCELERATE_USE_DEEPSPEED"):
        return "deepspeed"
    if args.fsdp or _is_on("ACCELERATE_USE_FSDP"):
        return "fsdp"
    return "ddp" if args.world_size > 1 else "single"


def check_backend(method: UnlearningMethod, args: UnlearningArguments) -> None:
    """Raise ValueError if `method` does not support the backend of `args`, with the reason and an alternative."""
    backend, name = backend_of(args), method.name or type(method).__name__
    if in_parallel() and args.world_size == 1:
        raise ValueError("Several processes were started but are not connected. On a CPU, pass `--use_cpu true`.")
    if backend not in method.backends:
        able = [key for key, other in METHODS.items() if backend in other.backends]
        raise ValueError(
            f"`method={name!r}` does not run under {BACKENDS[backend]}: {method.why_not(backend)}. Use data parallelism "
            "(`--num-processes N`, or `accelerate launch --config_file recipes/accelerate/ddp.yaml`)"
            + (f", or a method that can: {', '.join(able)}." if able else ".")
        )
    if args.accelerator_config.split_batches or args.accelerator_config.dispatch_batches:
        raise ValueError("`split_batches` and `dispatch_batches` would divide batches a second time. Leave them off.")
    if backend == "fsdp":
        _check_fsdp(args)
    elif backend == "deepspeed":
        _check_deepspeed(method, args)


def use_one_gpu(args: UnlearningArguments) -> None:
    """Use one GPU for one process: the base class would split each batch among several (`nn.DataParallel`)."""
    if args.n_gpu > 1:
        logger.warning("One of %d GPUs is used. `--num-processes %d` uses all.", args.n_gpu, args.n_gpu)
        args._n_gpu = 1


def warn_if_whole(run: TrainingRun) -> None:
    """Warn if accelerate does not shard although it should, as on a CPU."""
    backend = backend_of(run.args)
    if backend in ("fsdp", "deepspeed") and not (run.is_fsdp_enabled or run.is_deepspeed_enabled):
        logger.warning("%s needs GPUs: the run uses data parallelism instead.", BACKENDS[backend])


def _check_fsdp(args: UnlearningArguments) -> None:
    given = args.fsdp_config if args.fsdp else {}
    version = given.get("version", 2) if args.fsdp else os.environ.get("FSDP_VERSION", "1")
    if str(version) != "2":
        raise ValueError("`fsdp_version`: FSDP1 renames and flattens parameters. Set `fsdp_version: 2`.")
    if _is_on("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise ValueError("`fsdp_cpu_ram_efficient_loading` gives weights to one process only. Set it to false.")
    kind = given.get("state_dict_type", "FULL_STATE_DICT") if args.fsdp else os.environ.get("FSDP_STATE_DICT_TYPE", "")
    if "FULL" in kind.upper():
        raise ValueError(
            "`fsdp_state_dict_type: FULL_STATE_DICT`: torch cannot load an optimizer without a state, such as a trust region, "
            "from it. Set SHARDED_STATE_DICT; checkpoints hold the whole weights too."
        )


def _check_deepspeed(method: UnlearningMethod, args: UnlearningArguments) -> None:
    if args.deepspeed_plugin.hf_ds_config.is_zero3():
        raise ValueError("`zero_stage: 3`: only DeepSpeed can read such shards. Use ZeRO-2 or FSDP2.")
    if args.resolved(method, "class").trust_region:
        raise ValueError(
            "`trust_region` limits the step of each tensor, and ZeRO joins and cuts the tensors. Pass `--trust_region 0` with "
            "`--learning_rate` and `--optim`."
        )


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


@contextmanager
def sharded_while_training(run: TrainingRun) -> Iterator[None]:
    """Inside the context, the base class may shard the model. Afterwards the run has a whole model again, on its device."""
    if not run.shards:
        yield
        return
    plain = copy.deepcopy(unwrap(run.model)).cpu()
    run.is_fsdp_enabled = True
    try:
        yield
    finally:
        run.is_fsdp_enabled = False
    sharded = unwrap(run.model)
    if is_sharded(sharded):
        plain.load_state_dict(whole_state(sharded))
        for name, module in plain.named_modules():
            module.training = sharded.get_submodule(name).training
        run.model = run.model_wrapped = plain.to(run.args.device)
