"""One process of `hf-unlearn run --num-processes N`: `python -m hf_unlearn.cli.worker`, with the words of the run."""

import os
import signal
import sys
import threading

from .exit_codes import answered


def end_with_launcher() -> None:
    """Interrupt this process when its launcher ends, so that it writes a checkpoint and ends too.

    The launcher holds the other end of the standard input, and the system closes that end with the launcher.
    """

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell sets this for a command in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()


def work() -> int:
    """Run once, with the words of the command line."""
    from .run import run_once  # takes seconds, in which an interrupt must end in its exit code too

    return run_once(sys.argv[1:], holds_folder=True)


if __name__ == "__main__":
    end_with_launcher()
    sys.exit(answered(work))
