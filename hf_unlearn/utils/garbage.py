"""Python's garbage collection around the training of the HF Trainer."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_collection() -> Iterator[None]:
    """Keep what exists already out of garbage collection: it takes a quarter of a second to visit every loaded module.

    The HF Trainer collects garbage before the first step of every training, which costs more than a small model's training.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
