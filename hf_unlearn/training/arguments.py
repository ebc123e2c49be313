"""`UnlearningArguments`: everything that HF's `TrainingArguments` has, and what unlearning adds."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from ..methods import UnlearningMethod
from ..utils.argument_checks import check_counts, check_positive

FORGET_KINDS = ("auto", "class", "samples")


@dataclass
class UnlearningArguments(TrainingArguments):
    """Arguments of an unlearning run. A field left at None takes the method's value (`UnlearningMethod.arguments`)."""

    method: str = field(default="jit", metadata={"help": "Key of the method, where the trainer is given none."})
    update: str | None = field(
        default=None,
        metadata={
            "help": "Parameters that may move: 'all', 'head', 'last:n' (the last n blocks and the head) or a regular expression of names. "
            "It alone decides: parameters that were frozen before (`requires_grad=False`) move too where it names them."
        },
    )
    trust_region: float | None = field(
        default=None,
        metadata={
            "help": "Length of a step, as a share of each tensor's norm, decayed by the schedule; it replaces `learning_rate` "
            "and `optim`. 0 hands over to those."
        },
    )
    forget_kind: str = field(
        default="auto",
        metadata={
            "help": "What the forget set is: whole 'class'es, single 'samples', or 'auto': the classes that the retain set lacks; "
            "without one, a class if all forget labels name it."
        },
    )
    forget_target: float | None = field(
        default=None,
        metadata={
            "help": "Share of the forget set that may still be answered as before, in [0, 1]; reaching it is success and ends a "
            "method that stops there. None: 0.01 for a class, no target for samples. Negative: no target."
        },
    )
    max_retain_drop: float = field(
        default=0.05,
        metadata={"help": "Accuracy on the retain set that a run may lose before the last good state is restored."},
    )
    check_steps: int | None = field(default=None, metadata={"help": "Steps between two looks at target and damage."})
    weight_average: float | None = field(
        default=None,
        metadata={"help": "Decay of an exponential average of the weights, which the run ends with; 0: no average."},
    )
    probe_size: int = field(default=256, metadata={"help": "Rows of each side that such a look reads."})
    retain_per_forget: int | None = field(
        default=None, metadata={"help": "Retain samples drawn for each forget sample (usually 1)."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Allow an output folder that already holds a model or checkpoints."}
    )
    momentum: float = field(default=0.0, metadata={"help": "Momentum of `optim='sgd'`."})

    learning_rate: float | None = field(default=None, metadata={"help": "Learning rate where `trust_region` is 0."})
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the forget set (or what drives the method)."}
    )
    max_steps: int | None = field(
        default=None, metadata={"help": "Optimiser steps; overrides `num_train_epochs` where positive."}
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Forget samples of a step in each process; left out, the processes share out the method's own number."
        },
    )
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size of evaluation on each device."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log entries."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses from the log. Off: they end the run."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={
            "help": "Go on with what callbacks such as EarlyStoppingCallback had counted when a run was cut off."
        },
    )

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # or accelerate leaves each process to itself
        super().__post_init__()
        self.dataloader_pin_memory &= torch.cuda.is_available()  # elsewhere it only warns
        self.batch_rows = 0  # of all processes together; known once `resolved`
        if self.forget_kind not in FORGET_KINDS:
            raise ValueError(f"`forget_kind={self.forget_kind!r}` is not one of {', '.join(map(repr, FORGET_KINDS))}.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` has no effect on an unlearning objective. Leave it at 0.")
        if self.push_to_hub and self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                f"`hub_strategy='{self.hub_strategy.value}'` would publish checkpoints: pickles of optimiser and random states, of a model "
                "that still knows what it is to forget. Use 'end', or 'every_save' for the model alone."
            )
        if self.neftune_noise_alpha:
            raise ValueError(
                "`neftune_noise_alpha` would disturb the outputs that unlearning compares. Leave it unset."
            )
        if (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "`gradient_checkpointing_kwargs={'use_reentrant': True}` loses the gradients of a layer above frozen ones. Leave "
                "it out: the other form is the default and gives the same weights."
            )
        if self.trust_region is not None and not 0 <= self.trust_region < 1:
            raise ValueError(f"`trust_region` is a share of each tensor's norm, in [0, 1), got {self.trust_region}.")
        if self.forget_target is not None and self.forget_target > 1:
            raise ValueError(f"`forget_target` is a share in [0, 1], got {self.forget_target}. Write 5 % as 0.05.")
        if self.weight_average is not None and not 0 <= self.weight_average < 1:
            raise ValueError(f"`weight_average` is a decay, in [0, 1), got {self.weight_average}.")
        if not 0 <= self.max_retain_drop <= 1:
            raise ValueError(f"`max_retain_drop` is a share in [0, 1], got {self.max_retain_drop}. Write 5 % as 0.05.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` lies in [0, 1], got {self.momentum}.")
        if self.dataloader_persistent_workers:
            raise ValueError(
                "`dataloader_persistent_workers` draws a number in the first epoch alone, so that a resumed run would not be the "
                "run that nothing cut off. Leave it off: the workers then start with each epoch."
            )
        if self.dataloader_drop_last:
            raise ValueError(
                "`dataloader_drop_last` would leave rows of the last batch out, in one process though not in several, and from "
                "evaluation too; of fewer rows than a batch it would leave no step. Leave it off."
            )
        check_counts(
            self,
            "check_steps",
            "probe_size",
            "retain_per_forget",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
        )
        check_positive(self, "num_train_epochs")

    def resolved(self, method: UnlearningMethod, kind: str, update: str | None = None) -> UnlearningArguments:
        """A copy in which what was left at None has the method's value for a request of this kind (`class`, `samples`).

        `update` stands in for the field of that name where that is None.
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
            "weight_average": 0.0,
            "retain_per_forget": 1,
            "per_device_train_batch_size": 64,
            **method.arguments_for(out.update, kind),
        }
        if self.num_train_epochs is not None and self.max_steps is None:
            defaults["max_steps"] = -1  # epochs were asked for
        if self.learning_rate is not None and self.trust_region is None:
            defaults["trust_region"] = 0.0  # a learning rate was asked for
        out.forget_kind = kind
        given, processes = self.per_device_train_batch_size, self.world_size
        # Without a number of its own, a run takes the same steps in any number of processes.
        out.batch_rows = defaults["per_device_train_batch_size"] if given is None else given * processes
        defaults["per_device_train_batch_size"] = -(-out.batch_rows // processes)
        for name, value in defaults.items():
            if getattr(out, name) is None:
                setattr(out, name, value)
        return out
