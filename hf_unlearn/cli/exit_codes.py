"""Turn what a command returns or raises into a message and an exit code."""

import atexit
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

BAD_INPUT = 2
UNEXPECTED = 70  # not 1, which is an answer: "the model has not forgotten"


def answered(work: Callable[[], int]) -> int:
    """Return the result of `work`, or the exit code of its failure; print a message for the failure to stderr.

    The code is 2 for bad input, 70 with a traceback for an unexpected error, 130 after Ctrl-C, and 143 after SIGTERM. If several
    processes run, this function does not return but ends the process with the code.
    """
    _make_outputs_last()
    if int(os.environ.get("RANK", "0")):
        _be_quiet()
    try:
        code = work()
    except KeyboardInterrupt as stop:
        print(f"\nInterrupted. {stop}", file=sys.stderr)
        code = 128 + getattr(stop, "signum", signal.SIGINT)
    except SystemExit as stop:  # a parser gives a message or a code
        if isinstance(stop.code, str):
            print(f"Error: {_shortened(stop.code)}", file=sys.stderr)
        code = BAD_INPUT if isinstance(stop.code, str) else stop.code or 0
    except Exception as error:
        message = _message(error)
        print(traceback.format_exc() if message is None else f"Error: {_shortened(message)}", file=sys.stderr)
        code = UNEXPECTED if message is None else BAD_INPUT
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Threads of the process group sometimes abort an interpreter that shuts down in the normal way.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class LastingOutput(io.TextIOWrapper):
    """A stream to a terminal or a pipe. When nobody reads it any more, as after `| head`, the process goes on and writes nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _make_outputs_last() -> None:
    """Replace what a terminal cannot show, and outlive it, because a run must not end, or lose its push, by a line of text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if stream is getattr(sys, f"__{name}__"):
                kept = LastingOutput(stream.buffer, stream.encoding, "replace", line_buffering=stream.line_buffering)
                setattr(sys, name, kept)


def _message(error: Exception) -> str | None:
    """Return the message of an error that bad input can cause, and None for an unexpected one."""
    if isinstance(error, ValueError | TypeError | OSError | ArithmeticError | ImportError):
        return str(error)
    from datasets.exceptions import DatasetsError
    from safetensors import SafetensorError

    from ..training.outcome import StrayChange

    if isinstance(error, DatasetsError):
        return f"`dataset`: a file cannot be read ({error.__cause__ or error}). Correct it, or copy it again."
    if isinstance(error, SafetensorError):
        return f"A file of weights is damaged or incomplete: {error}. Copy or download it again."
    return str(error) if isinstance(error, StrayChange) else None


def _shortened(message: str) -> str:
    """Cut words that fill a screen, such as a value that was pasted by mistake."""
    return re.sub(r"\S{300,}", lambda word: f"{word.group()[:80]}…", message)


def _be_quiet() -> None:
    """Silence this process, because the first one writes for all."""
    import datasets
    import transformers

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    logging.getLogger("hf_unlearn").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
