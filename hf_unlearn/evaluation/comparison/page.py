"""Show a comparison as one self-contained HTML page, with gap against cost as a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..pages import COLORS, rendered

PLOT = (670, 300)  # pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 200, 14, 38  # pixels of the margins, of which the right one holds names
LETTER = 12  # pixels between two names


@dataclass(frozen=True)
class Row:
    """A method on one request: texts under the heads of `Comparison.heads`, and numbers for the picture.

    Attributes:
        method: its name.
        cells: texts.
        gap, cost: means over seeds of Avg. Gap in points and of the passes in percent of a retraining's; None if not known.
    """

    method: str
    cells: list[str]
    gap: float | None
    cost: float | None


@dataclass(frozen=True)
class Point:
    """A method in the picture: where its point and its name stand, in pixels, and whether no other is nearer and cheaper."""

    name: str
    x: float
    y: float
    label: float
    best: bool


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the points of a picture with cost to the right and the root of the gap upwards, so that small gaps stay apart.

    Names stand at the right, and do not overlap.
    """
    shown = [(row.method, row.cost, row.gap) for row in rows if row.cost is not None and row.gap is not None]
    if not shown:
        return []
    width, height = PLOT[0] - LEFT - RIGHT, PLOT[1] - TOP - BOTTOM
    most_cost, most_gap = (max(1e-9, *values) for values in ([c for _, c, _ in shown], [g for _, _, g in shown]))
    placed = []
    for name, cost, gap in shown:
        dominated = any(c <= cost and g <= gap and (c < cost or g < gap) for other, c, g in shown if other != name)
        x, y = LEFT + 0.96 * width * cost / most_cost, TOP + height * (1 - math.sqrt(gap / most_gap))
        placed.append((name, round(x, 1), round(y, 1), not dominated))
    placed.sort(key=lambda p: p[2])
    out: list[Point] = []
    lowest = float("-inf")
    for name, x, y, best in placed:
        lowest = max(y, lowest + LETTER)
        out.append(Point(name, x, y, round(lowest, 1), best))
    # Names that would run out of the picture move up together.
    over = max(0.0, out[-1].label - (PLOT[1] - BOTTOM))
    for i in range(len(out) - 1, -1, -1):
        limit = PLOT[1] - BOTTOM if i == len(out) - 1 else out[i + 1].label - LETTER
        if over and out[i].label > limit:
            out[i] = Point(out[i].name, out[i].x, out[i].y, round(limit, 1), out[i].best)
    return out


def scale(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the largest cost and gap in the picture, which stand at the ends of its axes."""
    known = [(row.cost, row.gap) for row in rows if row.cost is not None and row.gap is not None]
    return (max(c for c, _ in known), max(g for _, g in known)) if known else (0.0, 0.0)


def to_html(
    parts: Sequence[tuple[str, list[str], list[Row], list[str], list[list[str]]]],
    *,
    ranks: str,
    failures: Sequence[tuple[str, str, int, str]],
    settings: Sequence[tuple[str, str]],
    limits: Sequence[str],
    schema: str,
) -> str:
    """Return one HTML page that loads nothing.

    Args:
        parts: for each request its name, the heads and rows of the summary, and the heads and rows of what lies behind the outputs.
        ranks: the ranks in words; "" without any.
        failures: scenario, method, seed and reason of cells without a result.
        settings: names and values for the table at the end.
        limits: sentences that say what the comparison does not prove.
        schema: of `comparison.json`.
    """
    shown: list[dict[str, Any]] = [
        {
            "name": name, "heads": heads, "rows": rows, "points": points(rows), "scale": scale(rows),
            "depth_heads": depth_heads, "depth_rows": depth_rows,
        }
        for name, heads, rows, depth_heads, depth_rows in parts
    ]  # fmt: skip
    return rendered(
        "comparison.html",
        parts=shown,
        ranks=ranks,
        failures=failures,
        settings=settings,
        limits=limits,
        schema=schema,
        plot=PLOT,
        frame=(LEFT, PLOT[0] - RIGHT, TOP, PLOT[1] - BOTTOM),
        colors=COLORS,
    )
