"""Runs, callbacks and damage that several tests of this folder need."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import TrainerCallback

from hf_unlearn import GradientAscent, JiT, UnlearningTrainer
from tests.support.data import class_split, image_processor, tokenizer
from tests.support.models import build
from tests.support.runs import KillAt, Killed, arguments, trainer_for

EVERY = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
ADAMW = {"trust_region": 0.0, "learning_rate": 1e-3}


def make_trainer(folder, arch="vit", method=None, **changes):
    """A trainer from valid parts, of which each test changes one."""
    split = class_split(arch)
    parts = {
        "model": build(arch),
        "args": arguments(folder),
        "method": JiT(num_perturbations=2) if method is None else method,
        "forget_dataset": split.forget,
        "retain_dataset": split.retain,
        "processing_class": tokenizer() if arch == "bert" else image_processor(),
    }
    return UnlearningTrainer(**{**parts, **changes})


def with_pixels(dataset, edit):
    """The data set after `edit` of its pixels, an array (rows, channels, height, width), in place."""
    values = np.asarray(dataset.with_format("numpy")["pixel_values"][:], dtype=np.float32).copy()
    edit(values)
    features = datasets.Features({**dataset.features, "pixel_values": datasets.Array3D(values.shape[1:], "float32")})
    columns = {name: dataset[name][:] for name in dataset.column_names if name != "pixel_values"}
    return datasets.Dataset.from_dict({"pixel_values": values, **columns}, features=features)


def with_labels(dataset, labels):
    """The data set with other labels."""
    return dataset.remove_columns("label").add_column("label", labels)


def ascent(folder, *callbacks, arch="vit", **changes):
    """A run of gradient ascent with six steps, two in each epoch."""
    return trainer_for(arch, folder, GradientAscent(), callbacks=list(callbacks), **{**EVERY, **changes})


def evaluated(folder, *callbacks, arch="vit", **changes):
    """A run that is evaluated on its forget set at every second step, so that each evaluation is worse than the last."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "trust_region": 0.02, "metric_for_best_model": "eval_loss"}
    return ascent(folder, *callbacks, arch=arch, eval_dataset=class_split(arch).forget, **{**settings, **changes})


def names(folder):
    """The names in a folder, sorted."""
    return sorted(p.name for p in Path(folder).iterdir())


def cut(path):
    """Remove the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def killed(folder, step=3, **changes):
    """Make the files of a run that is killed at the end of `step`."""
    with pytest.raises(Killed):
        ascent(folder, KillAt(step), **changes).train()


class Count(TrainerCallback):
    """Records the steps that a run takes."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


class Signal(TrainerCallback):
    """Sends signals to this process in the middle of a step."""

    def __init__(self, step, *signals):
        self.step, self.signals = step, signals

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for number in self.signals:
                os.kill(os.getpid(), number)
