"""Start several processes of one machine that share a run by data parallelism: `hf-unlearn run --num-processes N`.

Several machines, FSDP and DeepSpeed need `accelerate launch` with a file of recipes/accelerate.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.distributed import TCPStore

from ..training.arguments import UnlearningArguments

PATIENCE = 30.0  # seconds in which the other processes may end by themselves after one has failed
EXPLAINED = (2, 130, 143)  # exit codes for which the first process has printed the reason
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
QUOTED = 4_000  # characters of the output of a failed process that are shown


def number_of_processes(given: str) -> int:
    """Return the number that `--num-processes` asks for.

    Raises:
        ValueError: it is no number of processes, or a launcher started this process already.
    """
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"`--num-processes {given}` must be a whole number, 1 or more.")
    if "RANK" in os.environ:
        raise ValueError(
            "`--num-processes` starts processes, but a launcher started this one already. Leave one of them out."
        )
    return int(given)


def shared_environment(processes: int, args: UnlearningArguments) -> dict[str, str]:
    """Return environment variables for all processes of a run on the device of `args`.

    Raises:
        ValueError: there are more processes than GPUs, or processes cannot share the device.
    """
    kind, gpus = args.device.type, torch.cuda.device_count()
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"`--num-processes {processes}`: processes cannot share a device of kind '{kind}'.")
    if kind == "cuda":
        if processes > gpus:
            remedy = f"Start {gpus}, or pass `--use_cpu true`."
            raise ValueError(f"`--num-processes {processes}`: each needs its own GPU, and there are {gpus}. {remedy}")
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes > cores:
        print(f"Warning: {processes} processes on {cores} cores are slower than {cores} processes.", file=sys.stderr)
    out = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(max(1, cores // processes))}
    return {name: os.environ.get(name, value) for name, value in out.items()}


def launch(command: Sequence[str], processes: int, environment: Mapping[str, str] | None = None) -> int:
    """Run `command` in several processes that find each other. Returns the exit code of the one that failed first, else 0.

    Only the first process writes to the terminal. If another one fails first, the end of its error output is printed. Ctrl-C and
    SIGTERM reach each process once.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # holds a free port
    common = {
        **os.environ,
        **(environment or {}),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this is `store`
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    started: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, frame: Any) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(signum)

    with ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) if rank else None for rank in range(processes)]
        try:
            for rank in range(processes):
                process = subprocess.Popen(
                    list(command),
                    env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,  # closes when this process ends in any way: see `worker.end_with_launcher`
                    stdout=subprocess.DEVNULL if rank else None,
                    stderr=errors[rank],
                    start_new_session=True,  # only this process gets a Ctrl-C from the terminal, and passes it on
                )
                started.append(process)
            for signum in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, signum, signal.signal(signum, forward))
            rank = _wait(started)
        except BaseException:
            for process in started:
                process.kill()
            raise
        codes = [128 - p.returncode if p.returncode < 0 else p.returncode for p in started]
        output = errors[rank]
        if output is not None and not (codes[rank] == codes[0] and codes[0] in EXPLAINED):
            output.seek(0)
            text = output.read().decode(errors="replace")[-QUOTED:]
            print(f"Process {rank} ended with code {codes[rank]}, and so did the run:\n{text}", file=sys.stderr)
    return codes[rank]


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all processes have ended. Returns the rank of the one that failed first, else 0.

    After a failure the others are ended if they do not end by themselves. An interrupted process has not failed, because another
    one may still be writing the checkpoint.
    """
    first, deadline = 0, math.inf
    while None in [p.poll() for p in processes]:
        failed = [rank for rank, p in enumerate(processes) if p.returncode not in (None, 0, *INTERRUPTED)]
        if failed and deadline == math.inf:
            first, deadline = failed[0], time.monotonic() + PATIENCE
        for process in processes if time.monotonic() > deadline else ():
            if process.poll() is None:
                process.kill() if time.monotonic() > deadline + PATIENCE else process.terminate()
        time.sleep(0.05)
    if deadline < math.inf:
        return first
    return next((rank for rank, p in enumerate(processes) if p.returncode), 0)
