"""Measure how the defaults forget on fine-tuned public bases, against models that were retrained from the same base.

    python recipes/benchmarks/real_models.py --base-folder BASES --data-folder DATA --tasks trec --methods jit --requests LOC --seeds 0
    python recipes/benchmarks/real_models.py --base-folder BASES --data-folder DATA --methods      (no method: only train the models)
    python recipes/benchmarks/real_models.py --base-folder BASES --data-folder DATA --tasks trec --export out/trec-minilm
    python recipes/benchmarks/real_models.py --table --out results.jsonl

`--base-folder` holds the bases as folders `minilm` (a text encoder with its tokenizer) and `dinov2-small-56` (a ViT that reads
images of 56 pixels). `--data-folder` holds each data set as a folder of its name. A request is the name of a class, `random`, a
tenth of the rows, or `user`, a twentieth of them that mostly belong to two classes.

The originals, three retrained models for each request, and what the audit measured of them are kept in `--cache`. Every finished
cell is a line in `--out`. So a killed benchmark continues, and several can run with one cache. A method that needs a setting
for a cell gets it with `jit:all`, which means `update="all"`, or `jit:lora`, which means an adapter (`peft_config="lora"`).

A training, and an unlearning up to the saved model, run in a process of their own, whose CPU time and peak memory count as a
whole: imports, data, checks and files are in, the report is not. A pass is a row that is read and trained on. A row that is
only read, or whose gradient ends before the network's body, counts as a third of a pass.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

RETRAINED = 3  # models for each request
OWNERS = 20
MEASURES = ("forget", "retain", "test", "membership")  # what a gap to retraining is the mean of
BASED = ("surrogate_distillation",)  # methods that are given the base


@dataclass(frozen=True)
class Task:
    """A base, the data it is fine-tuned on, and how.

    `classes`: only these, if not all; `requests`: classes to forget; `lora`: rank of the adapter that is trained in place of all
    weights, 0 for none.
    """

    data: str
    base: str
    requests: tuple[str, ...]
    classes: tuple[str, ...] = ()
    epochs: float = 3.0
    rate: float = 1e-4
    batch: int = 16
    warmup: int = 15
    lora: int = 0


MACHINES, ANIMALS = ("airplane", "automobile", "frog", "horse", "ship"), ("bird", "deer", "dog", "frog", "truck")
TASKS = {
    "trec": Task("trec", "minilm", ("LOC", "NUM", "ENTY")),
    "trec-lora": Task("trec", "minilm", ("LOC", "NUM", "ENTY"), epochs=5.0, rate=2e-3, lora=8),
    "emotion": Task("emotion", "minilm", ("joy", "sadness", "anger")),
    "cifar10": Task("cifar10", "dinov2-small-56", ("frog", "truck", "bird"), ANIMALS, rate=1.5e-5),
    "cifar10-machines": Task("cifar10", "dinov2-small-56", ("frog", "ship", "airplane"), MACHINES, rate=1.5e-5),
}


def selection(request: str) -> dict[str, Any]:
    """Return the options of `hf-unlearn run` that name the rows of a request."""
    if request == "random":
        return {"forget_fraction": 0.1, "forget_seed": 7}
    return {"forget_column": "owner", "forget_values": ["u0"]} if request == "user" else {"forget_class": [request]}


def split(rows: Any, request: str) -> Any:
    """Return what `hf-unlearn run` makes of the rows: `forget` and `retain`."""
    from hf_unlearn.pipeline.run_arguments import RunArguments

    return RunArguments(model="-", dataset="-", **selection(request)).split(rows, 0)


def owners(labels: np.ndarray) -> list[str]:
    """Give every row an owner. `u0` has a twentieth of the rows, and nearly all of them are of the two most frequent classes."""
    rng, often = np.random.default_rng(0), np.argsort(np.bincount(labels))[-2:]
    weight = np.where(np.isin(labels, often), 8.0, 1.0)
    number = rng.integers(1, OWNERS, len(labels))
    number[rng.choice(len(labels), len(labels) // OWNERS, replace=False, p=weight / weight.sum())] = 0
    return [f"u{i}" for i in number]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `folder` at the end, unless another process was faster."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if not folder.exists():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digest(*parts: Any) -> str:
    """Return 12 digits for settings and for the contents of files and of folders with Python files."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
                found.update(file.read_bytes())
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()[:12]


