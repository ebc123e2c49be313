"""`UnlearningTrainer`: the HF Trainer over forget and retain sets. It adds up a method's terms and knows no method."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from .methods import UnlearningMethod, find_method
from .models.adapters import UPDATE_ADAPTER, Patch, adapter_names, is_adapted, norms_to_hold
from .models.base import Base
from .models.forward import in_precision, logits_of, lone_values_normalized
from .models.last_layer import LastLayerPasses
from .models.pretrained import load_named
from .models.processor import Processor
from .models.reference import Reference, build_reference, forgotten_classes
from .models.snapshot import Snapshot, fingerprints
from .models.trainable import check_precision, restrict, updated_names
from .training.arguments import UnlearningArguments
from .training.backends import check_backend, sharded_while_training, use_one_gpu, warn_if_whole
from .training.base_model import StartsFromBase, made_with_seed
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
from .utils.garbage import quick_collection

PROBED_TRAINING_ROWS = 1_000  # rows on which changes are measured when there is no forget set


class UnlearningTrainer(Publishing, StartsFromBase, CheckpointedTrainer):
    """The HF Trainer, which makes `model` unlearn `forget_dataset`, in place, by `method`.

    Args:
        model: The trained classifier, a `PeftModel` around one, or its folder or Hub id. If that holds an adapter, the adapter
            moves, unless there is a `peft_config`. Default: None, if `model_init` is given.
        args: The arguments of the run. Default: `UnlearningArguments(output_dir="unlearned")`.
        method: The method with its settings, or its name, such as `"jit"`. Default: None, the one that `args.method` names.
        forget_dataset: The rows to forget: a map-style `datasets.Dataset`, raw (image or text column) or processed. Default: None,
            for a method that unlearns an attribute of all rows (`needs_column`).
        retain_dataset: The rows to keep, map-style or a stream. Methods that need none read them only to notice damage.
            Default: None.
        data_collator: The function that makes a batch of processed rows of one set. Default: None, the usual one.
        eval_dataset: Held-out rows, or a dictionary of such sets. The rows (or the entry `validation`) also set the
            target when single rows are forgotten. Default: None, no evaluation.
        processing_class: The image processor or tokenizer for raw rows. Default: None, that beside a `model` given by name.
        model_init: Makes an untrained model, for `Retrain` and in place of `model`. Default: None, one of the same configuration.
        peft_config: A `PeftConfig`, or what else `adapter_config` takes. The run trains only this adapter, a patch over `model`
            that can be undone, and `args.update` must be None. Default: None, the weights themselves move.
        base_model: Folder or Hub id of what `model` was fine-tuned from, for a method that `reads_base`; `"none"` for random
            weights. Default: None, what the card or the configuration beside `model` names.
        compute_metrics: The function that computes the metrics of an evaluation, as in `Trainer`. Default: None, loss only.
        callbacks: Callbacks to add to the default ones. Default: None.
        optimizers: An optimizer and a learning-rate schedule. An optimizer replaces the trust region, and may hold only
            parameters that `args.update` lets move. Default: `(None, None)`, made from `args`.
        image_column: The name of the image column. Default: None, the first usual name.
        text_column: The name of the text column, or of two for pairs of texts. Default: None, the first usual ones.
        label_column: The name of the label column. Default: None, `label` or `labels`.

    Raises:
        TypeError: `args` are not `UnlearningArguments`.
        ValueError: The input cannot work. Examples: a set is missing or empty, the sets overlap, a label is not a class
            of the model. Every check that is possible without running the model is made before the model is changed.
    """

    model: Any  # set by the base class, like the next
    is_fsdp_enabled: bool
    reference: Reference
    guard_dataset: Any | None = None  # rows to keep that only the guard measures, for a method that may not read them
    original: Snapshot | None = None  # a copy of the weights that may move, made when training starts

    def __init__(
        self,
        model: nn.Module | str | Path | None = None,
        args: UnlearningArguments | None = None,
        method: UnlearningMethod | str | None = None,
        forget_dataset: Any | None = None,
        retain_dataset: Any | None = None,
        *,
        data_collator: Callable[..., Any] | None = None,
        eval_dataset: Any | None = None,
        processing_class: Any | None = None,
        model_init: Callable[[], nn.Module] | None = None,
        peft_config: Any | None = None,
        base_model: Base | str | Path | None = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        image_column: str | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        args, self.method, model = self._resolve(args, method, model, model_init, optimizers[0], peft_config)
        if isinstance(model, str | Path):
            sets = (forget_dataset, retain_dataset)
            model, processing_class = load_named(model, processing_class, sets, movable=peft_config is None)
            self.given |= {"model": model, "processing_class": processing_class}
        self._name_base(base_model)
        self.processor = Processor(
            model, processing_class, image_column=image_column, text_column=text_column, label_column=label_column
        )
        self.forget_dataset = self.processor.align(forget_dataset, "forget_dataset")
        self.retain_dataset = self.processor.align(retain_dataset, "retain_dataset")
        eval_dataset = self.eval_dataset = self.processor.align(eval_dataset, "eval_dataset")
        args = self._check(args, model, optimizers[0], peft_config)
        model = self._patch(args, model, peft_config)
        self._prepare_rows(args)
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
            optimizer_cls_and_kwargs=choose_optimizer(args, model, self.updated, optimizers[0]),  # type: ignore[arg-type]
        )
        self._adjust_base_class()

    def _resolve(
        self, args: Any, method: Any, model: Any, model_init: Any, optimizer: Any, peft_config: Any
    ) -> tuple[UnlearningArguments, UnlearningMethod, Any]:
        """Fill in what was left out, and make the checks that need neither model nor data."""
        self.given["args"] = args = args if args is not None else UnlearningArguments(output_dir="unlearned")
        if not isinstance(args, UnlearningArguments):
            raise TypeError(f"`args` must be `UnlearningArguments`, got {type(args).__name__}.")
        method = find_method(args.method if method is None else method, self.given["retain_dataset"] is not None)
        check_backend(method, args)
        check_options(args, optimizer, peft_config)
        use_one_gpu(args)
        if model is None and model_init is None:
            raise ValueError("`model` is missing. Pass a trained classifier, or `model_init` for an untrained one.")
        self.model_init_fn = model_init
        return args, method, model if model is not None else made_with_seed(model_init, args.seed)

    def _check(self, args: UnlearningArguments, model: Any, optimizer: Any, peft_config: Any) -> UnlearningArguments:
        """Check model and data, and return the arguments completed with the method's values."""
        forget, retain, adapted = self.forget_dataset, self.retain_dataset, peft_config is not None
        check_patch(model, self.method, args.update, adapted, self.model_init_fn is not None)
        check_data(self.method, self.processor, forget, retain, self.eval_dataset, args.check_rows)
        kind = "samples" if forget is None else args.forget_kind
        if kind == "auto":
            kind = find_kind(model, self.processor, forget, retain)
        update = UPDATE_ADAPTER if adapted or is_adapted(model) else None
        resolved = args.resolved(self.method, kind, update, retain, self._trained_as(model, adapted))
        check_idle(args, resolved, optimizer)
        return resolved

    def _patch(self, args: UnlearningArguments, model: Any, peft_config: Any) -> Any:
        """Add the patch, if there is one, and freeze all parameters but `self.updated`. Return the model."""
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

    def _prepare_rows(self, args: UnlearningArguments) -> None:
        """Set the training samples, their order, and the rows to forget (or to measure on, without a forget set)."""
        method, forget, retain = self.method, self.forget_dataset, self.retain_dataset
        groups = None
        if method.needs_column and not method.one_shot:
            groups, self.group_names = read_groups(retain, getattr(method, "attribute", None))
        measured = draw(retain, PROBED_TRAINING_ROWS, args.seed) if forget is None else forget
        self.unlearning_data = UnlearningDataset(
            forget if method.needs_forget else None,
            (measured if method.one_shot else retain) if method.needs_retain else None,
            self.processor,
            retain_per_forget=args.retain_per_forget or 1,
            seed=args.seed,
            groups=groups,
        )
        self.forget_rows = self.unlearning_data.forget or PreparedRows(measured, self.processor, "forget_dataset")
        self.sampler = EpochSampler(
            len(self.unlearning_data),
            args.seed,
            shuffle=args.train_sampling_strategy != "sequential",
            strata=None if groups is None else read_strata(retain, groups, self.processor.label_columns[0]),
        )

    def _adjust_base_class(self) -> None:
        """Change settings of the base class that do not fit unlearning, and add the state of a run."""
        warn_if_whole(self)
        self.shards, self.is_fsdp_enabled = self.is_fsdp_enabled, False  # only training shards the model
        # Terms are means: the Trainer must divide them by the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.method = self.method.resolved(self.args.update, self.retain_dataset is not None)
        self.forgetting = ForgettingControl(self)
        self.add_callback(self.forgetting)
        self._terms: dict[str, list[float]] = defaultdict(list)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the micro-batches of the next optimizer step, after the method has seen all of them."""
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

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the method's terms for a training batch, and the ordinary loss for an evaluation batch."""
        if "seed" not in inputs:
            loss, outputs = super().compute_loss(model, in_precision(model, inputs), return_outputs=True)
            rows = len(inputs["labels"])
            if 0 < (real := real_rows(rows, self.accelerator.gradient_state)) < rows:
                loss = F.cross_entropy(logits_of(outputs)[:real].float(), inputs["labels"][:real])
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
        # Data parallelism averages over processes, and the base class divides by the number of micro-batches: undo both.
        weight = inputs["share"] * self.args.world_size * self.current_gradient_accumulation_steps
        for name, value in terms.items():
            self._terms[name].append(weight * value.item())
        return (weight * total, terms) if return_outputs else weight * total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log an entry, with the mean of each term since the last one as `loss/<term>`, and the method's own measures."""
        if self._terms and "loss" in logs:
            means = sums_over_processes([float(np.mean(v)) / self.args.world_size for v in self._terms.values()])
            terms = {f"loss/{name}": mean for name, mean in zip(self._terms, means, strict=True)}
            logs = {**logs, **terms, **self.method.measures()}
            self._terms.clear()
        super().log(logs, start_time)

    def _set_up(self) -> None:
        """Record the original (weights, digests, outputs), and set up the method and the monitor with it."""
        self.original = Snapshot(self.model, self.updated)
        self.original_fingerprints = fingerprints(self.model)
        passes, (size, folder) = LastLayerPasses(), (self.args.eval_batch_size, self.args.output_dir)
        with self._unpatched():
            self.reference = build_reference(self.model, self.forget_rows, self.processor, size, folder, passes)
            if self.args.forget_kind == "class":
                self.reference.forgotten_classes = forgotten_classes(self.reference)
            self.method.prepare(self)
        self.monitor = Monitor(self, passes)
        self.method.setup(self)

    @quick_collection()
    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Unlearn, and then check what happened: `self.outcome` has the result.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the last whole checkpoint in the output folder.
                Default: None, a new run.
            kwargs: Further arguments of `Trainer.train`.

        Raises:
            ValueError: The output folder holds another run, there is nothing to resume from, or the checkpoint is damaged
                or belongs to another run.
            OSError: A checkpoint could not be written, for example on a full disk. Earlier checkpoints are whole.
            RuntimeError: Parameters outside `update` changed.
            FloatingPointError: The loss is NaN or infinite. No model is written.
            KeyboardInterrupt: Ctrl-C or SIGTERM ended the run. A checkpoint to resume from is written before.
        """
        folder = chosen_checkpoint(resume_from_checkpoint, self.args.output_dir)
        saved: dict[str, Any] = {} if folder is None else read_state(folder)
        if not is_inside(folder, self.args.output_dir):
            check_output(self.model, self.args.output_dir, self.args.overwrite)
        # None when resuming from a finished model, which has no optimizer state.
        self.resumed_from = folder if folder is not None and is_checkpoint(folder) else None
        if folder is not None:
            check_settings(saved, describe_settings(self), ended=self.resumed_from is None)
        started = time.perf_counter()
        self.model.to(self.args.device)  # the base class does not move a model that it will shard
        unfinished = self.outcome is None or self.outcome.stopped == "failed"
        if self.original is not None and (folder is not None or unfinished):
            self.original.restore(self.model)  # an earlier run of this trainer changed the weights
        self.outcome = self.measured = None
        self._set_up()
        if folder is not None:
            self._load_method(saved)
            started -= saved["seconds"]
        if self.is_world_process_zero():
            clean_output_folder(self.args.output_dir, folder, self.args.overwrite)
        self.forgetting.start(saved, self.resumed_from)
        self.started = started
        if self.method.one_shot or (folder is not None and self._load_end(folder, saved)):
            self.seconds = time.perf_counter() - started
            self.monitor.model_changed()
            self.outcome = verify(self)
            return TrainOutput(self.state.global_step, 0.0, {})
        try:
            with graceful_interrupt(self), sharded_while_training(self), lone_values_normalized(self.model):
                output = super().train(None if folder is None else str(folder), **kwargs)
        except BaseException:
            self.outcome = Outcome(stopped="failed", warnings=["the run failed; the model is in an undefined state"])
            raise
        self.seconds = time.perf_counter() - started
        if self.interrupted:
            hint = "" if self.args.save_only_model else f"Resume from the checkpoint in {self.args.output_dir}"
            raise Interrupted(hint, self.interrupted)
        self.outcome = verify(self)
        return output

    def _load_method(self, saved: dict[str, Any]) -> None:
        """Give the method the state that it `saved`, once it is certain that the run started from this model."""
        fresh = self.model_init_fn is not None or self.method.starts_fresh
        if self.method.needs_forget or not fresh:
            check_original(saved["original"], self.original_fingerprints)
        self.method.load_state(saved["method"])
        if self.resumed_from is not None:
            self.method.load_checkpoint(self.resumed_from)

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Search over settings of the method (`"method.sigma"`) and arguments, each trial on a copy of the original.

        See `training.hyperparameter_search.search` for all arguments.
        """
        return search(self, hp_space, compute_objective, *args, **kwargs)

    @contextmanager
    def original_weights(self) -> Iterator[nn.Module]:
        """Inside the context, the model has its original weights. Afterwards it has the unlearned ones again."""
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
        retrained: nn.Module | Iterable[nn.Module] | None = None,
        **settings: Any,
    ) -> UnlearningReport:
        """Measure the original, the unlearned and the retrained model side by side.

        Args:
            retain_dataset: Retained rows to measure on. Default: None, the retain set of the run.
            test_dataset: Rows that no model was trained on. Default: None, no figures for unseen rows.
            retrained: A model trained without the forget set, or several, for comparison. Default: None, no comparison.
            settings: Further arguments of `UnlearningReport.measure`.

        Raises:
            RuntimeError: `train()` has not finished.
        """
        if self.outcome is None:
            raise RuntimeError("`report()` needs a finished run: call `train()` first.")
        retain_dataset = self.retain_dataset if retain_dataset is None else retain_dataset
        self.measured = UnlearningReport.measure(self, retain_dataset, test_dataset, retrained, **settings)
        return self.measured
