"""Figures of a report. They show aggregates only, never a single sample."""

import base64
import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.files import written_atomically
from ...utils.safe_text import shown
from ..answers import HEADS
from ..pages import COLORS
from .report_data import ReportData
from .strips import strips

# The original lies below, wide, and the retrained model above, in dashes: a line that hides another is misread.
STYLES: dict[str, dict[str, Any]] = {
    "original": {"linewidth": 4.0}, "unlearned": {"linewidth": 1.8}, "retrained": {"linewidth": 1.8, "linestyle": (0, (3, 1.5))},
}  # fmt: skip
TAKEN_BACK = ("diverged", "kept data", "enough")  # how a run ends that goes back to the state before its last check
FIRST = "answers"  # name of the picture of all answers
INK = {
    "original": "#595959",
    "unlearned": "#0072B2",
    "retrained": "#8a5d00",
}  # of text in the color of a model, dark enough to read
PLACES = (1.13, 1.31, 1.58)  # of the columns of figures right of the picture of all answers
NAMED, MARKED = 20, 30  # classes up to which each has its name, and up to which bars have room for intervals


@dataclass(frozen=True)
class Drawing:
    """One figure of a report: what draws it, its size in inches, its caption, and its text for those who cannot see it."""

    draw: Callable[[ReportData, Any], None]
    size: tuple[float, float]
    caption: str
    alt: str

    first: bool = False  # a page has this picture of its own on top, and a card shows it there

    @property
    def wide(self) -> bool:
        """True if a phone shows the figure too small to read, unless it scrolls sideways."""
        return self.size[0] > 6


def drawings(report: ReportData) -> dict[str, Drawing]:
    """Return the figures that the report has data for, by file name."""
    models, path = ", ".join(report.models), report.outcome.get("path", [])
    each = " Each retrained model has a line." if report.retrained else ""
    means = " The bars of the retrained models are means, with the span of their intervals." if report.retrained else ""
    halved = [str(check["step"]) for check in path if "step_scale" in check]

    def listed(measure: str, digits: int) -> str:
        return "; ".join(f"{n} {m[measure]:.{digits}f}" for n, m in report.models.items() if measure in m)

    rows = report.run.get("relearning", {}).get("rows")  # older reports do not say
    taught = f" from {rows} rows. On the dashed line most of the original's accuracy is back" if rows else ""
    said = "; ".join(f"{strip.title}: {', '.join(strip.cells())}" for strip in strips(report))
    words = {
        "answers": (
            "Before, after, and a model that never saw what was to be forgotten.",
            f"Dots on a line for each question, before, after, never saw them. {said}",
        ),
        "roc": (
            "Loss attack: share of forget rows found against share of test rows called members by mistake. "
            f"On the dashed line an attacker guesses.{each}",
            f"ROC curves. Area under the curve: {listed('loss_attack_auc', 2)}",
        ),
        "per_class_accuracy": (
            f"Test accuracy of each class, with 95 % intervals.{means}",
            f"Bars of test accuracy per class for {models}.",
        ),
        "confidence": (
            f"How sure each model is of its answers, as shares of the rows of each set.{each}",
            f"Histograms of the highest probability for {models}, one panel for each set.",
        ),
        "path": (
            "What the run saw on the way, on samples of its sets: over the steps"
            + (", and forget against retain set." if path and "retain" in path[0] else ".")
            + (" The last step was taken back." if _was_taken_back(report) else "")
            + (f" Steps were halved, from the last good state on, at step {', '.join(halved)}." if halved else ""),
            "Lines of what is still remembered of the forget set and kept of the retain set, from the first to the last step.",
        ),
        "relearning": (
            f"Test accuracy on the forgotten classes while they are taught again{taught}. The sooner it is back, "
            f"the less was forgotten.{each}",
            f"Lines of accuracy over relearning steps. Back after: {listed('relearning_steps', 0)}",
        ),
    }
    return {
        n: Drawing(draw, size, *words[n], first=n == FIRST)
        for n, (draw, size, has_data) in FIGURES.items()
        if has_data(report)
    }