class Lab:
    """One task: its rows, its original, and the models that were retrained without the rows of a request."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.task, self.rows, self.cache = name, TASKS[name], options.rows, options.cache
        self.base = (options.base_folder / self.task.base).resolve()
        self.source = options.data_folder / self.task.data

    @cached_property
    def data(self) -> Path:
        """The folder with the splits `train`, `validation`, which methods may read to stop, and `test`. No text is twice in it."""
        from datasets import ClassLabel, concatenate_datasets, load_dataset

        folder = self.cache / "data" / f"{self.name}-{self.rows}"
        if folder.exists():
            return folder
        loaded = load_dataset(str(self.source.resolve()))
        names = loaded["train"].features["label"].names
        classes = list(self.task.classes or names)
        column = next(c for c in ("text", "image", "img") if c in loaded["train"].column_names)

        def cut(rows: Any, most: int) -> Any:
            rows = rows.select(np.flatnonzero(np.isin(rows["label"], [names.index(c) for c in classes])))
            rows = rows.select_columns([column, "label"]).shuffle(seed=0)
            rows = rows.select(range(min(most, len(rows))))
            labels = [classes.index(names[i]) for i in rows["label"]]
            feature = ClassLabel(names=classes)
            return rows.remove_columns("label").add_column("label", labels).cast_column("label", feature)

        tests = self.rows // 2 + self.rows // 10
        train = cut(loaded["train"], 2 * self.rows + tests)
        unseen = concatenate_datasets([train.select(range(self.rows, len(train))), cut(loaded["test"], tests)])
        every = concatenate_datasets([train.select(range(self.rows)), unseen.shuffle(seed=0)])
        if column == "text":
            first = {text: i for i, text in reversed(list(enumerate(every["text"])))}
            every = every.select(sorted(first.values()))
        every = every.add_column("owner", owners(np.asarray(every["label"])))
        ends = np.cumsum([0, self.rows, self.rows // 10, self.rows // 2])
        with whole_folder(folder) as partial:
            for start, end, name in zip(ends, ends[1:], ("train", "validation", "test"), strict=False):
                every.select(range(start, min(end, len(every)))).to_parquet(partial / f"{name}.parquet")
        return folder

    @cached_property
    def sets(self) -> Any:
        from datasets import load_dataset

        return load_dataset(str(self.data.resolve()))

    @cached_property
    def key(self) -> str:
        """Digest of all that the models of this task depend on."""
        return digest(asdict(self.task), self.data / "train.parquet", self.base / "model.safetensors")

    def trained(self, request: str | None = None, seed: int = 0) -> Path:
        """Return the folder of the original, or of a model retrained without the rows of `request`. It is trained if it is missing."""
        name = f"{request or 'original'}-{seed}-{digest(self.key, request and selection(request))}"
        folder = self.cache / "models" / self.name / name
        if not folder.exists():
            print(f"{self.name}: train {request or 'the original'}, seed {seed}", flush=True)
            with whole_folder(folder) as partial:
                job = {"do": "train", "task": self.name, "data": str(self.data), "base": str(self.base)}
                code, cost, said = run_job({**job, "request": request, "seed": seed, "folder": str(partial)})
                if code:
                    raise RuntimeError(f"A training ended with code {code}: {said}")
                (partial / "cost.json").write_text(json.dumps(cost))
        return folder


def train(task: str, data: str, base: str, request: str | None, seed: int, folder: str) -> dict[str, Any]:
    """Fine-tune the base with the Trainer as its users do, on all rows or without those of `request`. Save it in `folder`."""
    import peft
    import torch
    import transformers as t
    from datasets import load_dataset

    settings, rows = TASKS[task], load_dataset(data)["train"]
    names, kept = rows.features["label"].names, rows if request is None else split(rows, request).retain
    labels = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {n: i for i, n in enumerate(names)},
    }
    t.set_seed(seed)
    if "text" in rows.column_names:
        processing_class = t.AutoTokenizer.from_pretrained(base)
        model = t.AutoModelForSequenceClassification.from_pretrained(base, **labels)
        kept = kept.map(lambda b: processing_class(b["text"], truncation=True), batched=True)
        collate: Any = t.DataCollatorWithPadding(processing_class)
    else:
        processing_class = t.AutoImageProcessor.from_pretrained(base, backend="pil")
        model = t.AutoModelForImageClassification.from_pretrained(base, **labels)
        column = next(c for c in ("image", "img") if c in rows.column_names)

        def collate(batch: Any) -> dict[str, Any]:
            pixels = processing_class([r[column].convert("RGB") for r in batch], return_tensors="pt")
            return {**pixels, "labels": torch.tensor([r["label"] for r in batch])}

    if settings.lora:
        model = peft.get_peft_model(
            model, peft.LoraConfig(peft.TaskType.SEQ_CLS, r=settings.lora, lora_alpha=2 * settings.lora)
        )
    args = t.TrainingArguments(
        folder, num_train_epochs=settings.epochs, learning_rate=settings.rate, warmup_steps=settings.warmup,
        per_device_train_batch_size=settings.batch, seed=seed, logging_steps=10, save_strategy="no", report_to=[],
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True, remove_unused_columns="text" in rows.column_names,
    )  # fmt: skip
    trainer = t.Trainer(
        model=model, args=args, train_dataset=kept, processing_class=processing_class, data_collator=collate
    )
    from hf_unlearn.evaluation.comparison.passes import counted_passes

    with counted_passes() as passes:
        trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(finetuned_from=base)  # here `hf-unlearn run` finds the base
    return {"steps": trainer.state.global_step, **asdict(passes), **cost()}


def unlearn(words: list[str], output_dir: str) -> dict[str, Any]:
    """Do what `hf-unlearn run` does with these words, up to the saved model: no report is made."""
    from hf_unlearn.cli.run import checked
    from hf_unlearn.evaluation.comparison.passes import counted_passes
    from hf_unlearn.pipeline.prepare import prepare
    from hf_unlearn.pipeline.unlearn import unlearn
    from hf_unlearn.training.resuming import save_finished

    class Saved(Exception):
        """Ends the run before anything is measured."""

    run, args, method = checked([*words, "--output_dir", output_dir])
    trainers = []

    def keep(trainer: Any) -> None:
        save_finished(trainer, job.processing_class, Path(output_dir) / "model")
        trainers.append(trainer)
        raise Saved

    with counted_passes() as passes:
        job = prepare(run, args, method)
        with suppress(Saved):
            trainers.append(unlearn(job, method, keep=keep)[0])
    outcome = trainers[0].outcome
    told = {name: getattr(outcome, name) for name in ("steps", "stopped", "target_reached")}
    return {
        **told,
        "warnings": [without_paths(warning) for warning in outcome.warnings],
        "code": 0 if outcome.ok else 1,
        **asdict(passes),
        **cost(),
    }


def cost() -> dict[str, float]:
    """Return the CPU seconds of this process since it began, and its peak memory."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` of a process is at least what its parent held when it was started
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10  # type: ignore[index]
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"cpu_seconds": round(time.process_time(), 1), "peak_mib": round(peak)}


