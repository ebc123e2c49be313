"""Train several shards, one after another or side by side in processes, and what prepares their rows."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from ..data.overlap import seen_rows
from ..models.classifier_class import is_image_dataset
from ..models.pretrained import load_processing_class
from ..models.processor import Processor
from ..models.sharded_classifier import Sharding, fresh_classifier
from ..training.row_checks import check_every_row
from .shard_training import ShardWork, train_shard

logger = logging.getLogger(__name__)

WATCHED = 1.0  # seconds between two looks at the parent


@dataclass
class ShardJob:
    """One shard to train, with all that it takes, so that another process can do it.

    Attributes:
        sharding: base and settings.
        work: which stages.
        rows: of the shard, in order.
        processing_folder: where the tokenizer or image processor is.
        checkpoints: folders with checkpoints; new ones go into the first.
        folder: of the version that is made.
        use_cpu: True to train on the CPU though there is a GPU.
    """

    sharding: Sharding
    work: ShardWork
    rows: Any
    processing_folder: Path
    checkpoints: list[Path]
    folder: Path
    use_cpu: bool

    def run(self) -> None:
        processor = processor_of(self.sharding, load_processing_class(str(self.processing_folder)))
        rows = processor.align(self.rows, "dataset", quiet=True)
        train_shard(self.sharding, self.work, rows, processor, self.checkpoints, self.folder, self.use_cpu)


def _run_one(job: ShardJob) -> float:
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    job.run()
    return job.work.seconds


def _begin(ranks: Any) -> None:
    """Begin a process: it ends with its parent, and has a GPU of its own as far as there are enough."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with ranks.get_lock():
        rank, ranks.value = ranks.value, ranks.value + 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if devices and devices != [""]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank % len(devices)]


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed one cannot tell it, and the pool would wait for it forever."""
    while os.getppid() == parent:
        time.sleep(WATCHED)
    os._exit(1)


def processor_of(sharding: Sharding, processing_class: Any) -> Processor:
    classifier, _ = fresh_classifier(sharding)
    return Processor(classifier, processing_class, **sharding.columns)


def prepared_rows(sharding: Sharding, given: Any, processing_class: Any) -> Any:
    """Return the rows with their columns in order, once every row can become an input of the model.

    Raises:
        ValueError: a row cannot be read.
    """
    rows = given.with_format(None).select_columns(sorted(given.column_names))
    processor = processor_of(sharding, processing_class)
    if processor.text == is_image_dataset(rows) and not processor.inputs_among(rows.column_names):
        kinds = ("texts", "pictures") if processor.text else ("pictures", "texts")
        raise ValueError(f"`model={sharding.base!r}` reads {kinds[0]}, and the rows hold {kinds[1]}.")
    aligned = processor.align(rows, "dataset", quiet=True)
    processor.check(aligned, "dataset")
    check_every_row(processor, aligned, "dataset")
    return rows


def check_held_out(sharding: Sharding, held_out: Any | None, rows: Any, processing_class: Any) -> None:
    """Warn about held-out rows that are also among the rows to train on, and raise ValueError if all are."""
    if held_out is None:
        return
    columns = processor_of(sharding, processing_class).inputs_among(held_out.column_names)
    count, _ = seen_rows(held_out, rows, columns) if columns and len(held_out) else (0, True)
    if count == len(held_out):
        raise ValueError(
            "`held_out` has no row that the shards are not trained on, so no weights can be fitted on it. Name other rows."
        )
    if count:
        logger.warning(
            "`held_out`: %d of %d rows have an identical copy among those to train on.", count, len(held_out)
        )


def save_processing(folder: Path, sharding: Sharding, processing_class: Any) -> None:
    """Save the tokenizer or image processor, and the configuration that says which of them it is."""
    processing_class.save_pretrained(folder)
    fresh_classifier(sharding)[0].config.save_pretrained(folder)


def run_jobs(jobs: Sequence[ShardJob], num_processes: int, tell: Callable[[str], object]) -> None:
    """Train the shards of all jobs, side by side in at most `num_processes` processes. The result is the same."""
    workers = min(num_processes, len(jobs))
    if workers < 2 and torch.cuda.device_count() < 2:
        for number, job in enumerate(jobs, 1):
            job.run()
            tell(f"Shard {job.work.number} is trained ({number} of {len(jobs)}).")
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    ranks = context.Value("i", 0)
    with ProcessPoolExecutor(max(1, workers), context, _begin, (ranks,)) as pool:
        for number, (job, seconds) in enumerate(zip(jobs, pool.map(_run_one, jobs), strict=True), 1):
            job.work.seconds = seconds
            tell(f"Shard {job.work.number} is trained ({number} of {len(jobs)}).")
