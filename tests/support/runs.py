"""Arguments and trainers of short runs."""

import pytest
import torch
import transformers

from hf_unlearn import UnlearningArguments, UnlearningTrainer
from hf_unlearn.data.pairs import sample_seed
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import build, trained

SGD = {
    "trust_region": 0.0,
    "optim": "sgd",
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}  # plain steps, so that sums of gradients can be compared


class Killed(Exception):
    pass


class KillAt(transformers.TrainerCallback):
    """Raise `Killed` at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def arguments(folder, **changes):
    """Arguments for three steps without a target, so that nothing ends a run early."""
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "forget_target": -1.0,
        "max_retain_drop": 1.0,
        "forget_kind": "class",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
    }
    return UnlearningArguments(**{**settings, **changes})


def trainer_for(
    arch,
    folder,
    method,
    *,
    model=None,
    split=None,
    retain=True,
    callbacks=None,
    eval_dataset=None,
    peft_config=None,
    **changes,
):
    """A trainer on a trained model; the retain set is passed if `retain`."""
    split = class_split(arch) if split is None else split
    return UnlearningTrainer(
        model=trained(arch) if model is None else model,
        args=arguments(folder, **changes),
        method=method,
        forget_dataset=split.forget,
        retain_dataset=split.retain if retain else None,
        eval_dataset=eval_dataset,
        processing_class=processing_class(arch),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def whole_and_resumed(run, step):
    """Return what `run(folder, *callbacks, resume=None)` returns in one go, and after it was killed at the end of `step`."""
    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(step))
    return whole, run("killed", resume=True)


def forget_batch(arch, n=8, seed=0, dtype=None):
    """Make a training batch like those that a method gets: both sides, and the seeds of epoch 0."""
    processor = Processor(build(arch), processing_class(arch))
    rows = [processor(row) for row in data_for(arch, n, seed)]
    batch = {"forget": processor.collate(rows), "retain": processor.collate(rows[::-1])}
    if dtype is not None and "pixel_values" in batch["forget"]:
        batch["forget"]["pixel_values"] = batch["forget"]["pixel_values"].to(dtype)
    return {**batch, "index": torch.arange(n), "seed": torch.tensor([sample_seed(0, 0, i) for i in range(n)])}
