"""One list of warnings, the worst first, which terminal, markdown and HTML all print."""

import html

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.findings import (
    HEAD_ONLY,
    LOADS_AS_ORIGINAL,
    PATCH,
    Finding,
    Severity,
    changes_head_only,
    failed,
    findings,
    worst_first,
)
from hf_unlearn.training.outcome import STILL_OUTPUTS
from hf_unlearn.utils.safe_text import inert


def report(**changes):
    """A run that failed, of the head alone, with an adapter, that over-forgets and is soon taught again."""
    run = {"method": {"method": "jit"}, "adapter": True, "head_only": True, "about": {}}
    values = {
        "models": {
            "original": {"retain_accuracy": 1.0, "forget_accuracy": 1.0, "relearning_steps": 0},
            "unlearned": {"retain_accuracy": 1.0, "forget_accuracy": 0.1, "relearning_steps": 3},
            "retrained": {"retain_accuracy": 1.0, "forget_accuracy": 0.6, "relearning_steps": 200},
        },
        "relearning": {"unlearned": [0.0, 0.1, 0.2, 0.9], "retrained": [0.0] * 200},
        "outcome": {"warnings": ["the target was not reached"]},
        "run": run,
    }
    return UnlearningReport(**values | changes)


def test_the_worst_comes_first():
    found = findings(report())
    assert [f.severity for f in found] == sorted(f.severity for f in found)
    assert [f.text.split(":")[0] for f in found] == [
        "the target was not reached",
        PATCH.split(":")[0],
        HEAD_ONLY,
        "shallow",
        "over-forgetting",
    ]
    assert "back after 3 relearning steps, the retrained model takes more than 199" in found[3].text
    assert failed(found)
    assert not failed(findings(report(outcome={})))


def test_a_void_comparison_comes_before_everything_and_leaves_out_what_it_would_compare():
    models = report().models
    models["retrained"] |= {"retain_accuracy": 0.5}
    found = report(models=models).warnings
    assert found[0].startswith("the comparison is void")
    assert found[1] == "the target was not reached"
    assert not any(text.startswith(("over", "shallow")) for text in found)


def test_every_way_to_show_a_report_prints_the_same_list(capsys):
    shown = report()
    shown.print()
    terminal = " ".join(capsys.readouterr().out.split())
    texts = [f.sentence for f in findings(shown)]
    for text, page in (
        (texts, terminal),
        ([inert(t) for t in texts], shown.to_markdown()),
        (texts, html.unescape(shown.to_html(figures=False))),
        (shown.warnings, "\n".join(shown.as_dict()["warnings"])),
    ):
        places = [page.find(t) for t in text]
        assert -1 not in places
        assert places == sorted(places)
    for page in (terminal, shown.to_markdown(), shown.to_html(figures=False)):
        assert "This run failed: the model did not do what was asked." in page
        assert page.count("Warning:") == len(texts)
    assert "This run failed" not in report(outcome={}).to_markdown()


@pytest.mark.parametrize(
    ("run", "head_only"),
    [
        ({"head_only": True}, True), ({"head_only": False, "arguments": {"update": "head"}}, False), ({}, False),
        ({"arguments": {"update": "head"}}, True), ({"arguments": {"update": "all"}}, False),
        ({"head_only": True, "about": {"loads_with": "x.Y"}}, False),
    ],
)  # fmt: skip
def test_a_change_of_the_head_alone_is_told_from_the_run(run, head_only):
    assert changes_head_only(run) == head_only
    assert (HEAD_ONLY in UnlearningReport(models={}, run=run).warnings) == head_only


def test_what_would_load_as_the_original_is_a_warning():
    assert UnlearningReport(models={}, run={"about": {"loads_with": "x.Y.from_pretrained"}}).warnings == [
        LOADS_AS_ORIGINAL
    ]


def test_a_text_stands_once_and_ends_with_a_full_stop():
    a, b = Finding(Severity.NOTE, "a"), Finding(Severity.FAILED, "b?\nc.")
    assert worst_first([a, b, a]) == [b, a]
    assert [f.sentence for f in (a, b)] == ["a.", "b? c."]


def test_outputs_that_did_not_move_are_said_once():
    moved = {"outputs_moved": 0.0, "target_reached": None, "warnings": [STILL_OUTPUTS]}
    run = {"kind": "samples", "method": {"method": "jit"}}
    still = UnlearningReport(models={"original": {}, "unlearned": {}}, outcome=moved, run=run)
    assert [text.split(":")[0] for text in still.warnings] == ["nothing was forgotten"]
    known = UnlearningReport(
        models={"original": {"loss_attack_auc": 0.5}},
        intervals={"original": {"loss_attack_auc": [0.45, 0.55]}},
        outcome=moved,
        run=run,
    )
    assert [f.severity for f in findings(known)] == [Severity.NOTE]