def passes_of(job: Mapping[str, Any]) -> float:
    return job["trained"] + job["read"] / 3


def run_job(job: Mapping[str, Any]) -> tuple[int, dict[str, Any], str]:
    """Run a job in a process of its own. Returns its exit code, what it measured, and the last line of what it said of an error."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, __file__, "--job", json.dumps({**job, "result": str(result)})]
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        found = json.loads(result.read_text()) if result.exists() else {}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, found, without_paths(lines[-1]) if done.returncode not in (0, 1) and lines else ""


def do_job(job: dict[str, Any]) -> int:
    """Do the job of this process, and write what was measured. Errors end it as they end `hf-unlearn run`."""
    from hf_unlearn.cli.exit_codes import answered

    work: Callable[..., dict[str, Any]] = {"train": train, "unlearn": unlearn}[job.pop("do")]
    result = Path(job.pop("result"))

    def measured() -> int:
        found = work(**job)
        code = found.pop("code", 0)
        result.write_text(json.dumps(found))
        return int(code)

    return answered(measured)


def without_paths(text: str) -> str:
    """Return `text` with `PATH` in place of every absolute path: results name no folder of a machine."""
    return re.sub(r"(?<![\w.])/[^\s'\"`,:;)]+", "PATH", text)


class Request:
    """One request of a task, its models, and the auditor that has measured the original."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.kind = "samples" if name in ("random", "user") else "class"

    @cached_property
    def original(self) -> Path:
        return self.lab.trained()

    @cached_property
    def folders(self) -> list[Path]:
        return [self.lab.trained(self.name, seed) for seed in range(1, RETRAINED + 1)]

    @cached_property
    def auditor(self) -> Any:
        import torch

        import hf_unlearn.evaluation as evaluation
        from hf_unlearn.evaluation.audit.auditor import Auditor
        from hf_unlearn.models.pretrained import load_classifier, load_processing_class

        folder = Path(evaluation.__file__).parent
        measuring = [
            "relearning.py",
            *(f"audit/{n}.py" for n in ("auditor", "checks", "model_outputs", "networks", "relearning_curves")),
        ]
        kept = self.lab.cache / "measured" / digest(*(folder / f for f in measuring))
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def load(folder: Path) -> Any:
            return load_classifier(str(folder), self.lab.sets["train"]).to(device).eval()

        self.load, sides = load, split(self.lab.sets["train"], self.name)
        return Auditor(
            load(self.original), forget=sides.forget, retain=sides.retain, test=self.lab.sets["test"], kind=self.kind, audit_seed=0,
            processing_class=load_processing_class(str(self.original), self.lab.sets["train"]), audit_cache=kept,
            others={f"retrained[{i}]": load(f) for i, f in enumerate(self.folders)},
        )  # fmt: skip

    @cached_property
    def retrained(self) -> list[Any]:
        return [self.auditor.measure(self.load(f), f"retrained[{i}]") for i, f in enumerate(self.folders)]

    def words(self, method: str, seed: int, extra: Sequence[str]) -> list[str]:
        """Return the command line of a run."""
        import torch

        from hf_unlearn.models.adapter_config import SHORTHANDS

        key, _, update = method.partition(":")
        options: dict[str, Any] = {
            "model": self.original, "dataset": self.lab.data, "validation_split": "validation", "method": key, "seed": seed,
            "use_cpu": str(not torch.cuda.is_available()).lower(), "disable_tqdm": "true", **selection(self.name),
        }  # fmt: skip
        if update:
            options["peft_config" if update in SHORTHANDS else "update"] = update
        if key in BASED:
            options["base_model"] = self.lab.base
        given = [[f"--{k}", *map(str, v if isinstance(v, list) else [v])] for k, v in options.items()]
        return [*(word for words in given for word in words), *extra]

    def cell(self, method: str, seed: int, extra: Sequence[str]) -> dict[str, Any]:
        """Run `method`, and measure the result. The models to compare with are measured first: that is kept if this is killed."""
        auditor, retrained = self.auditor, self.retrained
        with tempfile.TemporaryDirectory(dir=self.lab.cache, prefix=".run-") as scratch:
            job = {"do": "unlearn", "words": self.words(method, seed, extra), "output_dir": scratch}
            code, told, error = run_job(job)
            if not told:
                return {"exit_code": code, "error": error}
            out = {"exit_code": code, **{k: told[k] for k in ("steps", "stopped", "warnings", "target_reached")}}
            costs = [json.loads((f / "cost.json").read_text()) for f in self.folders]
            out["share"] = {  # of the mean over the retrained models
                name: round(of(told) / statistics.mean(map(of, costs)), 4)
                for name, of in {
                    "steps": lambda c: c["steps"], "passes": passes_of, "cpu": lambda c: c["cpu_seconds"],
                    "peak": lambda c: c["peak_mib"],
                }.items()
            }  # fmt: skip
            out |= {"cpu_seconds": told["cpu_seconds"], "peak_mib": told["peak_mib"]}
            model = Path(scratch) / "model"
            return (
                {**out, **self.measure(model, auditor, retrained)}
                if model.exists()
                else {**out, "error": "no model was saved"}
            )

    def measure(self, model: Path, auditor: Any, retrained: Sequence[Any]) -> dict[str, Any]:
        """Return accuracies in points, divergences on forget rows in nats, and the audit with three retrained models."""
        from hf_unlearn.metrics.functional.distance import jensen_shannon

        unlearned = auditor.measure(self.load(model), "unlearned")
        audit = auditor.audit(unlearned, retrained)
        logits = {id(m): m.outputs["forget"].logits for m in (auditor.original, unlearned, *retrained)}

        def apart(pairs: Any) -> list[float]:
            return [round(jensen_shannon(logits[id(a)], logits[id(b)]), 4) for a, b in pairs]

        return {
            "kind": self.kind,
            "verdict": audit.verdict,
            "because": audit.because,
            "handed_back": all(
                (rows.logits - auditor.original.outputs[name].logits).abs().max().item() < 1e-5
                for name, rows in unlearned.outputs.items()
            ),
            "original": figures(auditor.original, auditor.in_forgotten_class),
            "unlearned": figures(unlearned, auditor.in_forgotten_class),
            "retrained": [figures(m, auditor.in_forgotten_class) for m in retrained],
            "divergence": {
                "original": apart((auditor.original, r) for r in retrained),
                "unlearned": apart((unlearned, r) for r in retrained),
                "among": apart(combinations(retrained, 2)),
            },
        }


