"""The order of the reasons for a verdict."""

import pytest

from hf_unlearn.evaluation.audit.evidence import Evidence
from hf_unlearn.evaluation.audit.verdicts import DAMAGED, HIDDEN, LESS, MORE, SAME, UNCLEAR, decide


def evidence(key, group, side, telling=True, unlearned=0.5):
    out = Evidence(key, "", group, 0.9, unlearned, [0.5], difference=0.3 * side, telling=telling)
    out.result = "different" if side else "equivalent"
    return out


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, SAME),
        ({"forget_accuracy": 1}, LESS),
        ({"membership": 1, "features": 1}, LESS),
        ({"membership": -1, "test_accuracy": -1}, MORE),
        ({"features": 1}, HIDDEN),
        ({"test_accuracy": -1, "forget_accuracy": 1}, DAMAGED),
    ],
)
def test_the_order_of_reasons(changed, verdict):
    groups = {"forget_accuracy": "memory", "membership": "memory", "test_accuracy": "utility", "features": "inside"}
    lines = [evidence(key, group, changed.get(key, 0)) for key, group in groups.items()]
    assert decide(lines, True)[0] == verdict
    if verdict == SAME:
        assert decide(lines, False)[0] == UNCLEAR
        for one in lines:
            one.telling = False
        assert decide(lines, True)[0] == UNCLEAR
