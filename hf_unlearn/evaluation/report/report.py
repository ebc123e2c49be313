"""`UnlearningReport`: original, unlearned and retrained model side by side, read both ways.

The yardstick is the retrained model. A forget accuracy below its own is over-forgetting, as telling as one above.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...metrics.functional.intervals import Estimate, mean_distance, share
from ...utils.files import write_atomically
from .table import rows

if TYPE_CHECKING:  # what is measured needs torch; what is read, and shown, does not
    from torch import Tensor, nn

    from ...data.pairs import PreparedRows
    from ...trainer import UnlearningTrainer
    from .bias_pattern import Pattern
    from .measures import Outputs

SCHEMA = "hf_unlearn/report/2"
RELEARNING_LIMIT = 200
GAP_MEASURES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")


@dataclass
class UnlearningReport:
    """What was asked, what was done, and what each model does now.

    Attributes:
        models: model -> measure -> value. Accuracies, F1 and attack are shares in [0, 1]; Jensen–Shannon divergence is in
            nats. Models are `original`, `unlearned` and, where one was given, `retrained`.
        intervals: model -> measure (and `gap`) -> [low, high], at 95 % over the rows measured; see `intervals`. A count of
            relearning steps has none: it is one teaching run.
        gap: model -> mean absolute difference to the retrained model over `GAP_MEASURES`, in points.
        per_class, per_class_intervals: model -> test accuracy of every class, and its [low, high].
        roc: model -> curve of the loss attack: `false_positives`, `true_positives`, and how many `members` and `others`.
        relearning: model -> test accuracy on the forgotten classes after 0, 1, 2, … steps of teaching them again.
        confidence: model -> set -> histogram (20 bins over [0, 1], shares) of the highest probability.
        information: model -> what its outputs tell (`InformationAudit`, on all rows measured): whether a row is of the
            forget set, or, where an attribute was unlearned, its value given the label.
        groups, group_intervals: model -> value of the attribute -> accuracy on the test set, and its [low, high].
        seconds: of unlearning, of retraining, and their ratio.
        outcome: the checks of the run (`Outcome`), its warnings and its path over the steps.
        run: method, arguments, sizes, versions.
    """

    models: dict[str, dict[str, float]]
    gap: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    per_class_intervals: dict[str, list[list[float] | None]] = field(default_factory=dict)
    roc: dict[str, dict[str, Any]] = field(default_factory=dict)
    relearning: dict[str, list[float]] = field(default_factory=dict)
    confidence: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    information: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    group_intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    @classmethod
    def measure(
        cls,
        trainer: UnlearningTrainer,
        retain: Any | None,
        test: Any | None,
        retrained: nn.Module | None = None,
        *,
        retrained_seconds: float | None = None,
        relearning: bool = False,
        pattern: Pattern | None = None,
        max_rows: int = 10_000,
    ) -> UnlearningReport:
        """Measure the trainer's original and unlearned model, and `retrained`.

        Args:
            retain, test: labelled data sets; without one its rows are left out. At most `max_rows` of each are read.
            retrained: a model trained without the forget set, the yardstick.
            relearning: also count the steps until a forgotten class is back (class requests with a test set).
            pattern: a column of `test` and the labels that its values point to (`read_pattern` checks them): how far each model
                goes by it is measured too.
        """
        from ...models.prediction import predict
        from . import measures
        from .bias_pattern import read_values
        from .run_description import record_run

        sets: dict[str, PreparedRows] = {}
        for name, data in (("forget", trainer.forget_dataset), ("retain", retain), ("test", test)):
            if data is not None:
                sets[name] = _rows(trainer, data, max_rows, name)
        classes = trainer.reference.forgotten_classes
        outputs: dict[str, dict[str, tuple[Tensor, Tensor | None]]] = {}
        report = cls(models={})

        def visit(name: str, model: nn.Module) -> None:
            size = trainer.args.eval_batch_size
            outputs[name] = {k: predict(model, rows, trainer.processor, size) for k, rows in sets.items()}
            if relearning and classes and "test" in sets:
                report._relearn(trainer, name, model, sets, outputs["original"]["test"])

        with trainer.original_weights() as model:
            visit("original", model)
        visit("unlearned", trainer.model)
        if retrained is not None:
            visit("retrained", retrained.to(trainer.args.device))

        for name, out in outputs.items():
            figures, curve = measures.measure(out, classes)
            report._add(name, figures)
            if curve is not None:
                report.roc[name] = measures.curve_of(curve)
        if pattern is not None:
            report._tell_bias(outputs, pattern, read_values(test, pattern.column), trainer, max_rows)
        if retrained is not None and "forget" in sets:
            report._compare(outputs)
        attribute = getattr(trainer.method, "attribute", None)
        if attribute is not None:
            report._tell_groups(
                outputs, attribute, _column(trainer, test if "test" in sets else retain, attribute, max_rows)
            )
        elif {"forget", "retain"} <= sets.keys():
            report._tell_forgotten(outputs)
        for name, out in outputs.items():
            report.confidence[name] = {k: measures.histogram(logits) for k, (logits, _) in out.items()}
            logits, labels = out.get("test", next(iter(out.values())))
            if "test" in out and labels is not None:
                report.per_class[name], report.per_class_intervals[name] = measures.per_class(logits, labels)
        report.seconds = {"unlearning": trainer.seconds}
        if retrained_seconds:
            report.seconds |= {"retraining": retrained_seconds, "ratio": trainer.seconds / retrained_seconds}
        report.outcome = trainer.outcome.as_dict() if trainer.outcome is not None else {}
        report.run |= record_run(trainer, retain, {k: len(v) for k, v in sets.items()})
        return report

    def _add(self, name: str, figures: Mapping[str, Estimate]) -> None:
        self.models.setdefault(name, {}).update({m: value for m, (value, _, _) in figures.items()})
        self.intervals.setdefault(name, {}).update({m: [low, high] for m, (_, low, high) in figures.items()})

    def _estimate(self, name: str, measure: str) -> Estimate:
        low, high = self.intervals[name][measure]
        return self.models[name][measure], low, high

    def _compare(self, outputs: Mapping[str, Outputs]) -> None:
        from . import measures

        yardstick = outputs["retrained"]["forget"][0]
        for name in ("original", "unlearned"):
            self._add(name, measures.distances(outputs[name]["forget"][0], yardstick))
            shared = [m for m in GAP_MEASURES if m in self.models[name] and m in self.models["retrained"]]
            if shared:
                ours, theirs = ([self._estimate(n, m) for m in shared] for n in (name, "retrained"))
                self.gap[name], *limits = (100 * v for v in mean_distance(ours, theirs))
                self.intervals[name]["gap"] = limits

    def _relearn(
        self,
        trainer: UnlearningTrainer,
        name: str,
        model: nn.Module,
        sets: Mapping[str, PreparedRows],
        original_test: tuple[Tensor, Tensor | None],
    ) -> None:
        import torch

        from ..relearning import relearning_path, steps_of

        logits, labels = original_test
        if labels is None:
            return
        mine = torch.isin(labels, torch.tensor(trainer.reference.forgotten_classes))
        if not mine.any():
            return  # no test row to see the class come back on
        wanted = 0.9 * (logits.argmax(-1) == labels)[mine].float().mean().item()
        probe = [row for row, keep in zip(sets["test"], mine.tolist(), strict=True) if keep]
        taught = [sets["forget"][i] for i in range(min(20, len(sets["forget"])))]
        path = relearning_path(model, taught, probe, trainer.processor, wanted, limit=RELEARNING_LIMIT)
        self.relearning[name] = path
        self.models.setdefault(name, {})["relearning_steps"] = steps_of(path, wanted, RELEARNING_LIMIT)

    def _tell_bias(
        self,
        outputs: Mapping[str, Outputs],
        pattern: Pattern,
        values: list[str],
        trainer: UnlearningTrainer,
        max_rows: int,
    ) -> None:
        from ...data.sampling import drawn_rows
        from .bias_pattern import bias_measures

        drawn = [values[i] for i in drawn_rows(len(values), max_rows, trainer.args.seed)]  # the rows that `_rows` takes
        for name, out in outputs.items():
            logits, labels = out["test"]
            if labels is not None:
                self._add(name, bias_measures(logits.argmax(-1), labels, drawn, pattern))
        names = {number: name for name, number in trainer.processor.label2id.items()}
        labels_named = {value: names.get(number, str(number)) for value, number in pattern.labels.items()}
        self.run["bias"] = {"column": pattern.column, "labels": labels_named}

    def _tell_forgotten(self, outputs: Mapping[str, Outputs]) -> None:
        import torch

        from ...metrics.functional.information_audit import audit

        for name, out in outputs.items():
            retain, forget = out["retain"][0].softmax(-1), out["forget"][0].softmax(-1)
            origin = ["retain"] * len(retain) + ["forget"] * len(forget)
            self.information[name] = audit(torch.cat([retain, forget]), origin, marginal=True).as_dict()

    def _tell_groups(
        self,
        outputs: Mapping[str, Outputs],
        attribute: str,
        groups: list[Any] | None,
    ) -> None:
        from ...metrics.functional.fairness import group_accuracies
        from ...metrics.functional.information_audit import audit

        if groups is None or len(set(groups)) < 2:
            return  # nothing to tell apart
        for name, out in outputs.items():
            logits, labels = out.get("test") or out["retain"]
            self.information[name] = audit(logits.softmax(-1), groups, labels).as_dict()
            if labels is None:
                continue
            accuracies = group_accuracies(logits.argmax(-1), labels, groups)
            self.groups[name] = {str(value): accuracy for value, accuracy in accuracies.items()}
            right, values = (logits.argmax(-1) == labels).numpy(), np.array(groups, dtype=object)
            self.group_intervals[name] = {str(value): list(share(right[values == value])[1:]) for value in accuracies}
        self.run["attribute"] = attribute

    @property
    def warnings(self) -> list[str]:
        """What went wrong in the run, or reads badly in the figures."""
        out = list(self.outcome.get("warnings", []))
        ours, yardstick = self.models.get("unlearned", {}), self.models.get("retrained")
        if yardstick and ours.get("forget_accuracy", 0.0) < yardstick.get("forget_accuracy", 0.0) - 0.05:
            out.append("over-forgetting: accuracy on the forget set is below the retrained model's")
        limits = [self.intervals.get(n, {}).get("forget_accuracy") for n in ("unlearned", "retrained")]
        if limits[0] and limits[1] and limits[0][0] > limits[1][1]:
            out.append(
                "under-forgetting: accuracy on the forget set is above the retrained model's, beyond both intervals"
            )
        out += self._attacks_that_turn()
        if yardstick and "relearning_steps" in ours and ours["relearning_steps"] < 0.5 * yardstick["relearning_steps"]:
            out.append(
                f"shallow: the class is back after {ours['relearning_steps']:.0f} relearning steps, the retrained model takes "
                f"{yardstick['relearning_steps']:.0f}; outputs look right, weights still know it"
            )
        return out

    def began_lower(self, measure: str) -> bool:
        """Whether the original's value lies below the unlearned model's, so that a low one is where it came from."""
        values = [self.models.get(name, {}).get(measure) for name in ("original", "unlearned")]
        return None not in values and values[0] < values[1]  # type: ignore[operator]

    def _attacks_that_turn(self) -> list[str]:
        """Attacks on the unlearned model that find less than in the retrained one, or less than chance."""
        out = []
        for measure, attack in (("membership_attack", "entropy attack"), ("loss_attack_auc", "loss attack")):
            ours, theirs = (self.intervals.get(n, {}).get(measure) for n in ("unlearned", "retrained"))
            if ours and theirs and ours[1] < theirs[0]:
                less = f"the {attack} finds less than in the retrained model, beyond both intervals"
                short = self.began_lower(measure)
                out.append(
                    f"under-forgetting: {less}, and still less in the original" if short else f"over-forgetting: {less}"
                )
            elif ours and not theirs and measure == "loss_attack_auc" and ours[1] < 0.5:
                out.append(
                    "over-forgetting: the loss attack is below chance, so losses on the forget set are higher than on test "
                    "rows, and who reads it the other way round finds the forgotten rows"
                )
        return out

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "warnings": self.warnings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UnlearningReport:
        """The inverse of `as_dict`.

        Raises:
            ValueError: another schema, or not what a report of this schema holds.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"`schema` is {data.get('schema')!r}, this version reads {SCHEMA!r}.")
        parts = {k: v for k, v in data.items() if k not in ("schema", "warnings")}
        wrong = {k for k, v in parts.items() if not isinstance(v, dict)} | parts.keys() - {f.name for f in fields(cls)}
        wrong |= {"models"} - parts.keys()
        if not wrong and not all(isinstance(measures, dict) for measures in parts["models"].values()):
            wrong = {"models"}
        if wrong:
            raise ValueError(f"report.json is malformed at {min(wrong)[:60]!r}.")
        return cls(**parts)

    def rows(self) -> list[tuple[str, list[str]]]:
        """The table: title and one cell per model, as they are; escape them for where they go."""
        return rows(self)

    def to_markdown(self) -> str:
        """The report as markdown; names from the data are inert in it."""
        from .page import to_markdown

        return to_markdown(self)

    def to_html(self, figures: bool = True) -> str:
        """The report as one self-contained page, its figures inside (with matplotlib)."""
        from .page import to_html

        return to_html(self, figures)

    def print(self) -> None:
        """The table, in the terminal."""
        from .page import print_table

        print_table(self)

    def save(self, folder: str | Path, figures: bool = True) -> None:
        """Write `report.json`, `report.md`, `report.html` and, with `figures`, `figures/*.png` into `folder`, each atomically.

        Raises:
            ImportError: `figures` without matplotlib.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "report.md", self.to_markdown())
        write_atomically(folder / "report.html", self.to_html(figures))
        if figures:
            from .plots import save_figures

            save_figures(self, folder / "figures")


def _rows(trainer: UnlearningTrainer, data: Any, limit: int, name: str) -> PreparedRows:
    """Prepared rows of `data`, at most `limit`; every model sees the same."""
    from ...data.pairs import PreparedRows
    from ...data.sampling import draw

    return PreparedRows(draw(data, limit, trainer.args.seed), trainer.processor, f"{name}_dataset", cache_bytes=2**29)


def _column(trainer: UnlearningTrainer, data: Any, name: str, limit: int) -> list[Any] | None:
    """The column of the rows that `_rows` takes, or None where some row lacks it."""
    from ...data.sampling import draw

    if data is not None and name in (getattr(data, "column_names", None) or ()):
        data = data.select_columns([name])  # or every image would be decoded for it
    values: list[Any] = [row.get(name) for row in draw(data, limit, trainer.args.seed)] if data is not None else [None]
    values = [v.item() if hasattr(v, "item") else v for v in values]
    names = getattr((getattr(data, "features", None) or {}).get(name), "names", None)
    return None if any(v is None for v in values) else [names[v] if names else v for v in values]
