"""A run in several processes: `hf-unlearn run --num-processes N`, and what one of several processes owes the others.

Plain data parallelism on one machine. More machines, FSDP or DeepSpeed: `accelerate launch` with a file of recipes/accelerate.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .training.arguments import UnlearningArguments

PATIENCE = 30.0  # seconds that the others have to end by themselves after a process failed
SPOKEN = (2, 130, 143)  # exit codes after which the first process has said what there is to say
UNEXPECTED = 70  # exit code of an error that nobody foresaw: 1 is an answer
TOLD = 4_000  # characters that a failed process is quoted with


# --- one process ------------------------------------------------------------------------------------------------------


def answered(work: Callable[[], int]) -> int:
    """What `work` returns, or the exit code of its failure: 2 for bad input, 70 for an error that nobody foresaw, 130 after
    Ctrl-C, 143 after SIGTERM.

    The message, or the whole traceback of the unforeseen, goes to stderr. One of several processes does not return: it ends
    here, with that code.
    """
    if int(os.environ.get("RANK", "0")):
        _be_quiet()
    try:
        code = work()
    except KeyboardInterrupt as stop:
        print(f"\nInterrupted. {stop}", file=sys.stderr)
        code = 128 + getattr(stop, "signum", signal.SIGINT)
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 2
    except SystemExit as stop:  # of the parser
        if isinstance(stop.code, str):
            print(f"Error: {stop.code}", file=sys.stderr)
        code = 2 if isinstance(stop.code, str) else stop.code or 0
    except Exception as error:
        told = _told(error)
        print(f"Error: {told}" if told else traceback.format_exc(), file=sys.stderr)
        code = 2 if told else UNEXPECTED
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Threads of the process group now and then abort an interpreter that shuts down in order.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _told(error: Exception) -> str | None:
    """What to say of files that cannot be read, and of a model that must not be used; None for what nobody foresaw."""
    from datasets.exceptions import DatasetsError
    from safetensors import SafetensorError

    from .training.outcome import StrayChange

    if isinstance(error, DatasetsError):
        return f"`dataset`: a file of it cannot be read ({error.__cause__ or error}). Correct it, or copy it again."
    if isinstance(error, SafetensorError):
        return f"A file of weights is damaged or not whole: {error}. Copy or download it again."
    return str(error) if isinstance(error, StrayChange) else None


def _be_quiet() -> None:
    """The first process speaks for all."""
    import datasets
    import transformers

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    logging.getLogger("hf_unlearn").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _end_with_launcher() -> None:
    """Interrupt this process, which leaves a checkpoint, when its launcher is gone and closes the pipe that it holds."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


# --- the launcher -----------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """`hf-unlearn run`: here, or in as many processes as `--num-processes` says; returns the exit code of the run."""
    parser = argparse.ArgumentParser(prog="hf-unlearn run", add_help=False, allow_abbrev=False)
    parser.add_argument("--num-processes", "--num_processes", default="1", metavar="N")
    given, rest = parser.parse_known_args(list(words))

    def work() -> int:
        from . import run

        if given.num_processes == "1":
            return run.work(rest)
        processes = _number(given.num_processes)
        arguments, args, method = run.checked(rest)
        environment = _environment(processes, args)
        if arguments.model_config is not None and not os.path.exists(arguments.model):
            run.prepare(arguments, args, method)  # one process trains the original
        return launch([sys.executable, "-m", "hf_unlearn.launch", *rest], processes, environment)

    return answered(work)


def _number(given: str) -> int:
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"`--num-processes {given}`: a number of processes, 1 or more, is wanted.")
    if "RANK" in os.environ:
        raise ValueError(
            "`--num-processes` starts processes, and this already is one that a launcher started. Leave one of the two out."
        )
    return int(given)


def _environment(processes: int, args: UnlearningArguments) -> dict[str, str]:
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
        if first and not (codes[first] == codes[0] and codes[0] in SPOKEN):
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
    told = errors.read().decode(errors="replace")[-TOLD:]
    print(f"Process {rank} ended with code {code}, and the run with it:\n{told}", file=sys.stderr)


if __name__ == "__main__":
    from .run import work

    _end_with_launcher()
    sys.exit(answered(lambda: work(sys.argv[1:])))