def figures(model: Any, in_forgotten_class: Any) -> dict[str, float]:
    """Return accuracies, and the AUC of an attack by the loss that tells forget rows from test rows, all in points.

    `forgotten` and `kept` are accuracies on test rows of the forgotten class and of the others.
    """
    from hf_unlearn.metrics.functional.membership import threshold_attack

    rows = model.outputs
    out = {name: rows[name].right for name in ("forget", "retain", "test")} | {
        "kept": rows["test"].right[~in_forgotten_class]
    }
    if in_forgotten_class.any():
        out["forgotten"] = rows["test"].right[in_forgotten_class]
    attack = threshold_attack(*((rows[s].logits, rows[s].labels) for s in ("retain", "test", "forget")))
    shares = {name: right.double().mean().item() for name, right in out.items()} | {"membership": attack["auc"]}
    return {name: round(100 * value, 2) for name, value in shares.items()}


def identity(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a cell is known by."""
    return (cell["task"], cell["request"], cell["method"], cell["seed"], *cell["options"])


def append(file: Path, cell: Mapping[str, Any]) -> None:
    """Add one line. Half a line, which a killed process left, is cut off first."""
    from hf_unlearn.evaluation.comparison.cells import append_line

    append_line(file, cell)


def read(file: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the finished cells; the last line of a cell counts."""
    from hf_unlearn.evaluation.comparison.cells import lines_of

    return {identity(cell): cell for cell in lines_of(file)}


def gap(ours: Mapping[str, float], retrained: Sequence[Mapping[str, float]]) -> float:
    """Mean absolute difference, in points, from the mean of the retrained models."""
    return statistics.mean(abs(ours[k] - _mean(retrained, k)) for k in MEASURES)


def ratio(cell: Mapping[str, Any], model: str = "unlearned") -> float:
    """Mean divergence of a model from the retrained ones on forget rows, over that among these."""
    apart = cell["divergence"]
    return statistics.mean(apart[model]) / max(1e-6, statistics.mean(apart["among"]))


def _mean(models: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.mean(m[name] for m in models)


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables: medians, and counts of verdicts and of exit codes."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for cell in cells:
        kind = cell["request"] if cell["request"] in ("random", "user") else "class"
        groups.setdefault((cell["task"], kind, " ".join([cell["method"], *cell["options"]])), []).append(cell)
    lines = []
    for classes in (True, False):
        some = {key: found for key, found in sorted(groups.items()) if (key[1] == "class") == classes}
        own = (
            ("forgotten − retrained", lambda c: c["unlearned"]["forgotten"] - _mean(c["retrained"], "forgotten")),
            ("kept − retrained", lambda c: c["unlearned"]["kept"] - _mean(c["retrained"], "kept")),
            ("divergence over that among retrained, original", lambda c: ratio(c, "original")),
            ("the same, unlearned", ratio),
        ) if classes else (
            ("gap to retrained, original", lambda c: gap(c["original"], c["retrained"])),
            ("gap, unlearned", lambda c: gap(c["unlearned"], c["retrained"])),
            ("retain lost", lambda c: c["original"]["retain"] - c["unlearned"]["retain"]),
        )  # fmt: skip
        shares = [
            (f"{n}, % of retraining's", lambda c, n=n: 100 * c["share"][n]) for n in ("steps", "passes", "cpu", "peak")
        ]
        columns = [*own, *shares]
        heads = [
            "task",
            "request",
            "method",
            "runs",
            *(name for name, _ in columns),
            "verdicts",
            "exit codes",
            "handed back",
        ]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)] if some else []
        for key, found in some.items():
            done = [c for c in found if "verdict" in c]
            medians = [f"{statistics.median(map(of, done)):.1f}" if done else "–" for _, of in columns]
            verdicts = counts(c.get("verdict", "failed") for c in found)
            back = str(sum(c.get("handed_back", False) for c in found))
            lines.append(
                "| "
                + " | ".join([*key, str(len(found)), *medians, verdicts, counts(c["exit_code"] for c in found), back])
                + " |"
            )
        lines += [""] if some else []
    return "\n".join(lines)


