"""The picture of gap against cost: places, names that do not overlap, and which methods nothing beats."""

import itertools
import math

import pytest

from hf_unlearn.evaluation.comparison.page import BOTTOM, LEFT, LETTER, PLOT, RIGHT, TOP, Row, points, scale


def row(name, cost, gap):
    return Row(name, [name], gap, cost)


def test_a_point_stands_where_its_figures_are():
    found = {p.name: p for p in points([row("a", 50.0, 4.0), row("b", 100.0, 1.0)])}
    width, height = PLOT[0] - LEFT - RIGHT, PLOT[1] - TOP - BOTTOM
    assert found["a"].x == pytest.approx(LEFT + 0.48 * width, abs=0.1)
    assert found["b"].x == pytest.approx(LEFT + 0.96 * width, abs=0.1)
    assert found["a"].y == pytest.approx(TOP, abs=0.1)
    assert found["b"].y == pytest.approx(TOP + height * (1 - math.sqrt(1 / 4)), abs=0.1)
    assert scale([row("a", 50.0, 4.0), row("b", 100.0, 1.0)]) == (100.0, 4.0)


def test_what_no_other_is_nearer_and_cheaper_than():
    rows = [row("cheap", 1.0, 9.0), row("near", 9.0, 1.0), row("worse", 9.0, 2.0), row("twin", 9.0, 1.0)]
    assert {p.name for p in points(rows) if p.best} == {"cheap", "near", "twin"}


def test_names_do_not_overlap_and_stay_inside():
    found = sorted(points([row(str(i), 10.0 + i, 0.001 * i + 1e-6) for i in range(15)]), key=lambda p: p.label)
    labels = [p.label for p in found]
    assert all(b - a >= LETTER - 0.2 for a, b in itertools.pairwise(labels))
    assert max(labels) <= PLOT[1] - BOTTOM + 0.1


def test_without_a_cost_there_is_no_point():
    assert points([row("failed", None, None), row("free", None, 1.0)]) == []
    assert scale([]) == (0.0, 0.0)