def save_figures(report: ReportData, folder: Path, dpi: int = 150) -> list[Path]:
    """Draw the figures of `report` into `folder` as PNG files, and return their paths.

    Raises:
        ImportError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, drawing in drawings(report).items():
        paths.append(folder / f"{name}.png")
        with written_atomically(paths[-1]) as partial:
            _draw(report, drawing).savefig(partial, dpi=dpi)
    return paths


def svg_figures(report: ReportData) -> list[tuple[Drawing, str]]:
    """Return the figures of `report` but the first, each with its picture as SVG in base64. Raises as `save_figures`."""
    out = []
    for drawing in drawings(report).values():
        if drawing.first:
            continue
        file, figure = io.BytesIO(), _draw(report, drawing)
        # With a salt, ids in the picture depend on nothing but the picture: the same report gives the same bytes.
        with _matplotlib("").rc_context({"svg.hashsalt": "hf_unlearn"}):
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        out.append((drawing, base64.b64encode(file.getvalue()).decode()))
    return out


def _matplotlib(module: str) -> Any:
    """Return a module of matplotlib, which is no dependency. Raises ImportError, and says what to install, if it is missing."""
    try:
        return import_module(f"matplotlib.{module}" if module else "matplotlib")
    except ImportError as error:
        raise ImportError("Figures need matplotlib: `pip install hf_unlearn[plots]`.") from error


def _draw(report: ReportData, drawing: Drawing) -> Any:
    figure = _matplotlib("figure").Figure(figsize=drawing.size, layout="constrained")
    drawing.draw(report, figure)
    return figure


def _look(report: ReportData, name: str) -> dict[str, Any]:
    """Return how the line of a model looks, and its label. Several retrained models look alike, and the first has the label."""
    kind = "retrained" if name in report.retrained else name
    return {"label": report.heading(name) if kind == name else None, "color": COLORS[kind], **STYLES[kind]}


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _class_labels(report: ReportData, count: int) -> list[str]:
    """Return what classes 0 to `count` − 1 are called in a figure: their names, or their numbers without names."""
    names = report.run.get("classes", [])
    short = [shown(names[i], 24) if i < len(names) and _can_draw(names[i]) else str(i) for i in range(count)]
    return [name if short.count(name) == 1 else f"{shown(name, 20)} {i}" for i, name in enumerate(short)]


def _can_draw(name: str) -> bool:
    """Check that the font of the figures has every sign of a name."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(sign)) for sign in name)


def _per_class(report: ReportData, figure: Any) -> None:
    axes = figure.subplots()
    names = list(report.per_class)
    classes = np.arange(len(report.per_class[names[0]]))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        values = [np.nan if v is None else 100 * v for v in report.per_class[name]]
        offset = (i - (len(names) - 1) / 2) * width
        axes.bar(classes + offset, values, width, label=report.heading(name), color=COLORS[name])
        limits = report.per_class_intervals.get(name)
        if limits and len(classes) <= MARKED:
            low, high = np.array([100 * np.array(pair or [np.nan, np.nan]) for pair in limits]).T
            errors = np.array([np.subtract(values, low), np.subtract(high, values)]).clip(0)
            axes.errorbar(classes + offset, values, errors, fmt="none", ecolor="#333333", elinewidth=0.7)
    for c in np.flatnonzero(np.isnan(values)) if len(classes) <= MARKED else ():
        axes.text(c, 2, "no test rows", rotation=90, ha="center", va="bottom", color="#555555")
    forgotten = report.run.get("forgotten_classes", [])
    if len(classes) <= NAMED:
        _name_classes(axes, _class_labels(report, len(classes)), forgotten)
    else:
        for i, c in enumerate(forgotten):
            axes.axvspan(c - 0.5, c + 0.5, color="#fad7b8", zorder=0, label="" if i else "forgotten")
    axes.set(xlabel="class", ylabel="test accuracy (%)", ylim=(0, 100), title="Test accuracy of each class")
    _name_lines(figure, axes)
    _clean(axes)


def _name_classes(axes: Any, labels: list[str], forgotten: list[int]) -> None:
    """Put the names of all classes below their bars, aslant if there is no room."""
    crowded = sum(map(len, labels)) + 12 * len(forgotten) > 80
    sign, turned = (" ", {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}) if crowded else ("\n", {})
    words = [f"{label}{sign}(forgotten)" if c in forgotten else label for c, label in enumerate(labels)]
    axes.set_xticks(range(len(words)), words, parse_math=False, **turned)


