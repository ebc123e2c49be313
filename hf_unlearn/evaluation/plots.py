"""Figures of a report. Aggregates only: no figure shows a single sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .report import UnlearningReport

# Colour-blind safe (Okabe and Ito); the same model has the same colour everywhere.
COLOURS = {"original": "#999999", "unlearned": "#0072B2", "retrained": "#E69F00"}


def save_figures(report: UnlearningReport, folder: Path) -> list[Path]:
    """Draw what the report holds into `folder` as PNG files; returns their paths.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: `pip install hf_unlearn[plots]`.") from error

    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "per_class_accuracy": (_per_class, (8, 3.4), bool(report.per_class)),
        "confidence": (_confidence, (8, 3.2), bool(report.confidence)),
        "path": (_path, (6, 3.4), len(report.outcome.get("path", [])) > 1),
    }
    written = []
    for name, (draw, size, wanted) in drawings.items():
        if not wanted:
            continue
        figure = Figure(figsize=size, layout="constrained")
        draw(report, figure)
        path = folder / f"{name}.png"
        partial = folder / f"{name}.partial.png"
        figure.savefig(partial, dpi=150)
        os.replace(partial, path)
        written.append(path)
    return written


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _per_class(report: UnlearningReport, figure: Any) -> None:
    axes = figure.subplots()
    names = list(report.per_class)
    classes = np.arange(len(report.per_class[names[0]]))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        values = [np.nan if v is None else 100 * v for v in report.per_class[name]]
        offset = (i - (len(names) - 1) / 2) * width
        axes.bar(classes + offset, values, width, label=name, color=COLOURS[name])
    forgotten = report.run.get("forgotten_classes", [])
    if len(classes) <= 20:
        axes.set_xticks(classes, [f"{c}\n(forgotten)" if c in forgotten else str(c) for c in classes])
    axes.set(xlabel="class", ylabel="test accuracy (%)", ylim=(0, 100), title="Test accuracy of each class")
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, -0.42), frameon=False)
    _clean(axes)


def _confidence(report: UnlearningReport, figure: Any) -> None:
    sets = list(next(iter(report.confidence.values())))
    all_axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, sets, strict=True):
        for model, histograms in report.confidence.items():
            shares = 100 * np.asarray(histograms[name])
            edges = np.linspace(0, 1, len(shares) + 1)
            axes.stairs(shares, edges, label=model, color=COLOURS[model], linewidth=1.8)
        axes.set(title=f"{name} set", xlabel="highest probability", xlim=(0, 1), yscale="log", ylim=(0.05, 130))
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
        _clean(axes)
    all_axes[0].set_ylabel("share of samples (%, log)")
    figure.legend(*all_axes[0].get_legend_handles_labels(), ncols=3, loc="outside lower center", frameon=False)


def _path(report: UnlearningReport, figure: Any) -> None:
    axes = figure.subplots()
    path = report.outcome["path"]
    steps = [look["step"] for look in path]
    axes.plot(
        steps, [100 * look["forget"] for look in path], "o-", color="#D55E00", label="forget set, still remembered"
    )
    if "retain" in path[0]:
        kept = [100 * look.get("retain", np.nan) for look in path]
        axes.plot(steps, kept, "s-", color="#009E73", label="retain set, accuracy")
    target = report.outcome.get("forget_target")
    if target is not None:
        axes.axhline(100 * target, color="#D55E00", linestyle="--", linewidth=1, label="forgetting target")
    axes.set(xlabel="step", ylabel="share (%)", ylim=(-3, 103), title="The way through the run (probe of each set)")
    axes.legend(frameon=False, loc="center right")
    _clean(axes)
