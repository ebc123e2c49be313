"""Measure sharded classifiers on fine-tuned public bases: accuracy, cost of a deletion, exactness, time of an answer, size.

    python recipes/benchmarks/shards.py --base-folder BASES --data-folder DATA --tasks trec --what curve requests latency stream
    python recipes/benchmarks/shards.py --table

Data and bases are those of `real_models.py`, whose options these are. `curve` trains 1, 2, 4, 8 and 16 shards. `requests` deletes
twenty random users and single rows from eight shards, and trains each changed shard from the start too: all bits must be equal.
`latency` times answers in batches of 32 against one adapter. `stream` deletes a hundred rows one after another; every tenth run is
killed once and started again. Every finished measurement is a line in `--out`, so a killed benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from real_models import Lab, append, lab_parser

KEY = bytes(range(32))  # so that a benchmark can be repeated; a user's key is drawn at random
SHARDS = (1, 2, 4, 8, 16)
USERS = 400  # who have about five rows each
REQUESTS, STREAM = 20, 100
BATCH, ROUNDS = 32, 30  # of an answer that is timed


class Bench:
    """One task: its rows, and models with several numbers of shards, which are trained when they are first needed."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.lab, self.options = Lab(name, options), options
        self.folder = options.cache / "shards" / name / f"{options.epochs:g}-{options.rate:g}-{options.batch}"
        rows, self.test = self.lab.sets["train"], self.lab.sets["test"]
        draw = random.Random(0)
        self.rows = rows.remove_columns("owner").add_column("owner", [f"u{draw.randrange(USERS)}" for _ in rows])

    def trainer(self) -> Any:
        from hf_unlearn.shards.trainer import ShardedTrainer

        return ShardedTrainer(use_cpu=True, tell=lambda said: None)

    def model(self, shards: int, slices: int = 4) -> Path:
        """Return the folder of a model."""
        from hf_unlearn.shards.settings import ShardSettings

        folder = self.folder / f"{shards}x{slices}"
        if not folder.exists():
            o = self.options
            settings = ShardSettings(
                num_shards=shards, slices=slices, group_column="owner", num_train_epochs=o.epochs,
                learning_rate=o.rate, batch_size=o.batch,
            )  # fmt: skip
            folder.parent.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            self.trainer().train(str(self.lab.base), self.rows, folder, settings=settings, key=KEY)
            (folder / "_private" / "cpu.json").write_text(json.dumps(time.process_time() - began))
        return folder

    def accuracy(self, folder: Path) -> float:
        from hf_unlearn.data.pairs import PreparedRows
        from hf_unlearn.models.prediction import predict
        from hf_unlearn.models.pretrained import load_classifier, load_processing_class
        from hf_unlearn.models.processor import Processor

        model = load_classifier(str(folder)).eval()
        processor = Processor(model, load_processing_class(str(folder)))
        logits, labels = predict(model, PreparedRows(self.test, processor, "test"), processor)
        assert labels is not None
        return round(100 * (logits.argmax(-1) == labels).double().mean().item(), 2)


def curve(bench: Bench) -> dict[str, Any]:
    """Accuracy and CPU seconds of the training for each number of shards, and bytes of a shard."""
    found: dict[str, Any] = {}
    for shards in bench.options.shards:
        folder = bench.model(shards)
        size = (folder / "shard-00" / "adapter_model.safetensors").stat().st_size
        cpu = json.loads((folder / "_private" / "cpu.json").read_text())
        found[str(shards)] = {"accuracy": bench.accuracy(folder), "cpu": round(cpu, 1), "shard_bytes": size}
        print(f"{bench.lab.name}, {shards} shards: {found[str(shards)]}", flush=True)
    return found


