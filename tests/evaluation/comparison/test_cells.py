"""Cells: figures by their definitions, and a file that survives a kill."""

import json

import pytest

from hf_unlearn.evaluation.comparison.cells import Cell, append, digest_of, read

MEASURES = ("forget", "retain", "test", "membership", "forgotten", "auc")


def cell(method="jit", seed=0, gap=0.1, scenario="a class", **changes):
    """A cell that is `gap` away from two retrained models in every measure."""
    retrained = [dict.fromkeys(MEASURES, value) for value in (0.4, 0.6)]
    values = {
        "kind": "class", "exit_code": 0, "verdict": "hidden, not forgotten", "steps": 10,
        "figures": {"original": dict.fromkeys(MEASURES, 0.9), "unlearned": dict.fromkeys(MEASURES, 0.5 + gap)},
        "retrained": retrained, "divergence": {"original": [0.4, 0.6], "unlearned": [0.1, 0.3], "among": [0.1]},
        "cost": {"seconds": 5.0, "passes": 30.0, "retraining_seconds": 20.0, "retraining_passes": 300.0},
    }  # fmt: skip
    return Cell(scenario, method, seed, "digest", **{**values, **changes})


def test_distances_from_the_mean_of_retrained_models():
    found = cell(gap=-0.1)
    assert found.gap() == pytest.approx(0.1)
    assert found.gap("original") == pytest.approx(0.4)
    assert found.apart("forgotten") == pytest.approx(-0.1)
    assert found.apart("unknown") is None
    assert found.tug_of_war() == pytest.approx(0.9**3)
    assert found.ratio() == pytest.approx(0.2 / 0.1)
    assert found.ratio("original") == pytest.approx(0.5 / 0.1)
    assert found.share("seconds") == pytest.approx(0.25)
    assert found.share("passes") == pytest.approx(0.1)


def test_what_is_not_known_is_none():
    alone = cell(divergence={"original": [0.1], "unlearned": [0.1], "among": []}, cost={"seconds": 1.0, "passes": 1.0})
    assert alone.ratio() is None
    assert alone.share("seconds") is None


def test_cells_come_back_and_the_last_line_counts(tmp_path):
    file = tmp_path / "new" / "cells.jsonl"
    assert read(file) == {}
    first, second, again = cell(), cell(seed=1), cell(gap=0.3)
    for one in (first, second, again):
        append(file, one)
    found = read(file)
    assert list(found.values()) == [again, second]
    assert found[first.identity] == again


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    file = tmp_path / "cells.jsonl"
    append(file, cell())
    with file.open("a") as lines:
        lines.write(json.dumps({"scenario": "a class"})[:10])
    assert list(read(file).values()) == [cell()]
    append(file, cell(seed=1))
    assert list(read(file).values()) == [cell(), cell(seed=1)]


def test_other_settings_are_another_cell():
    assert digest_of({"rate": 0.1}) == digest_of({"rate": 0.1}) != digest_of({"rate": 0.2})
