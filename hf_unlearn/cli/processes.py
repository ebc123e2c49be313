"""Several processes on one machine that share a run: `hf-unlearn run --num-processes N`.

Plain data parallelism on one machine. More machines, FSDP or DeepSpeed: `accelerate launch` with a file of recipes/accelerate.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..training.arguments import UnlearningArguments

PATIENCE = 30.0  # seconds that the others have to end by themselves after a process failed
ANNOUNCED = (2, 130, 143)  # exit codes of which the first process has told the reason
QUOTED = 4_000  # characters of what a failed process wrote


def number_of_processes(given: str) -> int:
    """The number that `--num-processes` asks for.

    Raises:
        ValueError: it is none, or this process is one of several already.
    """
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"`--num-processes {given}`: a number of processes, 1 or more, is wanted.")
    if "RANK" in os.environ:
        raise ValueError(
            "`--num-processes` starts processes, and this already is one that a launcher started. Leave one of the two out."
        )
    return int(given)


def shared_environment(processes: int, args: UnlearningArguments) -> dict[str, str]:
    """What the processes find in their environment beside their own number.

    Raises:
        ValueError: more processes than GPUs, or a device that they cannot share.
    """
    import torch

    kind, out = args.device.type, {}
    if kind == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"`--num-processes {processes}`: each process needs a GPU of its own, and there are {torch.cuda.device_count()}. Start "
            f"{torch.cuda.device_count()}, or pass `--use_cpu true`."
        )
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"`--num-processes {processes}`: processes cannot share a device of kind '{kind}'.")
    if kind == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if processes > cores:
            print(
                f"Warning: `--num-processes {processes}` on {cores} cores is slower than {cores} processes.",
                file=sys.stderr,
            )
        out = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(max(1, cores // processes))}
        out |= {k: os.environ[k] for k in out if k in os.environ}
    return out


def launch(command: Sequence[str], processes: int, environment: Mapping[str, str] | None = None) -> int:
    """Run `command` in several processes that find each other; the exit code of the first one that failed, or of the first.

    Standard output and errors are those of the first; a process that fails before it is quoted. Ctrl-C and SIGTERM reach
    each process once.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # takes a free port and keeps it
    common = {
        **os.environ,
        **(environment or {}),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # which is that one
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) if rank else None for rank in range(processes)]
        try:
            for rank in range(processes):
                process = subprocess.Popen(
                    list(command),
                    env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,  # closed when this process ends, however it does
                    stdout=subprocess.DEVNULL if rank else None,
                    stderr=errors[rank],
                    start_new_session=True,  # a terminal's Ctrl-C reaches them through this process alone
                )
                started.append(process)
            with _signals_passed_to(started):
                first = _wait(started)
        except BaseException:
            for process in started:
                process.kill()
            raise
        codes = [128 - p.returncode if p.returncode < 0 else p.returncode for p in started]
        if first and not (codes[first] == codes[0] and codes[0] in ANNOUNCED):
            _quote(first, codes[first], errors[first])
    return codes[first]


@contextmanager
def _signals_passed_to(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def forward(signum: int, frame: Any) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    former = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended; the number of the first that failed, or 0. What hangs after a failure is ended.

    One that was interrupted is no failure: another may still be writing the checkpoint.
    """
    first, deadline = 0, math.inf
    while None in [p.poll() for p in processes]:
        failed = [
            rank
            for rank, p in enumerate(processes)
            if p.returncode not in (None, 0, 130, 143, -signal.SIGINT, -signal.SIGTERM)
        ]
        if failed and deadline == math.inf:
            first, deadline = failed[0], time.monotonic() + PATIENCE
        for process in processes if time.monotonic() > deadline else ():
            if process.poll() is None:
                process.kill() if time.monotonic() > deadline + PATIENCE else process.terminate()
        time.sleep(0.05)
    if deadline < math.inf:
        return first
    return next((rank for rank, p in enumerate(processes) if p.returncode), 0)


def _quote(rank: int, code: int, errors: IO[bytes] | None) -> None:
    """Say what a process other than the first failed of."""
    assert errors is not None
    errors.seek(0)
    told = errors.read().decode(errors="replace")[-QUOTED:]
    print(f"Process {rank} ended with code {code}, and the run with it:\n{told}", file=sys.stderr)
