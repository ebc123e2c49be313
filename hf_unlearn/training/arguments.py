"""`UnlearningArguments`: everything that HF's `TrainingArguments` has, and what unlearning adds."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..methods import UnlearningMethod, setting
from ..utils.argument_checks import check_counts, check_positive

# Options of `TrainingArguments` that a run refuses, and why.
REFUSED = {
    "label_smoothing_factor": "has no effect on an unlearning objective. Leave it at 0.",
    "neftune_noise_alpha": "would disturb the outputs that unlearning compares. Leave it unset.",
    "dataloader_persistent_workers": "draws a random number in the first epoch only, so a resumed run would differ from an "
    "uninterrupted one. Leave it off: the workers then start with each epoch.",
    "dataloader_drop_last": "would drop the rows of the last batch, in training with one process and in evaluation. A set "
    "smaller than a batch would give no step. Leave it off.",
}
# Options of `TrainingArguments` that are at least 0, and what they must stay below.
BOUNDS = {
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_epsilon", "warmup_steps"), math.inf),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), 1.0),
    **dict.fromkeys(("seed", "data_seed"), 2**32),
    "max_halvings": 64,
    **dict.fromkeys(("gradient_accumulation_steps", "retain_per_forget", "probe_size"), 2**31),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 2**31),
}
COMPILE_MODES = ("default", "lite", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")


@dataclass
class UnlearningArguments(TrainingArguments):
    """The arguments of an unlearning run: all fields of `transformers.TrainingArguments`, and the fields below.

    A field with the default None takes the value of the method for this kind of request (`UnlearningMethod.arguments`).

    Raises:
        ValueError: A value is out of its range, or would have no effect on unlearning.
    """

    method: str = setting(
        "auto", "Name of the method, if the trainer is not given a method. auto: the one that suits what is at hand."
    )
    update: str | None = setting(
        None,
        "Parameters that may move: 'all', 'head', 'last:n' (the last n blocks and the head) or a regular expression of "
        "names. Parameters that were frozen before (`requires_grad=False`) move too if it names them.",
    )
    trust_region: float | None = setting(
        None,
        "Length of a step, as a share of each tensor's norm, decayed by the schedule. It replaces `learning_rate` and "
        "`optim`. With 0, those two are used. None: the method's, and at most a fiftieth of the way that training went from a known base.",
    )
    forget_kind: str = setting(
        "auto",
        "What the forget set is: whole classes ('class'), single rows ('samples'), or 'auto': whole classes if the retain "
        "set lacks them or, without a retain set, if all forget rows are of one class.",
    )
    forget_target: float | None = setting(
        None,
        "Share of the forget set that may still be answered as before, in [0, 1]. To reach it is success, and ends the run "
        "of a method that stops there. None: 0.01 for classes, an estimate from `eval_dataset` for single rows. "
        "Negative: no target.",
    )
    max_retain_drop: float | None = setting(
        None,
        "Accuracy on retained rows, in [0, 1], that a run may lose before it goes back to the last good state. None: the method's, "
        "or 0.05.",
    )
    max_halvings: int = setting(
        6,
        "How often a run that damages retained rows goes back to the last good state and goes on with steps of half the "
        "length, before it gives up. 0: it ends at the first damage, and its first step is not looked at.",
    )
    check_steps: int | None = setting(
        None, "Steps between two checks of the target and of damage. Damage is also looked for after the first step."
    )
    weight_average: float | None = setting(
        None, "Decay, in [0, 1), of an exponential average of the weights, which the run ends with. 0: no average."
    )
    probe_size: int = setting(256, "Rows of the forget set, and of the retained rows, that each check reads.")
    retain_per_forget: int | None = setting(None, "Retain rows drawn for each forget row.")
    check_rows: bool = setting(
        True,
        "Read every row of the retain, evaluation and test sets before the first step, so that a damaged one ends no run "
        "later. False: only their first rows.",
    )
    overwrite: bool = setting(False, "Allow an output folder that already holds a model or checkpoints.")
    momentum: float = setting(0.0, "Momentum, in [0, 1], of `optim='sgd'`.")

    learning_rate: float | None = setting(None, "Learning rate, used if `trust_region` is 0.")
    num_train_epochs: float | None = setting(
        None, "Passes over the forget set, or over the retain set for a method that reads no forget set."
    )
    max_steps: int | None = setting(None, "Number of optimizer steps. A positive number overrides `num_train_epochs`.")
    per_device_train_batch_size: int | None = setting(
        None, "Forget rows of a step in each process. None: the processes share the number of the method."
    )
    per_device_eval_batch_size: int = setting(128, "Rows of an evaluation batch on each device.")
    logging_steps: float = setting(10, "Steps between two entries of the log.")
    logging_nan_inf_filter: bool = setting(False, "Hide NaN losses from the log. Unlearning ends at a NaN loss anyway.")
    restore_callback_states_from_checkpoint: bool = setting(
        True, "Give callbacks, such as EarlyStoppingCallback, back the state that a checkpoint holds."
    )

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise accelerate does not connect the processes
        super().__post_init__()
        self.dataloader_pin_memory &= torch.cuda.is_available()  # without CUDA, torch only warns
        self.batch_rows = 0  # of all processes together; `resolved` sets it
        if self.forget_kind not in ("auto", "class", "samples"):
            raise ValueError(f"`forget_kind={self.forget_kind!r}` is not one of 'auto', 'class', 'samples'.")
        for name, why in REFUSED.items():
            if getattr(self, name):
                raise ValueError(f"`{name}` {why}")
        if self.push_to_hub and self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                f"`hub_strategy='{self.hub_strategy.value}'` would publish checkpoints of a model that still knows what it must "
                "forget, and pickles. Use 'end', or 'every_save' for the model alone."
            )
        if (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "`gradient_checkpointing_kwargs={'use_reentrant': True}` loses the gradients of a layer above frozen ones. "
                "Leave it out: the default form gives the same weights without this fault."
            )
        if self.trust_region is not None and not 0 <= self.trust_region < 1:
            raise ValueError(f"`trust_region` is a share of each tensor's norm, in [0, 1), got {self.trust_region}.")
        if self.forget_target is not None and not self.forget_target <= 1:
            raise ValueError(f"`forget_target` is a share in [0, 1], got {self.forget_target}. Write 5 % as 0.05.")
        if self.weight_average is not None and not 0 <= self.weight_average < 1:
            raise ValueError(f"`weight_average` is a decay, in [0, 1), got {self.weight_average}.")
        if self.max_retain_drop is not None and not 0 <= self.max_retain_drop <= 1:
            raise ValueError(f"`max_retain_drop` is a share in [0, 1], got {self.max_retain_drop}. Write 5 % as 0.05.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` lies in [0, 1], got {self.momentum}.")
        batches = ("per_device_train_batch_size", "per_device_eval_batch_size")
        check_counts(self, "check_steps", "probe_size", "retain_per_forget", "gradient_accumulation_steps", *batches)
        check_positive(self, "num_train_epochs")
        self._check_training()

    def _check_training(self) -> None:
        """Raise ValueError for options of `TrainingArguments` that would end the run later, by an error that does not name them."""
        for name, below in BOUNDS.items():
            given = getattr(self, name)
            if given is not None and not 0 <= given < below:
                raise ValueError(f"`{name}` must be at least 0 and below {below:g}, got {given}.")
        if self.output_dir == "":
            raise ValueError("`output_dir` is empty. Name a folder.")
        if self.optim_args and any(part.count("=") != 1 for part in self.optim_args.split(",")):
            raise ValueError("`optim_args` must be pairs such as 'a=1,b=2'.")
        for name in ("eval_steps", "save_steps", "logging_steps"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"`{name}` must be a finite number, got {getattr(self, name)}.")
        if self.max_grad_norm != self.max_grad_norm:
            raise ValueError("`max_grad_norm` is no number. Give a length, or 0 for gradients of any length.")
        for name in self.report_to:
            if name not in INTEGRATION_TO_CALLBACK:
                raise ValueError(f"`report_to={name!r}` is unknown. Known: none, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        backends = [backend.value.lower() for backend in DynamoBackend if backend.value != "NO"]
        if self.torch_compile_backend is not None and self.torch_compile_backend.lower() not in backends:
            raise ValueError(
                f"`torch_compile_backend={self.torch_compile_backend!r}` is unknown. Known: {', '.join(backends)}."
            )
        if self.torch_compile_mode is not None and self.torch_compile_mode not in COMPILE_MODES:
            raise ValueError(
                f"`torch_compile_mode={self.torch_compile_mode!r}` is unknown. Known: {', '.join(COMPILE_MODES)}."
            )

    def resolved(
        self,
        method: UnlearningMethod,
        kind: str,
        update: str | None = None,
        retain: Any = None,
        trained: str = "base",
    ) -> UnlearningArguments:
        """Return a copy in which fields that are None have the values of `method` for a forget set of this `kind`.

        Args:
            kind: "class" or "samples".
            update: value of the field of that name, if the field is None.
            retain: the retain set. Default: None, there is none.
            trained: how the original was trained; see `default_steps` of the method.
        """
        out = copy.copy(self)
        out.update = update if self.update is None else self.update
        defaults: dict[str, Any] = {
            "update": "all",
            "trust_region": 0.0,
            "learning_rate": 5e-5,
            "num_train_epochs": 3.0,
            "max_steps": -1,
            "check_steps": 10,
            "max_retain_drop": 0.05,
            "weight_average": 0.0,
            "retain_per_forget": 1,
            "per_device_train_batch_size": 64,
            **method.arguments_for(out.update, kind),
        }
        if self.num_train_epochs is not None and self.max_steps is None:
            defaults["max_steps"] = -1  # the user asked for epochs
        if self.learning_rate is not None and self.trust_region is None:
            defaults["trust_region"] = 0.0  # the user asked for a learning rate
        out.forget_kind = kind
        given, processes = self.per_device_train_batch_size, self.world_size
        # The default number of rows is shared by the processes, so that any number of them takes the same steps.
        out.batch_rows = defaults["per_device_train_batch_size"] if given is None else given * processes
        defaults["per_device_train_batch_size"] = -(-out.batch_rows // processes)
        per_forget = defaults["retain_per_forget"] if self.retain_per_forget is None else self.retain_per_forget
        rows = len(retain) if hasattr(retain, "__len__") else None
        batch = out.batch_rows * per_forget * self.gradient_accumulation_steps
        steps = method.default_steps(rows, batch, trained, kind)
        if steps is not None and self.num_train_epochs is None:
            defaults["max_steps"] = steps
        for name, value in defaults.items():
            if getattr(out, name) is None:
                setattr(out, name, value)
        return out


UnlearningArguments.__doc__ = f"{UnlearningArguments.__doc__}\n    Args:\n" + "\n".join(
    f"        {f.name} ({f.type}): {f.metadata['help']} Default: {f.default!r}."
    for f in fields(UnlearningArguments)
    if f.name in UnlearningArguments.__annotations__
)