def counts(values: Any) -> str:
    return ", ".join(
        f"{n} {value}" if isinstance(value, str) else f"{n} × {value}" for value, n in Counter(values).most_common()
    )


def suiting() -> list[str]:
    """The methods that forget rows."""
    from hf_unlearn import METHODS

    return [key for key, method in METHODS.items() if not method.needs_column and key != "retrain"]


def export(lab: Lab, folder: Path) -> None:
    """Copy the rows and the original of a task to where the recipes look for them."""
    shutil.copytree(lab.data, folder / "data")
    shutil.copytree(lab.trained(), folder / "original")


def run(options: argparse.Namespace) -> None:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    methods = suiting() if options.methods is None else options.methods
    for name in options.tasks:
        lab = Lab(name, options)
        if options.export is not None:
            export(lab, options.export)
            continue
        for request in [Request(lab, r) for r in options.requests or (*TASKS[name].requests, "random", "user")]:
            if request.kind == "class" and request.name not in lab.sets["train"].features["label"].names:
                continue  # a class of another task
            if not methods:
                print(
                    f"{name}, {request.name}: {len([request.original, *request.folders])} models are there", flush=True
                )
            for method, seed in product(methods, options.seeds):
                extra = [without_paths(word) for word in options.options]
                here = {"task": name, "request": request.name, "method": method, "seed": seed, "options": extra}
                finished = read(options.out).get(identity(here))
                if finished is not None and not (options.retry_failed and "error" in finished):
                    continue
                try:
                    cell = {**here, **request.cell(method, seed, options.options)}
                except Exception as error:  # a measurement that fails ends its own cell alone
                    cell = {**here, "exit_code": None, "error": without_paths(f"{type(error).__name__}: {error}")}
                append(options.out, cell)
                print(
                    f"{name}, {request.name}, {method}, seed {seed}: {cell.get('verdict', cell.get('error'))}",
                    flush=True,
                )


