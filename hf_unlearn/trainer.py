"""`UnlearningTrainer`: the HF Trainer over forget and retain sets. It adds up a method's terms and knows no method."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.trainer_utils import TrainOutput

from .data.columns import read_groups, read_strata
from .data.pairs import PairCollator, PreparedRows, UnlearningDataset, share_out
from .data.sampling import EpochSampler, draw
from .evaluation.report.report import UnlearningReport
from .hub.push.trainer_mixin import Publishing
from .methods import METHODS, UnlearningMethod
from .models.adapters import UPDATE_ADAPTER, Patch, adapter_names, is_adapted, norms_to_hold
from .models.forward import in_precision
from .models.processor import Processor
from .models.reference import Reference, build_reference, forgotten_classes
from .models.snapshot import Snapshot, fingerprints
from .models.trainable import check_precision, restrict, updated_names
from .training.arguments import UnlearningArguments
from .training.backends import check_backend, sharded_while_training, use_one_gpu, warn_if_whole
from .training.checkpointed_trainer import CheckpointedTrainer
from .training.checkpoints import chosen_checkpoint, clean_output_folder, is_checkpoint, is_inside, read_state
from .training.checks import check_data, check_original, check_output, check_patch, find_kind
from .training.hyperparameter_search import search
from .training.monitor import Monitor
from .training.optimizers import check_idle, check_options, choose_optimizer
from .training.outcome import Outcome
from .training.resuming import check_settings, describe_settings
from .training.stopping import ForgettingControl, Interrupted, graceful_interrupt
from .training.verification import verify
from .utils.distributed import in_any_process, real_rows, sums_over_processes

WATCHED_ROWS = 1_000  # training rows looked at where there is no forget set


class UnlearningTrainer(Publishing, CheckpointedTrainer):
    """Unlearns `forget_dataset` from `model`, in place, by `method`.

    Args:
        model: a classifier of transformers (or `model_init`, a function that makes one, also used by `Retrain`).
        args: [`UnlearningArguments`].
        method: an [`UnlearningMethod`]; by default the one that `args.method` names, with its defaults.
        forget_dataset: rows to forget: a map-style `datasets.Dataset`, raw (image or text column) or processed. None for a
            method that unlearns an attribute of all rows (`needs_column`).
        retain_dataset: rows to keep, map-style or a stream; optional for methods that need none, and then used for the
            damage guard alone.
        eval_dataset, processing_class, data_collator, compute_metrics, callbacks, optimizers: as in `transformers.Trainer`;
            held-out `eval_dataset` rows (or its entry `validation`) also set the level that forgetting single rows aims at;
            an optimiser of what `update` lets move takes the place of the trust region.
        peft_config: restricts the update to a PEFT adapter, a reversible patch over `model` (changed in place): a `PeftConfig`, or
            what else `adapter_config` takes. `update` is then left out.
        image_column, text_column, label_column: names of the columns, where they are not the usual ones.

    Raises:
        ValueError: a set is missing, empty or overlaps, a label is outside the head, the output folder holds a model, ...
            Everything that can be checked is checked here, before the model is touched.
    """

    model: Any  # of the base class, as is the next
    is_fsdp_enabled: bool

    def __init__(
        self,
        model: nn.Module | None = None,
        args: UnlearningArguments | None = None,
        method: UnlearningMethod | None = None,
        forget_dataset: Any | None = None,
        retain_dataset: Any | None = None,
        *,
        data_collator: Callable[..., Any] | None = None,
        eval_dataset: Any | None = None,
        processing_class: Any | None = None,
        model_init: Callable[[], nn.Module] | None = None,
        peft_config: Any | None = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        args, self.method, model = self._resolve(args, method, model, model_init, optimizers[0], peft_config)
        self.processor = Processor(
            model, processing_class, image_column=image_column, text_column=text_column, label_column=label_column
        )
        self.forget_dataset, self.retain_dataset = forget_dataset, retain_dataset
        args = self._check(args, model, optimizers[0], peft_config)
        model = self._restrict(args, model, peft_config)
        self._lay_out_rows(args)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(data_collator or self.processor.collate, self.processor),
            train_dataset=self.unlearning_data,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=choose_optimizer(args, model, self.updated, optimizers[0]),
        )
        self._take_over()

    # --- the parts of __init__ ----------------------------------------------------------------------------------------

    def _resolve(
        self, args: Any, method: Any, model: Any, model_init: Any, optimizer: Any, peft_config: Any
    ) -> tuple[UnlearningArguments, UnlearningMethod, Any]:
        """What was left out, filled in; and refused what no model or data is needed to refuse."""
        args = args if args is not None else UnlearningArguments(output_dir="unlearned")
        if not isinstance(args, UnlearningArguments):
            raise TypeError(f"`args` must be `UnlearningArguments`, got {type(args).__name__}.")
        if method is None:
            if args.method not in METHODS:
                raise ValueError(f"`method={args.method!r}` is unknown. Known: {', '.join(METHODS)}.")
            method = METHODS[args.method]()
        check_backend(method, args)
        check_options(args, optimizer, peft_config)
        use_one_gpu(args)
        if model is None and model_init is None:
            raise ValueError(
                "`model` is missing: pass the trained classifier, or `model_init` to retrain from scratch."
            )
        self.model_init_fn = model_init
        return args, method, model if model is not None else model_init()

    def _check(self, args: UnlearningArguments, model: Any, optimizer: Any, peft_config: Any) -> UnlearningArguments:
        """The arguments with the method's own values, once model and data are found to fit."""
        forget, retain, adapted = self.forget_dataset, self.retain_dataset, peft_config is not None
        check_patch(model, self.method, args.update, adapted)
        check_data(self.method, self.processor, forget, retain)
        kind = "samples" if forget is None else args.forget_kind
        if kind == "auto":
            kind = find_kind(model, self.processor, forget, retain)
        resolved = args.resolved(self.method, kind, UPDATE_ADAPTER if adapted or is_adapted(model) else None)
        check_idle(args, resolved, optimizer)
        return resolved

    def _restrict(self, args: UnlearningArguments, model: Any, peft_config: Any) -> Any:
        """The model, with a patch if one is wanted, in which `self.updated` alone may move."""
        self.patch = None
        if peft_config is not None:
            rows: Any = self.retain_dataset if self.forget_dataset is None else self.forget_dataset
            self.patch = Patch(model, peft_config, args.seed, probe=self.processor.collate([next(iter(rows))]))
            model = self.patch.model
        self.updated = adapter_names(model, args.update) or updated_names(model, args.update)  # type: ignore[arg-type]
        check_precision(model, () if self.method.one_shot else self.updated)
        self.held_norms = norms_to_hold(model, self.updated)
        restrict(model, self.updated)
        return model

    def _lay_out_rows(self, args: UnlearningArguments) -> None:
        """The training samples and their order, and the rows to forget, or to look at where there are none."""
        method, forget, retain = self.method, self.forget_dataset, self.retain_dataset
        groups = None
        if method.needs_column and not method.one_shot:
            groups, self.group_names = read_groups(retain, getattr(method, "attribute", None))
        watched = draw(retain, WATCHED_ROWS, args.seed) if forget is None else forget
        self.unlearning_data = UnlearningDataset(
            forget if method.needs_forget else None,
            (watched if method.one_shot else retain) if method.needs_retain else None,
            self.processor,
            retain_per_forget=args.retain_per_forget or 1,
            seed=args.seed,
            groups=groups,
        )
        self.forget_rows = self.unlearning_data.forget or PreparedRows(watched, self.processor, "forget_dataset")
        self.sampler = EpochSampler(
            len(self.unlearning_data),
            args.seed,
            shuffle=args.train_sampling_strategy != "sequential",
            strata=None if groups is None else read_strata(retain, groups, self.processor.label_columns[0]),
        )

    def _take_over(self) -> None:
        """After the base class's own `__init__`: what it would do otherwise, and what watches over the run."""
        warn_if_whole(self)
        self.shards, self.is_fsdp_enabled = self.is_fsdp_enabled, False  # in training alone
        # Terms are means: the Trainer must divide them by the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.method = self.method.resolved(self.args.update, self.retain_dataset is not None)
        self.forgetting = ForgettingControl(self)
        self.add_callback(self.forgetting)
        self.reference: Reference
        self.monitor: Monitor
        self.original: Snapshot | None = None
        self.outcome: Outcome | None = None
        self.interrupted = 0  # the number of the signal
        self.seconds = 0.0
        self._terms: dict[str, list[float]] = defaultdict(list)

    # --- data ---------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next optimiser step, shown to the method before the first of them."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            share_out(batches, len(self.unlearning_data), self.sampler.rows)
            self.method.before_step(self.model, batches)
        return batches, items

    def _get_train_sampler(self, train_dataset: Any | None = None) -> Any:
        processes = self.args.world_size
        self.sampler.cut(min(self.args.batch_rows, self._train_batch_size * processes), processes)
        return self.sampler

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        own = ("forget", "retain", "group", "index", "seed", "position")
        raw = (*own, *self.processor.columns, *self.processor.label_columns)
        self._signature_columns += [c for c in raw if c not in self._signature_columns]

    # --- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the method's terms on a training batch; ordinary loss on an evaluation batch."""
        if "seed" not in inputs:
            loss, outputs = super().compute_loss(model, in_precision(model, inputs), return_outputs=True)
            rows = len(inputs["labels"])
            if 0 < (real := real_rows(rows, self.accelerator.gradient_state)) < rows:
                loss = F.cross_entropy(outputs["logits"][:real].float(), inputs["labels"][:real])
            return (loss, outputs) if return_outputs else loss
        for norm in self.held_norms:
            norm.eval()
        terms = self.method.terms(model, inputs, self.reference)
        total = torch.stack(list(terms.values())).sum()
        if in_any_process(not torch.isfinite(total)):
            bad = ", ".join(k for k, v in terms.items() if not torch.isfinite(v)) or "in another process"
            raise FloatingPointError(
                f"the loss is NaN or infinite at step {self.state.global_step} (term: {bad}). The run ends and writes no model."
            )
        # Data parallel averages over the processes, and the base class divides by the number of micro-batches.
        weight = inputs["share"] * self.args.world_size * self.current_gradient_accumulation_steps
        for name, value in terms.items():
            self._terms[name].append(weight * value.item())
        return (weight * total, terms) if return_outputs else weight * total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last entry, as `loss/<term>`, and what the method measures."""
        if self._terms and "loss" in logs:
            means = sums_over_processes([float(np.mean(v)) / self.args.world_size for v in self._terms.values()])
            terms = {f"loss/{name}": mean for name, mean in zip(self._terms, means, strict=True)}
            logs = {**logs, **terms, **self.method.measures()}
            self._terms.clear()
        super().log(logs, start_time)

    # --- training -----------------------------------------------------------------------------------------------------

    def fresh_model(self) -> nn.Module:
        """An untrained model of the same kind, seeded: from `model_init`, or from the model's configuration."""
        torch.manual_seed(self.args.seed)
        model = self.model_init_fn() if self.model_init_fn is not None else type(self.model)(self.model.config)
        return model.to(self.args.device)

    def _set_up(self) -> None:
        """Everything that looks at the original weights."""
        self.original = Snapshot(self.model, self.updated)
        self.original_fingerprints = fingerprints(self.model)
        with self._unpatched():
            self.reference = build_reference(
                self.model, self.forget_rows, self.processor, self.args.eval_batch_size, self.args.output_dir
            )
            if self.args.forget_kind == "class":
                self.reference.forgotten_classes = forgotten_classes(self.reference)
            self.method.prepare(self)
        self.monitor = Monitor(self)
        self.method.setup(self)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Unlearn, then check what happened: see `self.outcome`.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last whole one in the output folder.

        Raises:
            ValueError: the output folder is taken, there is nothing to resume from, or it is damaged or of another run.
            OSError: a checkpoint could not be written, as on a full disk; those before it are whole.
            RuntimeError: parameters outside `update` changed.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint to resume from is written.
        """
        folder = chosen_checkpoint(resume_from_checkpoint, self.args.output_dir)
        saved: dict[str, Any] = {} if folder is None else read_state(folder)
        if not is_inside(folder, self.args.output_dir):
            check_output(self.model, self.args.output_dir, self.args.overwrite)
        # With the tensors to go on from, where it is not the model alone that a run ended with.
        self.resumed_from = held = folder if folder is not None and is_checkpoint(folder) else None
        if folder is not None:
            check_settings(saved, describe_settings(self), ended=held is None)
        started = time.perf_counter()
        self.model.to(self.args.device)  # the base class leaves a model that it will shard where it is
        unfinished = self.outcome is None or self.outcome.stopped == "failed"
        if self.original is not None and (folder is not None or unfinished):
            self.original.restore(self.model)  # a run of this trainer left the model half-way
        self.outcome = self.measured = None
        self._set_up()
        if folder is not None:
            fresh = self.model_init_fn is not None or self.method.starts_fresh
            if self.method.needs_forget or not fresh:
                check_original(saved["original"], self.original_fingerprints)
            self.method.load_state(saved["method"])
            if held is not None:
                self.method.load_checkpoint(held)
            started -= saved["seconds"]
        if self.is_world_process_zero():
            clean_output_folder(self.args.output_dir, folder, self.args.overwrite)
        self.forgetting.start(saved, held)
        self.started = started
        if self.method.one_shot or (folder is not None and self._go_to_end(folder, saved)):
            self.seconds = time.perf_counter() - started
            self.monitor.model_changed()
            self.outcome = verify(self)
            return TrainOutput(self.state.global_step, 0.0, {})
        try:
            gc.freeze()  # the base class collects garbage before the first step: spare it a walk over every module loaded
            with graceful_interrupt(self), sharded_while_training(self):
                output = super().train(None if folder is None else str(folder), **kwargs)
        except BaseException:
            self.outcome = Outcome(stopped="failed", warnings=["the run failed; the model is in an undefined state"])
            raise
        finally:
            gc.unfreeze()
        self.seconds = time.perf_counter() - started
        if self.interrupted:
            how = "" if self.args.save_only_model else f"Resume from the checkpoint in {self.args.output_dir}"
            raise Interrupted(how, self.interrupted)
        self.outcome = verify(self)
        return output

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Search over fields of the method (`"method.sigma"`) and of the arguments, from the original: see `search.search`."""
        return search(self, hp_space, compute_objective, *args, **kwargs)

    # --- report -------------------------------------------------------------------------------------------------------

    @contextmanager
    def original_weights(self) -> Iterator[nn.Module]:
        """The model with its original weights inside, the unlearned ones afterwards."""
        if self.original is None:
            raise RuntimeError("`train()` has not run: the model still is the original.")
        current = Snapshot(self.model, self.original.tensors)
        self.original.restore(self.model)
        try:
            with self.method.undone(self.model), self._unpatched():
                yield self.model
        finally:
            current.restore(self.model)

    def _unpatched(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.patch is None else self.patch.off()

    def report(
        self,
        retain_dataset: Any | None = None,
        test_dataset: Any | None = None,
        retrained: nn.Module | None = None,
        **settings: Any,
    ) -> UnlearningReport:
        """Measure original, unlearned and (where given) retrained model side by side; `settings` as in `UnlearningReport.measure`."""
        if self.outcome is None:
            raise RuntimeError("`report()` needs a finished run: call `train()` first.")
        retain = retain_dataset if retain_dataset is not None else self.retain_dataset
        self.measured = UnlearningReport.measure(self, retain, test_dataset, retrained, **settings)
        return self.measured
