"""Measures of a model while it unlearns: what it still remembers, what it keeps, and the target of forgetting."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.pairs import PreparedRows
from ..data.sampling import DrawnRows, draw, drawn_rows, has_transform
from ..models.last_layer import LastLayerPasses, Versions, versions
from ..models.prediction import predict
from ..models.reference import SAMPLES_FLOOR
from ..utils.distributed import filled_part, in_any_process, in_parallel, joined_outputs, own_part, share_statistics
from ..utils.large_tensors import chunks
from .original_check import find_doubts
from .protocols import TrainingRun

logger = logging.getLogger(__name__)
CLASS_TARGET = 0.01  # share of a forgotten class that may still be put into this class
DATA_EXPONENT = 0.75  # of the power law by which the error falls with the number of rows of a class
VALIDATION_ROWS = 10_000
KEPT_BYTES = 2**30  # memory for prepared rows; rows beyond this are prepared again for each check


def estimated_target(error: float, forget_counts: Tensor, retain_counts: Tensor) -> float:
    """Estimate the share of single forget rows that a model retrained without them would answer as the original does.

    The forget rows are unseen for a retrained model. It errs on them as the original errs on unseen rows, and a little more
    often if it has fewer rows of their class. Let e be the error on held-out rows, and n_c = r_c + f_c the rows of class c, of
    which r_c are retained. With learning curves e ∝ n^(-3/4) [ours; the exponent is a rule of thumb, between 1/2 and 1],

        T = Σ_c (f_c / f) max(0, 1 − e (n_c / r_c)^(3/4)).

    Args:
        error: Share of held-out rows that the original gets wrong, in [0, 1].
        forget_counts: (classes,) forget rows of each class that the original predicts.
        retain_counts: (classes,) retain rows of each labelled class.
    """
    forget, retain = forget_counts.double(), retain_counts.double()
    growth = ((forget + retain) / retain.clamp_min(1e-9)) ** DATA_EXPONENT
    return float((forget / forget.sum() * (1 - error * growth).clamp_min(0)).sum())


@dataclass
class _Outputs:
    """The outputs of the model on a set of rows, and when it gave them."""

    state: Any  # of the Trainer, which each run makes anew
    step: int
    weights: Versions
    logits: Tensor
    labels: Tensor | None


class Monitor:
    """Measures the model of a run. It must be made while the model is the original, whose outputs `run.reference` holds.

    The processes share the rows, and all of them get the same figures, so all must call a method together.

    Attributes:
        target: Share of the forget set that may still be answered as before; None for no target.
        guards_kept: True if lost accuracy on retained rows stops or slows the run.
        judges_kept: True if it counts as damage at the end of the run: always, unless the run began with untrained weights.
        doubts: What the original's answers say against the labels, in sentences.
    """

    def __init__(self, run: TrainingRun, passes: LastLayerPasses | None = None) -> None:
        self.run = run
        self.guards_kept = self.judges_kept = False
        self._kept: PreparedRows | None = None  # labelled rows
        self._passes = LastLayerPasses() if passes is None or run.patch is not None else passes
        self._known: dict[str, _Outputs] = {}  # name of a set of rows -> outputs of the last pass over it
        self._original: dict[str, tuple[Tensor, Tensor | None]] = {"forget": (run.reference.logits, None)}
        self._is_original = False
        self._build_kept_probe()
        self.doubts = find_doubts(run, self._kept_answers())
        self.target = self._find_target()

    def model_changed(self) -> None:
        """Drop what is known of the outputs, because weights were written outside an optimizer step."""
        self._known.clear()
        self._passes.clear()

    @contextmanager
    def of_original(self) -> Iterator[None]:
        """Inside, the model has its original weights, whose outputs are known as far as they were measured at the start."""
        self._is_original = True
        try:
            yield
        finally:
            self._is_original = False

    def forget_logits(self) -> Tensor:
        """Return the logits (n, classes) of the present model on the whole forget set."""
        return self._outputs("forget", self.run.forget_rows)[0]

    def share_remembered(self, limit: int | None = None) -> float:
        """Return the share of the forget set (or of `limit` rows drawn by seed) answered as before; NaN if an output is."""
        forget = self.run.forget_rows
        rows = drawn_rows(len(forget), limit or len(forget), self.run.args.seed)
        index, state = torch.from_numpy(rows), self.run.state
        if len(rows) == len(forget):
            logits = self.forget_logits()
        elif state.global_step >= state.max_steps:  # the end of a run is measured on the whole set anyway
            logits = self.forget_logits()[index]
        elif (whole := self._held("forget")) is not None:
            logits = whole[0][index]
        elif self._keeps_features(forget) and self._passes.may_keep("forget", self.run.model, forget):
            logits = self.forget_logits()[index]  # which the end of the run needs anyway
        else:
            logits = self._pass(f"forget: {limit}", DrawnRows(forget, rows))[0]
        if not all(torch.isfinite(part).all() for (part,) in chunks(logits)):
            return math.nan
        return self.run.reference.remembered(logits, index).float().mean().item()

    def share_kept(self) -> float | None:
        """Return the accuracy on the probe of retained rows: None without labelled rows, NaN if an output is NaN."""
        if self._kept is None:
            return None
        logits, labels = self._outputs("kept", self._kept)
        assert labels is not None  # `_build_kept_probe` has checked them
        if not torch.isfinite(logits).all():
            return math.nan
        return (logits.argmax(-1) == labels).float().mean().item()

    def _kept_answers(self) -> tuple[Tensor, Tensor] | None:
        """Return predictions (n,) and labels (n,) on the probe of retained rows; None without labelled rows.

        None also for rows with a transform of the user, because reading them may move the random numbers of the run.
        """
        if self._kept is None or has_transform(self._kept.rows):
            return None
        logits, labels = self._original["kept"] = self._pass("kept", self._kept)
        assert labels is not None
        return logits.argmax(-1), labels

    def _outputs(self, name: str, rows: PreparedRows) -> tuple[Tensor, Tensor | None]:
        """Return logits and labels of the set `name`, from the last pass over it if the model is still the same.

        Kept rows with a transform of the user are another view each time, and are read each time.
        """
        if (held := self._held(name)) is not None:
            return held
        logits, labels = self._pass(name, rows)
        if not self._is_original and (name == "forget" or not (in_parallel() or has_transform(rows.rows))):
            state = self.run.state
            self._known[name] = _Outputs(state, state.global_step, self._weights(), logits, labels)
        return logits, labels

    def _held(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        """Return the outputs on the set `name` that are known of the present weights, if any are."""
        if self._is_original:
            return self._original.get(name)
        found, state = self._known.get(name), self.run.state
        if (
            found is None
            or found.state is not state
            or found.step != state.global_step
            or found.weights != self._weights()
        ):
            return None
        return found.logits, found.labels

    def _weights(self) -> Versions:
        # Several processes must agree on what is read anew, and their tensors differ in these numbers.
        return [] if in_parallel() else versions(self.run.model)

    def _pass(self, name: str, rows: Any) -> tuple[Tensor, Tensor | None]:
        """Read a set of rows that is read again and again."""
        run = self.run
        if not self._keeps_features(rows.dataset if isinstance(rows, DrawnRows) else rows):
            return self._predict(rows)
        return self._passes.predict(name, run.model, rows, run.processor, run.args.eval_batch_size, run.args.output_dir)

    def _keeps_features(self, rows: PreparedRows) -> bool:
        """Return True if what the last layer reads of `rows` may be kept for the next pass."""
        run = self.run
        return not (in_parallel() or run.shards or run.is_deepspeed_enabled or has_transform(rows.rows))

    def _predict(self, rows: Any) -> tuple[Tensor, Tensor | None]:
        """Return the logits (n, classes) and labels (n,) of all `rows`. Each process reads its part."""
        part, run, folder = own_part(len(rows)), self.run, self.run.args.output_dir
        # Sharded parameters need all processes in each forward pass, so all read the same number of rows.
        drawn = DrawnRows(rows, np.array(filled_part(len(rows))))
        share_statistics(run.model)
        logits, labels = predict(run.model, drawn, run.processor, run.args.eval_batch_size, folder=folder)
        return joined_outputs(logits[: len(part)], labels if labels is None else labels[: len(part)], len(rows), folder)

    def _build_kept_probe(self) -> None:
        """Choose the rows that show damage: held-out rows if single rows are forgotten, otherwise retain rows."""
        held_out = self._validation_set()
        by_retain_rows = held_out is None or self.run.reference.forgotten_classes
        self._judge_by(self._retain_rows() if by_retain_rows else held_out)

    def judge_by_retain_rows(self) -> None:
        """Let retain rows show damage in place of held-out rows, which may hold rows of the group that is forgotten.

        Call it while the model is the original.
        """
        self._known.pop("kept", None)
        self._original.pop("kept", None)
        self._judge_by(self._retain_rows())
        self._kept_answers()

    def _retain_rows(self) -> Any | None:
        return self.run.guard_dataset if self.run.retain_dataset is None else self.run.retain_dataset

    def _judge_by(self, source: Any | None) -> None:
        run = self.run
        if source is None:
            return
        drawn = draw(source, run.args.probe_size, run.args.seed)
        rows = PreparedRows(drawn, run.processor, "retain_dataset", KEPT_BYTES)
        unlabelled = any("labels" not in row for row in rows.many(own_part(len(rows))))
        if len(rows) and not in_any_process(unlabelled):
            self._kept = rows
            self.guards_kept = run.method.needs_forget or run.method.needs_column
            self.judges_kept = not run.method.starts_fresh

    def _validation_set(self) -> Any | None:
        """Return `eval_dataset`, or its entry `validation` if it is a dictionary."""
        given = self.run.eval_dataset
        return given.get("validation") if isinstance(given, dict) else given

    def _find_target(self) -> float | None:
        given, method = self.run.args.forget_target, self.run.method
        if given is not None:
            return None if given < 0 else given
        if not method.needs_forget and self.run.forget_dataset is None:
            return None
        if self.run.reference.forgotten_classes:
            return CLASS_TARGET
        if not method.stops_at_target or not method.needs_retain:
            return None
        accuracy, counts = self.held_out_accuracy(), self.run.processor.class_counts(self.run.retain_dataset)
        if accuracy is None or counts is None:
            logger.warning(
                "No forgetting target can be estimated without labelled held-out rows (`eval_dataset`) and a labelled, "
                "map-style `retain_dataset`. The run stops when less than %.0f %% of the forget set would be answered as before.",
                100 * SAMPLES_FLOOR,
            )
            return None
        predicted = self.run.reference.predictions.bincount(minlength=len(counts))
        return estimated_target(1 - accuracy, predicted, counts)

    def held_out_accuracy(self) -> float | None:
        """Return the share of labelled held-out rows that the present model gets right; None without such rows."""
        found = self.held_out_answers()
        if found is None:
            return None
        logits, labels = found
        # Laplace's rule of succession: no error among few rows does not mean none on unseen data.
        return ((logits.argmax(-1) == labels).sum().item() + 1) / (len(labels) + 2)

    def held_out_answers(self, limit: int = VALIDATION_ROWS) -> tuple[Tensor, Tensor] | None:
        """Return logits (m, classes) of the present model on labelled held-out rows, and their labels; None without such rows."""
        held_out = self._validation_set()
        if held_out is None:
            return None
        logits, labels = self._predict(draw(held_out, limit, self.run.args.seed))
        return None if labels is None else (logits, labels)