def _confidence(report: ReportData, figure: Any) -> None:
    sets = list(next(iter(report.confidence.values())))
    all_axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, sets, strict=True):
        for model, histograms in report.confidence.items():
            shares = 100 * np.asarray(histograms[name])
            edges = np.linspace(0, 1, len(shares) + 1)
            axes.stairs(shares, edges, **_look(report, model))
        axes.set(title=f"{name} set", xlabel="highest probability", xlim=(0, 1), yscale="log", ylim=(0.05, 130))
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
        _clean(axes)
    all_axes[0].set_ylabel("share of samples (%, log)")
    _name_lines(figure, all_axes[0])


def _name_lines(figure: Any, axes: Any, columns: int = 4) -> None:
    """Write the names of all lines and bars below the figure, each in its color and without a key."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, ncols=columns, loc="outside lower center", frameon=False, handlelength=1.2, columnspacing=1.5
    )


def _answers(report: ReportData, figure: Any) -> None:
    lines = strips(report)
    axes = figure.subplots()
    for y, strip in enumerate(reversed(lines)):
        axes.plot([0, 1], [y, y], color="#bbbbbb", linewidth=1, zorder=1)
        if strip.span:
            low, high = map(strip.share, strip.span)
            axes.plot(
                [low, high], [y, y], color=COLORS["retrained"], alpha=0.4, linewidth=12, solid_capstyle="butt", zorder=1
            )
        if strip.never is not None:
            axes.plot(
                strip.share(strip.never), y, "|", color=COLORS["retrained"], markersize=20, markeredgewidth=4, zorder=2
            )
        if strip.before is not None:
            axes.plot(
                strip.share(strip.before),
                y,
                "o",
                color=COLORS["original"],
                markersize=13,
                markeredgewidth=2.5,
                fillstyle="none",
                zorder=3,
            )
        if strip.after is not None:
            axes.plot(strip.share(strip.after), y, "o", color=COLORS["unlearned"], markersize=8, zorder=4)
        for place, text, model in zip(PLACES, strip.cells(), COLORS, strict=True):
            axes.text(place, y, text, ha="center", va="center", color=INK[model])
    for place, head, model in zip(PLACES, HEADS, COLORS, strict=True):
        axes.text(place, len(lines) - 0.45, head, ha="center", va="bottom", color=INK[model], weight="bold")
    axes.set_yticks(range(len(lines)), [_folded(strip.title) for strip in reversed(lines)])
    axes.set(xlim=(-0.04, PLACES[-1] + 0.18), ylim=(-0.6, len(lines)), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _folded(text: str) -> str:
    """Return a title on two lines if it is long."""
    return "\n".join(textwrap.wrap(text, 36))


def _roc(report: ReportData, figure: Any) -> None:
    axes = figure.subplots()
    for name, curve in report.roc.items():
        rates, found = np.array(curve["false_positives"]), np.array(curve["true_positives"])
        look = _look(report, name)
        if look["label"]:
            look["label"] += f", AUC {report.models[name]['loss_attack_auc']:.2f}"
        axes.step(rates, found, where="post", **look)
    axes.plot([0, 1], [0, 1], "--", color="#555555", linewidth=1, label="guessing")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="test rows called members (share)", ylabel="forget rows found (share)", title="Loss attack")
    _name_lines(figure, axes, 2)
    _clean(axes)


def _was_taken_back(report: ReportData) -> bool:
    return str(report.outcome.get("stopped", "")).startswith(TAKEN_BACK)


def _path(report: ReportData, figure: Any) -> None:
    path = report.outcome["path"]
    steps = [check["step"] for check in path]
    forget = [100 * check["forget"] for check in path]
    kept = [100 * check.get("retain", np.nan) for check in path]
    both, back = not np.isnan(kept).all(), _was_taken_back(report)
    last = len(path) - 1
    good = [i for i in range(last + (not back)) if "step_scale" not in path[i]]  # others were left for an earlier state
    end = good[-1]
    axes, *second = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    axes.plot(steps, forget, "o-", color="#D55E00", linewidth=3.5, markersize=8, label="forget set, still remembered")
    if both:
        axes.plot(steps, kept, "s-", color="#009E73", markersize=4, label="retain set, accuracy")
    target = report.outcome.get("forget_target")
    if target is not None:
        axes.axhline(100 * target, color="#D55E00", linestyle="--", linewidth=1, label="forgetting target")
    if back:
        axes.axvspan(steps[end], steps[last], color="#dddddd", zorder=0, label="taken back")
    axes.set(xlabel="step", ylabel="share (%)", ylim=(-3, 103), title="Over the steps")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _name_lines(figure, axes, 2)
    _clean(axes)
    for axes in second:  # retain set against forget set
        axes.plot(forget[: end + 1], kept[: end + 1], "-", color="#777777", linewidth=1)
        axes.scatter(forget, kept, c=np.linspace(0, 0.8, len(path)), cmap="viridis", vmin=0, vmax=1, s=22, zorder=3)
        words = {0: "start", end: "end"} if (forget[0], kept[0]) != (forget[end], kept[end]) else {0: "start and end"}
        if back:
            axes.plot(forget[end:], kept[end:], ":", color="#777777", linewidth=1)
            words[last] = "taken back"
        for i, text in words.items():
            side = "left" if forget[i] < 20 else "right" if forget[i] > 80 else "center"
            axes.annotate(text, (forget[i], kept[i]), xytext=(0, -14), textcoords="offset points", ha=side)
        axes.set(xlabel="forget set, still remembered (%)", ylabel="retain set, accuracy (%)", xlim=(-6, 106))
        floor = min(np.nanmin(kept), 95.0)
        axes.set_yticks([tick for tick in axes.yaxis.get_major_locator().tick_values(floor, 100) if tick <= 100])
        axes.set(ylim=(floor - 0.15 * (103 - floor), 103), title="One against the other")
        _clean(axes)


def _relearning(report: ReportData, figure: Any) -> None:
    axes = figure.subplots()
    curves = {n: c for n, c in report.relearning.items() if n != "original" or len(c) > 1}  # one point is no curve
    band = [100 * np.array(c) for n, c in curves.items() if n in report.retrained or n == "retrained"]
    if len(band) > 1:
        longest = max(map(len, band))
        # A model that is back where it was is taught no more, and stays there.
        filled = np.array([np.concatenate([c, np.full(longest - len(c), c[-1])]) for c in band])
        steps, color = np.arange(longest), COLORS["retrained"]
        axes.fill_between(steps, filled.min(0), filled.max(0), color=color, alpha=0.35, linewidth=0)
        axes.plot(steps, filled.mean(0), "-", color=color, linewidth=2, label=report.heading("retrained"))
    for name, accuracies in curves.items():
        if len(band) > 1 and (name in report.retrained or name == "retrained"):
            continue
        steps = np.arange(len(accuracies))
        marker = "o" if len(steps) < 40 else ""
        look = {key: value for key, value in _look(report, name).items() if key in ("label", "color")}
        axes.plot(steps, 100 * np.array(accuracies), f"{marker}-", markersize=4, **look)
    wanted = report.run.get("relearning", {}).get("wanted")
    if wanted:
        last = max([1, *(len(c) - 1 for c in curves.values())])
        axes.hlines(100 * wanted, 0, last, "#555555", "--", linewidth=1, label="most of the original's is back")
    forgotten = report.run.get("forgotten_classes", [])
    labels = _class_labels(report, max(forgotten, default=-1) + 1)
    names = [labels[c] if report.run.get("classes") else f"class {c}" for c in forgotten] if len(forgotten) <= 3 else []
    axes.set(xlabel="steps of teaching", ylabel="test accuracy (%)", ylim=(-3, 103))
    axes.set_title(f"Taught again: {', '.join(names)}" if names else "The classes, taught again", parse_math=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _name_lines(figure, axes)
    _clean(axes)


# File name -> what draws the figure, its size in inches, and whether a report has data for it. A push publishes no others.
FIGURES: dict[str, tuple[Callable[[ReportData, Any], None], tuple[float, float], Callable[[ReportData], Any]]] = {
    FIRST: (_answers, (10, 3.2), strips),
    "roc": (_roc, (5.0, 5.0), lambda report: report.roc),
    "per_class_accuracy": (_per_class, (8, 3.4), lambda report: report.per_class),
    "confidence": (_confidence, (8, 3.2), lambda report: report.confidence),
    "path": (_path, (8, 3.4), lambda report: len(report.outcome.get("path", [])) > 1),
    "relearning": (_relearning, (6, 3.4), lambda report: report.relearning),
}
