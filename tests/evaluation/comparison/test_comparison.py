"""Tables of a comparison, from cells that are made up."""

import json
import math

import pytest

from hf_unlearn.evaluation.comparison.comparison import Comparison, columns
from tests.evaluation.comparison.test_cells import cell


def line(unlearned, telling=True):
    return {"unlearned": unlearned, "expected": 0.5, "margin": 0.1, "result": "different", "telling": telling}


CELLS = [
    cell(
        "near",
        0,
        0.01,
        lines={"prototype": line(0.6)},
        left=0.1,
        settings={"method": "salun", "rate": 0.1, "term": None},
    ),
    cell("near", 1, 0.03, lines={"prototype": line(0.8)}, left=0.3, distance=0.5),
    cell("far", 0, 0.20, exit_code=1, lines={"prototype": line(0.4, telling=False)}),
    cell("far", 1, 0.30, verdict="model damaged", cost={"seconds": 9.0, "passes": 90.0, "retraining_passes": 300.0}),
    cell("broken", 0, error="ValueError: no"),
    cell("broken", 1, error="ValueError: no"),
]


def test_methods_stand_in_the_order_of_their_gap_and_failures_after_them():
    rows = Comparison(CELLS).rows("a class")
    assert [row.method for row in rows] == ["near", "far", "broken", "a retrained model", "the original itself"]
    assert rows[0].gap == pytest.approx(2.0)
    assert rows[0].cost == pytest.approx(10.0)
    assert rows[1].cost == pytest.approx(20.0)
    assert rows[2].gap is None
    assert rows[2].cells[:4] == ["broken", "2", "2 failed", "0 of 2"]
    assert rows[1].cells[:4] == ["far", "2", "hidden, not forgotten, model damaged", "1 of 2"]


def test_a_mean_stands_with_its_interval():
    comparison = Comparison(CELLS)
    heads, rows = comparison.heads("a class"), comparison.rows("a class")
    gap = heads.index("Avg. Gap")
    half = 12.706 * math.sqrt(2) / math.sqrt(2)  # Student's t with one degree of freedom, of 1 and 3 points
    assert rows[0].cells[gap] == f"2.0 ± {half:.1f}"
    assert rows[0].cells[heads.index("left in features, %")].startswith("20 ± ")
    assert rows[0].cells[heads.index("forgotten − retrained")].startswith("2.0 ± ")


def test_anchors_are_the_original_and_retrained_models_against_each_other():
    *_, retrained, original = Comparison(CELLS).rows("a class")
    heads = Comparison(CELLS).heads("a class")
    assert original.cells[heads.index("Avg. Gap")] == "40.0"
    assert original.cells[heads.index("divergence, of retrained")] == "5.0"
    assert retrained.cells[heads.index("Avg. Gap")].startswith("20.0")  # 0.4 and 0.6
    assert retrained.cells[heads.index("passes, %")] == "–"


def test_depth_is_counted_in_margins_and_stands_in_brackets_without_power():
    heads, rows = Comparison(CELLS).depth("a class")
    assert len(heads) == 3
    assert rows == [["near", "+2.0", "50"], ["far", "(-1.0)", "–"]]


def test_ranks_count_only_where_every_method_has_a_result():
    assert Comparison(CELLS).ranks is None
    assert Comparison(CELLS).say_ranks() == ""
    whole = Comparison([c for c in CELLS if not c.error])
    assert whole.ranks.ranks == {"near": 1.0, "far": 2.0}
    assert "near 1.0; far 2.0" in whole.say_ranks()


def test_single_rows_have_other_columns():
    heads = [c.head for c in columns("samples")]
    assert "forget − retrained" in heads
    assert "forgotten − retrained" not in heads


def test_everything_is_written(tmp_path):
    name = "<b>rows</b> & more"
    cells = [cell("a_b", seed, 0.1, name, settings={"rate": 0.1}) for seed in (0, 1)]
    Comparison([*cells, cell("c", 0, error="ValueError: <script>", scenario=name)], {"model": "org/name"}).save(
        tmp_path
    )
    assert {f.name for f in tmp_path.iterdir()} == {f"comparison.{end}" for end in ("json", "md", "tex", "html")}
    told = json.loads((tmp_path / "comparison.json").read_text())
    assert told["schema"] == "hf_unlearn/comparison/1"
    assert len(told["cells"]) == 3
    page = (tmp_path / "comparison.html").read_text()
    assert "<b>rows</b>" not in page
    assert "<script>" not in page
    assert "org/name" in page
    text = (tmp_path / "comparison.md").read_text()
    assert "- `a_b`: rate=0.1" in text
    assert "ValueError: <script>" in text
    latex = (tmp_path / "comparison.tex").read_text()
    assert r"a\_b & 2" in latex
    assert r"\& more" in latex
    assert r"$\pm$" in latex


def test_a_comparison_without_any_result_says_so(tmp_path):
    failed = Comparison([cell("broken", error="ValueError: no")])
    failed.save(tmp_path)
    assert [row.method for row in failed.rows("a class")] == ["broken"]
    assert failed.failures() == [("a class", "broken", 0, "ValueError: no")]


def test_it_says_whether_settings_were_tuned():
    assert Comparison(CELLS).limits()[0].startswith("Defaults are compared.")
    tuned = Comparison(CELLS, {"trials": 8, "passes": 0.5}).limits()[0]
    assert tuned.startswith("The settings of every method were found with 8 trials of 0.5 passes")


def test_a_method_for_some_requests_alone_is_not_ranked_and_keeps_no_other_from_it():
    gaps = {"near": 0.1, "far": 0.3, "for rows": 0.2}
    cells = [cell(method, 0, gap, scenario) for scenario in ("a class", "rows") for method, gap in gaps.items()]
    cells = [c for c in cells if (c.method, c.scenario) != ("for rows", "a class")]
    assert Comparison(cells).ranks.ranks == {"near": 1.0, "far": 2.0}
    assert Comparison(cells).ranks.blocks == 2