def lab_parser(doc: str | None, out: str, tasks: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark of a `Lab` has, which writes into the file `out` of the cache."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-folder", type=Path, help="folder that holds the bases")
    parser.add_argument("--data-folder", type=Path, help="folder that holds the data sets")
    parser.add_argument("--cache", type=Path, default=Path("out/real_models"), help="folder for trained models")
    parser.add_argument("--out", type=Path, default=Path("out/real_models") / out)
    parser.add_argument("--tasks", nargs="+", default=list(tasks), choices=TASKS)
    parser.add_argument("--rows", type=int, default=2000, help="rows to train on")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    return parser


def main() -> None:
    parser = lab_parser(__doc__, "results.jsonl", ("trec", "emotion", "cifar10"))
    parser.add_argument("--methods", nargs="*", help="default: all that forget rows; none named: only train the models")
    parser.add_argument("--requests", nargs="+", help="classes, `random`, `user`; default: three classes and these two")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="more options of `hf-unlearn run`; the last of all"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run cells again that ended with an error")
    parser.add_argument(
        "--export", type=Path, help="only copy rows and original of one task into this new folder, for recipes"
    )
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        sys.exit(do_job(options.job))
    if options.table:
        print(table(list(read(options.out).values())))
        return
    if options.base_folder is None or options.data_folder is None:
        parser.error("--base-folder and --data-folder are needed: the folders that hold the bases and the data sets.")
    if options.export is not None and (len(options.tasks) > 1 or options.export.exists()):
        parser.error("--export needs one task in --tasks, and a folder that does not exist yet.")
    run(options)


if __name__ == "__main__":
    main()
