"""Measure memory and time of what a run does with its rows, for forget sets of 10⁴, 10⁵ and 10⁶ rows.

    python recipes/benchmarks/big_inputs.py [parts | run | logits] [--rows 10000 100000 1000000] [--kind images texts]

`parts`: request and split, the checks of both sets (with the search for common rows), an epoch of the sampler, 20,000 training
items, and the final evaluation. Each part has its CPU seconds and the growth of private memory (pages that belong to no file):
the peak during the part, and what is left after it. `run`: a whole run of gradient difference with a small perceptron, over the
run at 10⁴ rows. `logits`: only the reference outputs of a model of 1,000 classes. Each number of rows has a fresh process. Half of
the data set is forgotten, and the rows lie on disk, memory-mapped. The script prints one JSON object on each line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SIZE, CLASSES = 4, 10
WORDS = [f"w{i}" for i in range(200)]


def private() -> float:
    """Return the anonymous resident memory of this process, in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@contextmanager
def measured(into: dict[str, Any], name: str) -> Iterator[None]:
    """Measure CPU seconds and the growth of private memory: the highest, sampled every 5 ms, and that at the end."""
    before, done = private(), threading.Event()
    highest = before

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.process_time()
    try:
        yield
    finally:
        seconds = time.process_time() - started
        done.set()
        watcher.join()
        after = private()
        into[name] = {
            "seconds": round(seconds, 2), "peak_mib": round(max(highest, after) - before, 1), "left_mib": round(after - before, 1)
        }  # fmt: skip


def write(kind: str, rows: int, folder: str) -> Any:
    """Write a data set to disk and memory-map it: 2 × `rows` rows, every second one of user `gone`."""
    import datasets

    def batches() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for start in range(0, 2 * rows, 10_000):
            n = min(10_000, 2 * rows - start)
            label = rng.integers(CLASSES, size=n)
            batch: dict[str, Any] = {"label": label, "user": np.where(np.arange(n) % 2, "gone", "kept")}
            if kind == "images":
                batch["pixel_values"] = (
                    rng.normal(size=(n, 3, SIZE, SIZE)).astype(np.float32) + label[:, None, None, None]
                )
            else:
                chosen = rng.integers(len(WORDS), size=(n, 6))
                batch["text"] = [" ".join(WORDS[i] for i in row) for row in chosen]
            yield batch

    own: Any = datasets.Value("string")
    if kind == "images":
        own = datasets.Array3D((3, SIZE, SIZE), "float32")
    features = datasets.Features(
        {"pixel_values" if kind == "images" else "text": own, "label": datasets.ClassLabel(CLASSES), "user": datasets.Value("string")}
    )  # fmt: skip
    with datasets.arrow_writer.ArrowWriter(path=f"{folder}/data.arrow", features=features) as writer:
        for batch in batches():
            writer.write_batch(batch)
        writer.finalize()
    return datasets.Dataset.from_file(f"{folder}/data.arrow")


def small_model(kind: str, folder: str) -> tuple[Any, Any]:
    if kind == "images":
        from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification

        return PixelMLPForImageClassification(
            PixelMLPConfig(image_size=SIZE, hidden_sizes=(16,), num_labels=CLASSES)
        ), None
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = BertConfig(
        vocab_size=len(WORDS) + 2, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=16, num_labels=CLASSES,
    )  # fmt: skip
    return BertForSequenceClassification(config), PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


def trainer_for(kind: str, data: Any, folder: str, into: dict[str, Any], **settings: Any) -> Any:
    from hf_unlearn import ForgetRequest, GradientDifference, UnlearningArguments, UnlearningTrainer

    model, tokenizer = small_model(kind, folder)
    with measured(into, "request and split"):
        split = ForgetRequest(column="user", values=["gone"]).split(data)
    args = UnlearningArguments(
        f"{folder}/out", use_cpu=True, save_strategy="no", disable_tqdm=True, forget_target=-1.0, max_retain_drop=1.0,
        per_device_train_batch_size=256, per_device_eval_batch_size=256, logging_strategy="no", forget_kind="samples",
        check_steps=100, **settings,
    )  # fmt: skip
    as_numpy = [d.with_format("numpy") if kind == "images" else d for d in (split.forget, split.retain)]
    with measured(into, "checks"):
        return UnlearningTrainer(model, args, GradientDifference(), *as_numpy, processing_class=tokenizer)


def parts(kind: str, rows: int, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    trainer = trainer_for(kind, write(kind, rows, folder), folder, found)
    with measured(found, "sampler, one epoch"):
        count = sum(1 for _ in trainer.sampler)
    assert count == rows
    keys = [key for key, _ in zip(trainer.sampler, range(20_000), strict=False)]
    with measured(found, "20,000 items"):
        for start in range(0, len(keys), 256):
            trainer.data_collator(trainer.unlearning_data.__getitems__(keys[start : start + 256]))
    return found


def run(kind: str, rows: int, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    trainer = trainer_for(kind, write(kind, rows, folder), folder, found, num_train_epochs=1.0)
    with measured(found, "train"):
        trainer.train()
    assert trainer.outcome.steps == -(-rows // 256)
    return found


def logits(kind: str, rows: int, folder: str) -> dict[str, Any]:
    """Store and read the reference outputs of a model of 1,000 classes, without running a model."""
    import torch

    from hf_unlearn.models.reference import Reference
    from hf_unlearn.training.verification import mean_total_variation
    from hf_unlearn.utils.large_tensors import Collector

    found: dict[str, Any] = {}
    with measured(found, "two tables of outputs"):
        tables = []
        for _ in range(2):
            collector = Collector(rows, folder)
            for _ in range(0, rows, 500):
                collector.add(torch.randn(500, 1000))
            tables.append(collector.table())
    with measured(found, "predictions and distance"):
        reference = Reference(tables[0], None)
        reference.remembered(tables[1], torch.arange(rows))
        mean_total_variation(*tables)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("parts", "run", "logits"), default="parts")
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kind", nargs="+", choices=("images", "texts"), default=["images", "texts"])
    parser.add_argument("--folder", help="folder for the data sets (default: the one for temporary files)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.here:
        for kind in options.kind[: 1 if options.what == "logits" else None]:
            for rows in options.rows:
                words = [
                    options.what,
                    "--here",
                    "--rows",
                    str(rows),
                    "--kind",
                    kind,
                    "--folder",
                    options.folder or tempfile.gettempdir(),
                ]
                subprocess.run(
                    [sys.executable, __file__, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
        return
    import torch

    torch.set_num_threads(1)
    do: Callable[..., dict[str, Any]] = {"parts": parts, "run": run, "logits": logits}[options.what]
    (kind,), (rows,) = options.kind, options.rows
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps({"kind": kind, "rows": rows, **do(kind, rows, folder)}), flush=True)


if __name__ == "__main__":
    main()
