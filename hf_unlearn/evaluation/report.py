"""`UnlearningReport`: original, unlearned and retrained model side by side, read both ways.

The yardstick is the retrained model. A forget accuracy below its own is over-forgetting, as telling as one above.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..information import audit
from ..pairing import PreparedRows, draw
from ..processing import predict
from .accuracy import accuracy, macro_f1
from .distance import agreement, average_gap, jensen_shannon
from .fairness import group_accuracies
from .membership import entropy_attack
from .relearning import relearning_steps

if TYPE_CHECKING:
    from ..trainer import UnlearningTrainer

SCHEMA = "hf_unlearn/report/1"
BINS = 20
GAP_MEASURES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")
TITLES = {
    "forget_accuracy": "accuracy on the forget set",
    "forget_f1": "macro F1 on the forget set",
    "retain_accuracy": "accuracy on the retain set",
    "retain_f1": "macro F1 on the retain set",
    "test_accuracy": "test accuracy",
    "test_f1": "test macro F1",
    "test_forgotten_accuracy": "test accuracy, forgotten classes",
    "test_kept_accuracy": "test accuracy, kept classes",
    "membership_attack": "entropy attack: forget samples called members",
    "js_to_retrained": "Jensen–Shannon divergence to retrained, forget set",
    "agreement_with_retrained": "same answer as retrained, forget set",
    "relearning_steps": "steps until the class is relearned",
}


@dataclass
class UnlearningReport:
    """What was asked, what was done, and what each model does now.

    Attributes:
        models: model -> measure -> value. Accuracies, F1 and attack are shares in [0, 1]; Jensen–Shannon divergence is in
            nats. Models are `original`, `unlearned` and, where one was given, `retrained`.
        gap: model -> mean absolute difference to the retrained model over `GAP_MEASURES`, in points.
        per_class: model -> test accuracy of every class.
        confidence: model -> set -> histogram (20 bins over [0, 1], shares) of the highest probability.
        information: model -> what its outputs tell (`InformationAudit`, on all rows measured): whether a row is of the
            forget set, or, where an attribute was unlearned, its value given the label.
        groups: model -> value of the attribute -> accuracy, on the test set.
        seconds: of unlearning, of retraining, and their ratio.
        outcome: the checks of the run (`Outcome`), its warnings and its path over the steps.
        run: method, arguments, sizes, versions.
    """

    models: dict[str, dict[str, float]]
    gap: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    confidence: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    information: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
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
        max_rows: int = 10_000,
    ) -> UnlearningReport:
        """Measure the trainer's original and unlearned model, and `retrained`.

        Args:
            retain, test: labelled data sets; without one its rows are left out. At most `max_rows` of each are read.
            retrained: a model trained without the forget set, the yardstick.
            relearning: also count the steps until a forgotten class is back (class requests with a test set).
        """
        sets: dict[str, PreparedRows] = {}
        for name, data in (("forget", trainer.forget_dataset), ("retain", retain), ("test", test)):
            if data is not None:
                sets[name] = _rows(trainer, data, max_rows, name)
        classes = trainer.reference.forgotten_classes
        outputs: dict[str, dict[str, tuple[Tensor, Tensor | None]]] = {}
        steps: dict[str, int] = {}

        def visit(name: str, model: nn.Module) -> None:
            size = trainer.args.eval_batch_size
            outputs[name] = {k: predict(model, rows, trainer.processor, size) for k, rows in sets.items()}
            if relearning and classes and "test" in sets:
                steps[name] = _relearn(trainer, model, sets, outputs["original"]["test"], classes)

        with trainer.original_weights() as model:
            visit("original", model)
        visit("unlearned", trainer.model)
        if retrained is not None:
            visit("retrained", retrained.to(trainer.args.device))

        report = cls(models={name: _measures(out, classes) for name, out in outputs.items()})
        for name, count in steps.items():
            report.models[name]["relearning_steps"] = count
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
            report.confidence[name] = {k: _histogram(logits) for k, (logits, _) in out.items()}
            if "test" in out and out["test"][1] is not None:
                report.per_class[name] = _per_class(*out["test"])  # type: ignore[arg-type]
        report.seconds = {"unlearning": trainer.seconds}
        if retrained_seconds:
            report.seconds |= {"retraining": retrained_seconds, "ratio": trainer.seconds / retrained_seconds}
        report.outcome = trainer.outcome.as_dict() if trainer.outcome is not None else {}
        report.run |= _describe_run(trainer, {k: len(v) for k, v in sets.items()})
        return report

    def _compare(self, outputs: Mapping[str, Mapping[str, tuple[Tensor, Tensor | None]]]) -> None:
        yardstick = outputs["retrained"]["forget"][0]
        for name in ("original", "unlearned"):
            logits, measures = outputs[name]["forget"][0], self.models[name]
            measures["js_to_retrained"] = jensen_shannon(logits, yardstick)
            measures["agreement_with_retrained"] = agreement(logits, yardstick)
            shared = [m for m in GAP_MEASURES if m in measures and m in self.models["retrained"]]
            if shared:
                theirs = [self.models["retrained"][m] for m in shared]
                self.gap[name] = 100 * average_gap([measures[m] for m in shared], theirs)

    def _tell_forgotten(self, outputs: Mapping[str, Mapping[str, tuple[Tensor, Tensor | None]]]) -> None:
        for name, out in outputs.items():
            retain, forget = out["retain"][0].softmax(-1), out["forget"][0].softmax(-1)
            origin = ["retain"] * len(retain) + ["forget"] * len(forget)
            self.information[name] = audit(torch.cat([retain, forget]), origin, marginal=True).as_dict()

    def _tell_groups(
        self,
        outputs: Mapping[str, Mapping[str, tuple[Tensor, Tensor | None]]],
        attribute: str,
        groups: list[Any] | None,
    ) -> None:
        if groups is None or len(set(groups)) < 2:
            return  # nothing to tell apart
        for name, out in outputs.items():
            logits, labels = out.get("test") or out["retain"]
            self.information[name] = audit(logits.softmax(-1), groups, labels).as_dict()
            if labels is None:
                continue
            accuracies = group_accuracies(logits.argmax(-1), labels, groups)
            self.groups[name] = {str(value): accuracy for value, accuracy in accuracies.items()}
        self.run["attribute"] = attribute

    @property
    def warnings(self) -> list[str]:
        """What went wrong in the run, or reads badly in the figures."""
        out = list(self.outcome.get("warnings", []))
        ours, yardstick = self.models.get("unlearned", {}), self.models.get("retrained")
        if yardstick and ours.get("forget_accuracy", 0.0) < yardstick.get("forget_accuracy", 0.0) - 0.05:
            out.append("over-forgetting: accuracy on the forget set is below the retrained model's")
        if yardstick and "relearning_steps" in ours and ours["relearning_steps"] < 0.5 * yardstick["relearning_steps"]:
            out.append(
                f"shallow: the class is back after {ours['relearning_steps']:.0f} relearning steps, the retrained model takes "
                f"{yardstick['relearning_steps']:.0f}; outputs look right, weights still know it"
            )
        return out

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "warnings": self.warnings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UnlearningReport:
        """The inverse of `as_dict`.

        Raises:
            ValueError: another schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"`schema` is {data.get('schema')!r}, this version reads {SCHEMA!r}.")
        return cls(**{k: v for k, v in data.items() if k != "warnings"})

    def rows(self) -> list[tuple[str, list[str]]]:
        """The table: title and one cell per model."""
        names = list(self.models)
        out = []
        for measure, title in TITLES.items():
            cells = [self.models[n].get(measure) for n in names]
            if any(c is not None for c in cells):
                out.append((title, [_cell(measure, c) for c in cells]))
        if self.gap:
            out.append(
                (
                    "gap to retrained, mean of 4 (points)",
                    [f"{self.gap[n]:.2f}" if n in self.gap else "–" for n in names],
                )
            )
        if self.information:
            told = [self.information[n] for n in names]
            what = f"'{self.run['attribute']}'" if "attribute" in self.run else "the forget set"
            what += " given the label" if told[0]["conditional"] else ""
            out.append(
                (
                    f"information on {what} (millinats)",
                    [f"{1e3 * i['value']:.2f} [{1e3 * i['low']:.2f}, {1e3 * i['high']:.2f}]" for i in told],
                )
            )
            out.append(("the same, where there is none to find", [f"≤ {1e3 * i['null_high']:.2f}" for i in told]))
        for group in next(iter(self.groups.values()), {}):
            out.append(
                (
                    f"accuracy where '{self.run['attribute']}' is {group}",
                    [f"{100 * self.groups[n][group]:.2f} %" for n in names],
                )
            )
        if "unlearning" in self.seconds:
            cells_s = [
                self.seconds.get({"unlearned": "unlearning", "retrained": "retraining"}.get(n, "")) for n in names
            ]
            out.append(("seconds", [f"{s:.1f}" if s is not None else "–" for s in cells_s]))
        return out

    def to_markdown(self) -> str:
        """The report as markdown."""
        names = list(self.models)
        method = self.run.get("method", {})
        lines = ["# Unlearning report", ""]
        if self.run.get("request"):
            lines += [f"Forgotten: {self.run['request']}.", ""]
        lines += [
            f"Method: `{method.get('method', '?')}`, {self.outcome.get('steps', '?')} steps, {self.outcome.get('stopped', '')}.",
            "",
        ]
        lines += ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in self.rows()]
        if "ratio" in self.seconds:
            lines += ["", f"Unlearning took {100 * self.seconds['ratio']:.1f} % of the retraining time."]
        lines += ["", *(f"- **Warning:** {w}" for w in self.warnings)] if self.warnings else []
        lines += [
            "",
            "Read every figure against the retrained model: distance to it is what counts, in either direction.",
            "",
        ]
        return "\n".join(lines)

    def print(self) -> None:
        """The table, in the terminal."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.run.get("request") or "Unlearning report", title_justify="left")
        table.add_column("")
        for name in self.models:
            table.add_column(name, justify="right")
        for title, cells in self.rows():
            table.add_row(title, *cells)
        console = Console(width=None if Console().is_terminal else 140)  # a log need not be wrapped
        console.print(table)
        if "ratio" in self.seconds:
            console.print(f"Unlearning took {100 * self.seconds['ratio']:.1f} % of the retraining time.")
        for warning in self.warnings:
            console.print(f"[yellow]Warning:[/yellow] {warning}")

    def save(self, folder: str | Path, figures: bool = True) -> None:
        """Write `report.json`, `report.md` and, with matplotlib, `figures/*.png` into `folder`, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "report.md", self.to_markdown())
        if figures:
            from .plots import save_figures

            save_figures(self, folder / "figures")


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path`, then rename over it: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _rows(trainer: UnlearningTrainer, data: Any, limit: int, name: str) -> PreparedRows:
    """Prepared rows of `data`, at most `limit`; every model sees the same."""
    return PreparedRows(draw(data, limit, trainer.args.seed), trainer.processor, f"{name}_dataset", cache_bytes=2**29)


def _column(trainer: UnlearningTrainer, data: Any, name: str, limit: int) -> list[Any] | None:
    """The column of the rows that `_rows` takes, or None where some row lacks it."""
    if data is not None and name in (getattr(data, "column_names", None) or ()):
        data = data.select_columns([name])  # or every image would be decoded for it
    values: list[Any] = [row.get(name) for row in draw(data, limit, trainer.args.seed)] if data is not None else [None]
    values = [v.item() if hasattr(v, "item") else v for v in values]
    names = getattr((getattr(data, "features", None) or {}).get(name), "names", None)
    return None if any(v is None for v in values) else [names[v] if names else v for v in values]


def _relearn(
    trainer: UnlearningTrainer, model: nn.Module, sets: Mapping[str, PreparedRows], original_test: Any, classes: Any
) -> int:
    logits, labels = original_test
    mine = torch.isin(labels, torch.tensor(classes))
    accuracy = (logits.argmax(-1) == labels)[mine].float().mean().item()
    probe = [row for row, keep in zip(sets["test"], mine.tolist(), strict=True) if keep]
    taught = [sets["forget"][i] for i in range(min(20, len(sets["forget"])))]
    return relearning_steps(model, taught, probe, trainer.processor, 0.9 * accuracy)


def _measures(outputs: Mapping[str, tuple[Tensor, Tensor | None]], classes: tuple[int, ...]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, (logits, labels) in outputs.items():
        if labels is None:
            continue
        right = logits.argmax(-1) == labels
        out[f"{name}_accuracy"] = accuracy(logits.argmax(-1), labels)
        out[f"{name}_f1"] = macro_f1(logits.argmax(-1), labels)
        if name == "test" and classes:
            gone = torch.isin(labels, torch.tensor(classes))
            parts = {"test_forgotten_accuracy": right[gone], "test_kept_accuracy": right[~gone]}
            out |= {k: part.float().mean().item() for k, part in parts.items() if len(part)}
    if {"forget", "retain", "test"} <= outputs.keys():
        out["membership_attack"] = entropy_attack(outputs["retain"][0], outputs["test"][0], outputs["forget"][0])
    return out


def _per_class(logits: Tensor, labels: Tensor) -> list[float | None]:
    right = (logits.argmax(-1) == labels).float()
    shares = [right[labels == c] for c in range(logits.shape[-1])]
    return [s.mean().item() if len(s) else None for s in shares]


def _histogram(logits: Tensor) -> list[float]:
    counts = np.histogram(logits.softmax(-1).amax(-1).numpy(), bins=BINS, range=(0.0, 1.0))[0]
    return (counts / counts.sum()).tolist()


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return "–"
    if measure == "relearning_steps":
        return f"{value:.0f}"
    return f"{value:.4f}" if measure == "js_to_retrained" else f"{100 * value:.2f} %"


def _describe_run(trainer: UnlearningTrainer, sizes: Mapping[str, int]) -> dict[str, Any]:
    import transformers

    args = trainer.args
    names = (
        "update",
        "trust_region",
        "learning_rate",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "seed",
    )
    return {
        "method": trainer.method.describe(),
        "arguments": {n: getattr(args, n) for n in names},
        "model_type": getattr(trainer.model.config, "model_type", ""),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "rows": dict(sizes),
        "forgotten_classes": list(trainer.reference.forgotten_classes),
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
    }
