"""`UnlearningTrainer`: the HF Trainer over forget and retain sets. It adds up a method's terms and knows no method."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from .adapters import FLOOR, Patch, adapter_names, check_patch, is_adapted, load_adapters
from .arguments import UnlearningArguments
from .checks import check_data, check_original, check_output, find_kind
from .control import ForgettingControl, TrustRegion, graceful_interrupt
from .data import find_label_column, read_groups, read_labels
from .files import write_atomically
from .methods import METHODS, UnlearningMethod
from .methods.counterfactual import CounterfactualAnchors
from .outcome import Outcome, verify
from .pairing import EpochSampler, PreparedRows, UnlearningDataset, draw
from .processing import Processor, unwrap
from .reference import Reference, build_reference, forgotten_classes
from .scope import Snapshot, fingerprints, joint_digest, restrict, updated_names
from .watch import Watch

if TYPE_CHECKING:
    from .evaluation.report import UnlearningReport

STATE_FILE = "unlearning_state.json"
WATCHED_ROWS = 1_000  # training rows looked at where there is no forget set


class UnlearningTrainer(Trainer):
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
            held-out `eval_dataset` rows (or its entry `validation`) also set the level that forgetting single rows aims at.
        peft_config: restricts the update to a PEFT adapter, a reversible patch over `model` (changed in place): a `PeftConfig`, or
            what else `adapter_config` takes. `update` is then left out.
        image_column, text_column, label_column: names of the columns, where they are not the usual ones.

    Raises:
        ValueError: a set is missing, empty or overlaps, a label is outside the head, the output folder holds a model, ...
            Everything that can be checked is checked here, before the model is touched.
    """

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
        args = args if args is not None else UnlearningArguments(output_dir="unlearned")
        if not isinstance(args, UnlearningArguments):
            raise TypeError(f"`args` must be `UnlearningArguments`, got {type(args).__name__}.")
        if method is None:
            if args.method not in METHODS:
                raise ValueError(f"`method={args.method!r}` is unknown. Known: {', '.join(METHODS)}.")
            method = METHODS[args.method]()
        if model is None and model_init is None:
            raise ValueError(
                "`model` is missing: pass the trained classifier, or `model_init` to retrain from scratch."
            )
        self.method = method
        self.model_init_fn = model_init
        model = model if model is not None else model_init()  # type: ignore[misc]
        self.processor = Processor(
            model, processing_class, image_column=image_column, text_column=text_column, label_column=label_column
        )
        check_data(method, self.processor, forget_dataset, retain_dataset)
        self.forget_dataset, self.retain_dataset = forget_dataset, retain_dataset
        kind = args.forget_kind
        if forget_dataset is None:
            kind = "samples"
        elif kind == "auto":
            kind = find_kind(model, self.processor, forget_dataset, retain_dataset)
        if peft_config is not None:
            check_patch(method, args.update)
        args = args.resolved(method, kind, None if peft_config is None else "adapter")
        self.patch = None if peft_config is None else Patch(model, peft_config, args.seed)
        model = model if self.patch is None else self.patch.model
        self.updated = adapter_names(model) or updated_names(model, args.update)  # type: ignore[arg-type]
        groups = None
        if method.needs_column and not method.one_shot:
            groups, self.group_names = read_groups(retain_dataset, getattr(method, "attribute", None))
        watched = draw(retain_dataset, WATCHED_ROWS, args.seed) if forget_dataset is None else forget_dataset
        self.unlearning_data = UnlearningDataset(
            forget_dataset if method.needs_forget else None,
            (watched if method.one_shot else retain_dataset) if method.needs_retain else None,
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
            strata=None if groups is None else self._strata(groups),
        )
        self.flat_collator = data_collator or self.processor.collate
        optimiser: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None
        if args.trust_region:
            optimiser = (TrustRegion, {"lr": args.trust_region, **({"floor": FLOOR} if self.patch is not None else {})})
            args.learning_rate = args.trust_region  # what the schedule scales and the log shows
            args.max_grad_norm = 0.0  # a step of fixed length has no use for clipping
        elif args.optim == "sgd":
            optimiser = (torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.momentum})
        restrict(model, self.updated)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=self.unlearning_data,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=None if optimizers[0] is not None else optimiser,
        )
        # Terms are means: the Trainer must divide them by the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        if self.method.anchors is None:
            self.method = replace(self.method, anchors=args.update != "head" and retain_dataset is None)
        self.forgetting = ForgettingControl(self)
        self.add_callback(self.forgetting)
        self.reference: Reference
        self.anchors: CounterfactualAnchors | None = None
        self.original: Snapshot | None = None
        self.outcome: Outcome | None = None
        self.interrupted = False
        self.seconds = 0.0
        self.watch: Watch
        self._terms: dict[str, list[float]] = defaultdict(list)

    # --- data ---------------------------------------------------------------------------------------------------------

    def _collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not {"seed", "index"} <= items[0].keys() or not {"forget", "retain"} & items[0].keys():  # evaluation rows
            return self.flat_collator(items)
        batch: dict[str, Any] = {k: torch.tensor([item[k] for item in items]) for k in ("index", "seed")}
        if "group" in items[0]:
            batch["group"] = torch.tensor([g for item in items for g in item["group"]])
        sides = {s: [row for item in items for row in item[s]] for s in ("forget", "retain") if s in items[0]}
        if len(sides) == 1:
            return batch | {side: dict(self.flat_collator(rows)) for side, rows in sides.items()}
        # Both in one go: text is padded to one length, so that a method can join the sides in one forward pass.
        joint = dict(self.flat_collator([row for rows in sides.values() for row in rows]))
        cut = len(sides["forget"])
        for side, rows, part in (
            ("forget", sides["forget"], slice(cut)),
            ("retain", sides["retain"], slice(cut, None)),
        ):
            batch[side] = {k: v[part] for k, v in joint.items()}
            if "labels" not in joint and all("labels" in row for row in rows):
                batch[side]["labels"] = torch.stack([torch.as_tensor(row["labels"]) for row in rows])
        return batch

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next optimiser step, shown to the method before the first of them."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            self.method.before_step(self.model, batches)
        return batches, items

    def _strata(self, groups: np.ndarray) -> np.ndarray:
        """Label and group of every retain row as one number."""
        retain: Any = self.retain_dataset
        column = find_label_column(retain, self.processor.label_columns[0])
        assert column is not None
        _, labels = np.unique(read_labels(retain, column), return_inverse=True)
        return labels * len(self.group_names) + groups

    def _get_train_sampler(self, train_dataset: Any | None = None) -> Any:
        return self.sampler

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        raw = ("forget", "retain", "group", "index", "seed", *self.processor.columns, *self.processor.label_columns)
        self._signature_columns += [c for c in raw if c not in self._signature_columns]

    # --- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the method's terms on a training batch; ordinary loss on an evaluation batch."""
        if "seed" not in inputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        if self.patch is not None:
            self.patch.freeze_statistics()
        terms = self.method.loss(model, inputs, self.reference)
        if self.anchors is not None:
            terms["anchors"] = self.method.anchor_weight * self.anchors.loss(model, inputs["seed"], self.processor)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            bad = ", ".join(k for k, v in terms.items() if not torch.isfinite(v))
            raise FloatingPointError(
                f"the loss is NaN or infinite at step {self.state.global_step} (term: {bad}). The run ends and writes no model."
            )
        for name, value in terms.items():
            self._terms[name].append(value.item())
        return (total, terms) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last entry, as `loss/<term>`, and what the method measures."""
        if self._terms and "loss" in logs:
            terms = {f"loss/{name}": float(np.mean(values)) for name, values in self._terms.items()}
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
            self.reference = build_reference(self.model, self.forget_rows, self.processor, self.args.eval_batch_size)
            if self.args.forget_kind == "class":
                self.reference.forgotten_classes = forgotten_classes(self.reference)
            if self.method.anchors and self.reference.forgotten_classes:
                self.anchors = CounterfactualAnchors(seed=self.args.seed).build(
                    self.model, self.forget_rows, self.processor, self.reference, progress=not self.args.disable_tqdm
                )
        self.watch = Watch(self)
        self.method.setup(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Unlearn, then check what happened: see `self.outcome`.

        Raises:
            ValueError: the output folder is taken, or there is nothing to resume from.
            RuntimeError: parameters outside `update` changed.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint to resume from is written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        elif not resume_from_checkpoint:
            resume_from_checkpoint = None
            check_output(self.args.output_dir, self.args.overwrite)
        started = time.perf_counter()
        unfinished = self.outcome is None or self.outcome.stopped == "failed"
        if self.original is not None and (resume_from_checkpoint or unfinished):
            self.original.restore(self.model)  # a run of this trainer left the model half-way
        self.outcome = None
        self._set_up()
        saved: dict[str, Any] = {}
        if resume_from_checkpoint:
            saved = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
            if self.method.needs_forget:  # the others may start from fresh, random weights
                check_original(saved.get("original"), self.original_fingerprints)
            self.method.load_state(saved["method"])
            self.method.load_checkpoint(Path(resume_from_checkpoint))
            started -= saved["seconds"]
        elif self.args.overwrite and self.is_world_process_zero():
            for old in Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(old)
        self.forgetting.start(saved, resume_from_checkpoint)
        self._started = started
        if self.forgetting.stopped:  # the checkpoint is of a run at its end: one more step would go past it
            self._load_from_checkpoint(str(resume_from_checkpoint))
            self.state = TrainerState.load_from_json(str(Path(str(resume_from_checkpoint)) / TRAINER_STATE_NAME))
        if self.method.one_shot or self.forgetting.stopped:
            self.seconds = time.perf_counter() - started
            self.watch.model_changed()
            self.outcome = verify(self)
            return TrainOutput(self.state.global_step, 0.0, {})
        try:
            gc.freeze()  # the base class collects garbage before the first step: spare it a walk over every module loaded
            with graceful_interrupt(self):
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except BaseException:
            self.outcome = Outcome(stopped="failed", warnings=["the run failed; the model is in an undefined state"])
            raise
        finally:
            gc.unfreeze()
        self.seconds = time.perf_counter() - started
        if self.interrupted:
            raise KeyboardInterrupt(f"Resume from the checkpoint in {self.args.output_dir}")
        self.outcome = verify(self)
        return output

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            seconds = time.perf_counter() - self._started
            state = {**self.forgetting.save(folder), "seconds": seconds, "method": self.method.state()}
            self.method.save_checkpoint(folder)
            state["original"] = joint_digest(self.original_fingerprints)
            # last, so its presence says that the checkpoint is whole
            write_atomically(folder / STATE_FILE, json.dumps(state))

    def _save(self, output_dir: str | None = None, state_dict: Any | None = None) -> None:
        super()._save(output_dir, state_dict)
        self.method.save(unwrap(self.model), output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load through `from_pretrained`, strictly: the base class restores wrong weights for ViT-like models."""
        target = self.model if model is None else model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        if is_adapted(target):
            load_adapters(target, resume_from_checkpoint)
        else:
            model_class: Any = type(target)
            target.load_state_dict(model_class.from_pretrained(resume_from_checkpoint).state_dict(), strict=True)
        self.watch.model_changed()

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        self._load_from_checkpoint(self.state.best_model_checkpoint)

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
        from .evaluation.report import UnlearningReport

        if self.outcome is None:
            raise RuntimeError("`report()` needs a finished run: call `train()` first.")
        retain = retain_dataset if retain_dataset is not None else self.retain_dataset
        return UnlearningReport.measure(self, retain, test_dataset, retrained, **settings)


def last_checkpoint(folder: str | Path) -> str:
    """The newest whole checkpoint in `folder`.

    Raises:
        ValueError: there is none.
    """
    found = [p for p in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (p / STATE_FILE).is_file()]
    if not found:
        raise ValueError(f"`resume_from_checkpoint`: no whole checkpoint in {folder}. Start without it.")
    return str(max(found, key=lambda p: int(p.name.rsplit("-", 1)[1])))
