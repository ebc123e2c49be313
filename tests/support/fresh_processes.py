"""Processes that a test may kill at any moment. They are forked from a server that has no threads and holds no lock.

A process that is forked from the tests themselves inherits the locks that other threads hold at that moment. It also shares locks
that are made for several processes, such as tqdm's: if it is killed while it holds one, the tests would wait for it for ever.
"""

import multiprocessing
import os
import random
import socket
import sys
import time
import traceback
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

CONTEXT = multiprocessing.get_context("forkserver")
DEADLINE = 300  # seconds
PRELOADED = (
    "tests.support.runs",
    "hf_unlearn.pipeline.unlearn",
    "hf_unlearn.trainer",
    "hf_unlearn.evaluation.report.report",
    "sklearn.linear_model",
)
SAFE_THREADS = {"jemalloc_bg_thd"}  # a thread of pyarrow that handles forks itself


def start_server():
    """Start the server if it is not running: a Python with one thread that has imported what the processes need."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    with changed_environment(PYTHONWARNINGS="ignore"):  # it would warn of the semaphores that killed processes leave
        resource_tracker.ensure_running()
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    with changed_environment(PYTHONPATH=path, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"):
        forkserver.ensure_running()


@contextmanager
def changed_environment(**values):
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def start(work, *args, log=os.devnull, environment=None):
    """Start `work(*args)`, a function of a module, in a new process. It writes to `log`, and its exit code is what `work` returns."""
    start_server()
    names = ("TAUGHT", "HF_UNLEARN_RETRAINED_CACHE")  # the server may be older than these values
    environment = {**{name: os.environ[name] for name in names}, **(environment or {})}
    process = CONTEXT.Process(target=_run, args=(work, args, str(log), environment))
    process.start()
    return process


def start_together(work, *args, log=os.devnull, processes=2):
    """Start `work(*args)` in processes that find each other as those of a launcher do. The first writes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": processes}
    children = []
    for rank in range(processes):
        numbers = {**where, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": 1}
        environment = {name: str(value) for name, value in numbers.items()}
        children.append(start(work, *args, log=os.devnull if rank else log, environment=environment))
    return children


def _run(work, args, log, environment):
    from tqdm.std import TqdmDefaultWriteLock

    threads = {Path(f"/proc/{os.getppid()}/task/{t}/comm").read_text().strip() for t in own_threads(os.getppid())[1:]}
    assert threads <= SAFE_THREADS, f"the server has threads: {threads}"
    assert not hasattr(TqdmDefaultWriteLock, "mp_lock"), "the server has made a lock that its processes share"
    code = 1
    try:
        with open(log, "a", buffering=1) as output:
            for standard in (1, 2):
                os.dup2(output.fileno(), standard)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
        os.environ.update(environment)
        for kept in (PartialState, AcceleratorState, GradientState):
            kept._reset_state()
        torch.set_num_threads(1)
        torch.manual_seed(random.SystemRandom().randrange(2**31))  # a result must not depend on the initial seed
        code = work(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def own_threads(process):
    """Return the numbers of the threads of a process, the main one first."""
    return sorted(os.listdir(f"/proc/{process}/task"), key=lambda t: (int(t) != process, int(t)))


def exit_codes(processes, seconds=DEADLINE):
    """Return exit codes, negative for a signal. A process that does not end in time is killed, and the test fails."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [p.pid for p in processes if p.exitcode is None]
    for process in processes:
        process.kill()
        process.join(10)
    assert not late, f"processes {late} have not ended after {seconds} seconds"
    return [p.exitcode for p in processes]


def until(condition, *processes, seconds=DEADLINE):
    """Wait until `condition()` holds. The test fails if that takes too long or if one of `processes` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing after {seconds} seconds"
        assert all(p.exitcode is None for p in processes) or condition(), "a process ended before"
        time.sleep(0.0005)
