"""An audit as JSON, as markdown and in the terminal."""

import dataclasses
import json

import pytest

from hf_unlearn import Audit
from hf_unlearn.evaluation.audit.evidence import Evidence
from hf_unlearn.evaluation.audit.verdicts import MEANING, SAME, UNCLEAR


def audit(verdict=UNCLEAR):
    compared = Evidence("forget_accuracy", "accuracy on the forget set", "memory", 0.9, 0.5, [0.4, 0.6])
    compared = dataclasses.replace(
        compared, expected=0.5, difference=0.0, low=-0.01, high=0.01, practical=0.03, spread=0.02, result="equivalent"
    )
    known_without = Evidence("adapter", "forget rows as by the original", "switch", 1.0, 0.25, expected=0.0)
    return Audit(verdict, ["adapter"], [compared, known_without], ["Nothing is proved."], {"original": [(0, 0.5)]})


def test_an_audit_survives_json_and_another_schema_is_refused():
    once = audit()
    again = Audit.from_dict(json.loads(json.dumps(once.as_dict())))
    assert [dataclasses.astuple(x) for x in again.lines] == [dataclasses.astuple(x) for x in once.lines]
    assert (again.verdict, again.limits, again.schema) == (once.verdict, once.limits, "hf_unlearn/audit/1")
    with pytest.raises(ValueError, match="`schema` is 'other'"):
        Audit.from_dict({**once.as_dict(), "schema": "other"})


def test_only_one_verdict_accepts_a_model():
    assert [verdict for verdict in MEANING if audit(verdict).accepted] == [SAME]


def test_a_row_holds_the_mean_of_the_retrained_models_or_the_known_value():
    compared, known_without = audit().rows()
    assert compared[1:7] == ["0.900", "0.500", "0.500", "+0.000 [-0.010, +0.010]", "±0.030 ±0.020", "equivalent"]
    assert known_without[1:7] == ["1.000", "0.250", "0.000", "–", "–", "unknown"]


def test_files_and_terminal_hold_verdict_table_and_limits(tmp_path, capsys):
    audit().save(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "audit.md").read_text("utf-8")
    assert UNCLEAR in (tmp_path / "new" / "folder" / "audit.html").read_text("utf-8")
    assert json.loads((tmp_path / "new" / "folder" / "audit.json").read_text("utf-8"))["because"] == ["adapter"]
    audit().print()
    for shown in (text, capsys.readouterr().out):
        for words in (UNCLEAR, MEANING[UNCLEAR], "accuracy on the forget set", "+0.000", "Nothing is proved."):
            assert words in shown
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {5, 9}  # of the answers, and of the evidence