def requests(bench: Bench) -> dict[str, Any]:
    """Delete users and rows from eight shards. Returns the share of steps of each, and how many gave the bits of a training anew."""
    from hf_unlearn.data.forget_request import ForgetRequest
    from hf_unlearn.shards.version import Version

    model, draw = bench.model(8), random.Random(0)
    one = bench.model(1, 1)
    whole = sum(sum(w.steps) for w in _plans(one))  # steps of one adapter on all rows
    owners = sorted(set(bench.rows["owner"]))
    asked = [ForgetRequest(column="owner", values=[o]) for o in draw.sample(owners, min(len(owners), REQUESTS // 2))]
    asked += [ForgetRequest(indices=[draw.randrange(len(bench.rows))]) for _ in range(REQUESTS - len(asked))]
    shares, equal, users = [], 0, []
    before = Version.load(model).sharding.shards
    for number, request in enumerate(asked):
        with tempfile.TemporaryDirectory() as place:
            plan = bench.trainer().plan_to_forget(model, bench.rows, request)
            bench.trainer().forget(model, bench.rows, request, Path(place) / "new")
            now = Version.load(Path(place) / "new").sharding.shards
            changed = {w.number for w in plan.work}
            same = all(
                a["weights"] == b["weights"]
                for i, (a, b) in enumerate(zip(before, now, strict=True))
                if i not in changed
            )
            for i in changed:
                anew = bench.trainer().retrained_weights(
                    Path(place) / "new", bench.rows, i, Path(place) / f"scratch-{i}"
                )
                same = same and anew == now[i]["weights"]
            equal += same
        shares.append(plan.steps / whole)
        if request.column:
            users.append(plan.steps / whole)
        print(
            f"{bench.lab.name}, request {number + 1}: {plan.steps} of {whole} steps, {'equal' if same else 'OTHER'} bits",
            flush=True,
        )
    return {
        "equal": equal,
        "of": len(asked),
        "share": statistics.mean(shares),
        "share_of_users": statistics.mean(users),
    }


def _plans(folder: Path) -> list[Any]:
    from hf_unlearn.shards.shard_training import plan_shard
    from hf_unlearn.shards.version import Version

    v = Version.load(folder)
    return [plan_shard(v.sharding, i, part, v.key, []) for i, part in enumerate(v.ledger.ids)]


def latency(bench: Bench) -> dict[str, Any]:
    """Median seconds of a batch: one adapter with PEFT, k shards, and k shards by PEFT's batches of mixed adapters."""
    import copy

    import torch
    from peft import PeftModel

    from hf_unlearn.models.forward import model_inputs
    from hf_unlearn.models.pretrained import load_classifier, load_processing_class
    from hf_unlearn.models.processor import Processor
    from hf_unlearn.models.sharded_classifier import fresh_classifier

    torch.set_num_threads(1)
    sharded = load_classifier(str(bench.model(8))).eval()
    processor = Processor(sharded, load_processing_class(str(bench.model(8))))
    batch = model_inputs(processor.collate([processor(bench.test[i]) for i in range(BATCH)]))
    base, _ = fresh_classifier(sharded.sharding)
    one = PeftModel.from_pretrained(copy.deepcopy(base), str(bench.model(8) / "shard-00")).eval()
    mixed = PeftModel.from_pretrained(copy.deepcopy(base), str(bench.model(8) / "shard-00"), adapter_name="0")
    for i in range(1, 8):
        mixed.load_adapter(str(bench.model(8) / f"shard-{i:02d}"), str(i))
    mixed.eval()
    names = [str(i) for i in range(8) for _ in range(BATCH)]
    eightfold = {k: v.repeat(8, *[1] * (v.ndim - 1)) for k, v in batch.items()}
    ways: dict[str, Callable[[], Any]] = {
        "one": lambda: one(**batch), "shards": lambda: sharded(**batch), "mixed": lambda: mixed(**eightfold, adapter_names=names),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for name, run in ways.items():
                began = time.process_time()
                run()
                times[name].append(time.process_time() - began)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        **{k: round(v, 4) for k, v in medians.items()},
        "ratio": medians["shards"] / medians["one"],
        "mixed_ratio": medians["mixed"] / medians["one"],
    }


def stream(bench: Bench) -> dict[str, Any]:
    """Delete rows one after another, each from the version before; every tenth run is killed once. The end must be exact."""
    from hf_unlearn.shards.version import Version

    place = bench.folder / "stream"
    place.mkdir(parents=True, exist_ok=True)
    draw, last, killed = random.Random(1), bench.model(8), 0
    rows = draw.sample(range(len(bench.rows)), STREAM)
    for number, row in enumerate(rows):
        target = place / str(number)
        if not target.exists():
            job = {"model": str(last), "row": row, "target": str(target), "task": bench.lab.name}
            command = [sys.executable, __file__, "--job", json.dumps(job), *_shared_words(bench.options)]
            if number % 10 == 9:
                child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                time.sleep(draw.uniform(5, 12))
                killed += child.poll() is None
                child.kill()
                child.wait()
            if not target.exists():
                do_job(job, bench.options)
        if number and last != bench.model(8):
            shutil.rmtree(last)
            last.mkdir()  # so that a benchmark that goes on knows that it was there
        last = target
    version = Version.load(last)
    exact = 0
    for i in version.sharding.present:
        with tempfile.TemporaryDirectory() as scratch:
            exact += (
                bench.trainer().retrained_weights(last, bench.rows, i, scratch) == version.sharding.shards[i]["weights"]
            )
    return {
        "deleted": len(version.ledger.deleted), "killed": killed, "exact_shards": exact, "shards": len(version.sharding.present),
        "accuracy": bench.accuracy(last),
    }  # fmt: skip


def _shared_words(options: argparse.Namespace) -> list[str]:
    given = {
        "base-folder": options.base_folder,
        "data-folder": options.data_folder,
        "cache": options.cache,
        "rows": options.rows,
    }
    given |= {"epochs": options.epochs, "rate": options.rate, "batch": options.batch}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def do_job(job: dict[str, Any], options: argparse.Namespace) -> None:
    from hf_unlearn.data.forget_request import ForgetRequest

    bench = Bench(job["task"], options)
    bench.trainer().forget(job["model"], bench.rows, ForgetRequest(indices=[job["row"]]), job["target"])


WHAT: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "curve": curve,
    "requests": requests,
    "latency": latency,
    "stream": stream,
}


def table(out: Path) -> None:
    """Print what was measured, the last line of each."""
    found = {(line["task"], line["what"]): line for line in map(json.loads, out.read_text().splitlines())}
    tasks = list(dict.fromkeys(task for task, _ in found))
    print("| shards | " + " | ".join(tasks) + " |\n|---|" + "---|" * len(tasks))
    for shards in SHARDS:
        cells = [found[task, "curve"]["found"].get(str(shards)) if (task, "curve") in found else None for task in tasks]
        print(f"| {shards} | " + " | ".join("–" if c is None else f"{c['accuracy']:.1f}" for c in cells) + " |")
    for (task, what), line in found.items():
        if what != "curve":
            print(f"{task}, {what}: " + ", ".join(f"{k} {v:.4g}" for k, v in line["found"].items()))


def main() -> None:
    parser = lab_parser(__doc__, "shards.jsonl", ("trec", "emotion", "cifar10"))
    parser.add_argument("--what", nargs="+", default=list(WHAT), choices=WHAT)
    parser.add_argument("--shards", nargs="+", type=int, default=SHARDS, help="of `curve`")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        table(options.out)
        return
    if options.base_folder is None or options.data_folder is None:
        parser.error("--base-folder and --data-folder are needed to measure.")
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    if options.job:
        do_job(options.job, options)
        return
    for name in options.tasks:
        bench = Bench(name, options)
        for what in options.what:
            found = WHAT[what](bench)
            append(
                options.out,
                {"task": name, "what": what, "epochs": options.epochs, "rate": options.rate, "found": found},
            )
            print(f"{name}, {what}: {found}", flush=True)


if __name__ == "__main__":
    main()
