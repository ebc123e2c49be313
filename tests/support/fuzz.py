"""A run of `hf-unlearn run` on a tiny task, of which a fuzzer spoils recipe, rows, model folder or list of ids."""

import io
import json
import os
import random
import re
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
import yaml

from hf_unlearn.cli import main
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import trained

ROWS = 32
TASKS = {"image": "vit", "text": "bert"}
PERSON = "person-47110815"  # a part of every id, so that ids are found wherever they are printed
ATTRIBUTE_METHODS = ("feature_information", "wasserstein_barycenter")
STREAMS = ("jit", "gradient_ascent", "gradient_difference")  # these take a stream of rows to keep
METHODS = (
    "jit",
    "gradient_ascent",
    "gradient_difference",
    "uib",
    "fine_tune",
    "counterfactual_distillation",
    *ATTRIBUTE_METHODS,
)


def save_originals(folder):
    """Save a trained classifier for each task; runs copy it where they spoil it."""
    for task, arch in TASKS.items():
        trained(arch).save_pretrained(folder / task)
        (image_processor() if task == "image" else tokenizer()).save_pretrained(folder / task)
    return folder


def rows_of(task, seed):
    """Return the columns of a split. Pictures are stored as bytes."""
    data = image_data(ROWS, seed) if task == "image" else text_data(ROWS, seed)
    if task == "image":
        data = data.cast_column("image", datasets.Image(decode=False))
    columns = {task: list(data[task]), "label": list(data["label"])}
    return {**columns, "user": [f"{PERSON}-{i % 8}" for i in range(ROWS)], "group": [i // 5 % 2 for i in range(ROWS)]}


@dataclass
class Case:
    """One run. What spoils it changes `keys`, `splits`, `features`, `form`, `text`, or a file of `model` or `data`.

    Attributes:
        must_name: an error must hold one of the expressions of each tuple.
        fine: codes with which the run may end.
        after: functions that spoil files after they are written.
    """

    folder: Path
    originals: Path
    rng: random.Random
    task: str
    keys: dict = field(default_factory=dict)
    splits: dict = field(default_factory=dict)
    features: dict = field(default_factory=dict)
    form: str = "parquet"
    text: str | None = None
    what: str = ""
    must_name: list = field(default_factory=list)
    fine: tuple = (0, 1, 2)
    after: list = field(default_factory=list)

    def __post_init__(self):
        self.splits = {"train": rows_of(self.task, 0), "test": rows_of(self.task, 9)}
        if self.task == "image":
            self.features["image"] = datasets.Image()
        self.data, self.out = self.folder / "data", self.folder / "out"
        self.model = self.originals / self.task
        method = self.rng.choice(METHODS)
        self.keys = {
            "model": str(self.model),
            "dataset": str(self.data),
            "output_dir": str(self.out),
            "method": method,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "use_cpu": "true",
            "disable_tqdm": "true",
            "figures": "false",
        }
        if method == "jit":
            self.keys["num_perturbations"] = 2
        if method in ATTRIBUTE_METHODS:
            self.keys["attribute"] = "group"
        elif method == "counterfactual_distillation" or self.rng.random() < 0.5:
            self.keys["forget_class"] = ["1"]
        else:
            self.keys |= {"forget_column": "user", "forget_values": [f"{PERSON}-1", f"{PERSON}-6"]}

    def forget_by(self, **keys):
        """Name other rows to forget, with a method that forgets rows."""
        for name in ("forget_class", "forget_column", "forget_values", "attribute", "num_perturbations"):
            self.keys.pop(name, None)
        if self.keys["method"] not in STREAMS[1:]:
            self.keys["method"] = "gradient_ascent"
        self.keys |= keys

    def own_model(self):
        """Return a copy of the model's folder that may be spoiled."""
        self.model = self.folder / "original"
        if not self.model.exists():
            shutil.copytree(self.originals / self.task, self.model)
        self.keys["model"] = str(self.model)
        return self.model

    def write(self):
        """Write data and recipe. Returns the words of the command."""
        self.data.mkdir()
        for split, columns in self.splits.items():
            write_rows(self.data, split, columns, self.features, self.form)
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(self.keys, allow_unicode=True) if self.text is None else self.text, "utf-8")
        for spoil in self.after:
            spoil(self)
        return ["run", "--config", str(recipe)]

    @property
    def secrets(self):
        """What no message may show: ids, and whole texts."""
        texts = {t for columns in self.splits.values() for t in columns.get("text", ()) if isinstance(t, str)}
        return [PERSON, *(t for t in texts if len(t.split()) > 2)]


def write_rows(folder, split, columns, features, form):
    """Write the rows of a split. Values that do not go together in a table are written as JSON lines."""
    if form == "jsonl":
        lines = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return
    data = datasets.Dataset.from_dict(columns)
    kept = {name: kind for name, kind in features.items() if name in columns}
    data = data.cast(datasets.Features({**data.features, **kept}))
    if form == "disk":
        data.save_to_disk(folder / split)
    else:
        pq.write_table(
            data.with_format("arrow")[:], folder / f"{split}.parquet"
        )  # `to_parquet` looks for the pictures' files


@dataclass
class Outcome:
    code: int
    seconds: float
    said: str

    @property
    def error(self):
        """The message of the error, without warnings before it."""
        found = re.search(r"^(Error|hf-unlearn run: error|\S+: error): .*", self.said, re.DOTALL | re.MULTILINE)
        return found.group() if found else ""


def run_case(case):
    """Run a case in this process, in a folder of its own, and leave the process as it was."""
    words, before = case.write(), dict(os.environ)
    said, start, place = io.StringIO(), time.monotonic(), os.getcwd()
    home = case.folder / "home" / "me"
    home.mkdir(parents=True)
    os.environ["HOME"] = str(home)
    os.chdir(home)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            code = main(words)
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
        torch.use_deterministic_algorithms(False)
        transformers.logging.set_verbosity_warning()
        torch.manual_seed(0)
        np.random.seed(0)
    return Outcome(code, time.monotonic() - start, said.getvalue())


def faults(case, outcome):
    """Return what is wrong with an outcome: an empty list if nothing is."""
    said, out = outcome.said, []
    if outcome.code not in (0, 1, 2):
        out.append(f"exit {outcome.code}")
    elif outcome.code not in case.fine:
        out.append(f"exit {outcome.code}, and one of {case.fine} is right")
    if "Traceback" in said:
        out.append("a traceback")
    if outcome.code == 2:
        out += [
            f"not named: {names}" for names in case.must_name if not any(re.search(n, outcome.error) for n in names)
        ]
    out += [f"shows {secret[:40]!r}" for secret in case.secrets if secret in said]
    if len(outcome.error) > 3_000:
        out.append(f"a message of {len(outcome.error)} characters")
    return out
