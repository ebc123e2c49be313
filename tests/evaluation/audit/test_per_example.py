"""Attacks on single rows with retrained models as shadows, against their formulas and on models that remember some rows."""

import csv
import io

import numpy as np
import pytest
import torch

from hf_unlearn.evaluation.audit.model_outputs import Measured, Outputs
from hf_unlearn.evaluation.audit.per_example import attack_rows

ROWS, CLASSES = 900, 3
NONE = torch.zeros(ROWS, dtype=torch.bool)


def measured(seed, remembered=()):
    """Answers with noise of their own on rows that are hard or easy for every model; some forget rows are remembered."""
    draw, common = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    outputs = {}
    for name in ("forget", "test"):
        labels = torch.arange(ROWS) % CLASSES
        logits = 3 * torch.randn(ROWS, CLASSES, generator=common) + 0.3 * torch.randn(ROWS, CLASSES, generator=draw)
        if name == "forget":
            logits[list(remembered), labels[list(remembered)]] += 6
        outputs[name] = Outputs(logits, logits, labels)
    return Measured(str(seed), outputs, {}, [], 0.0)


SHADOWS = [measured(seed) for seed in (1, 2, 3)]


def test_lira_is_the_distance_from_retrained_models_in_their_deviations():
    found = attack_rows(range(ROWS), measured(9), SHADOWS, NONE)
    scores = np.stack([m.outputs["forget"].margin.numpy() for m in (measured(9), *SHADOWS)])
    spread = np.sqrt(scores[1:].var(0, ddof=1).mean())
    np.testing.assert_allclose(found.lira, (scores[0] - np.median(scores[1:], 0)) / spread, rtol=1e-3, atol=1e-3)


def test_remembered_rows_are_found_and_no_others():
    known = list(range(0, ROWS, 10))
    found = attack_rows(range(1000, 1000 + ROWS), measured(9, known), SHADOWS, NONE)
    assert found.rows[:2] == [1000, 1001]
    assert set(np.argsort(found.lira)[-len(known) :]) == set(known)
    assert found.found["lira"] == pytest.approx(0.1, abs=0.03)
    assert found.auc["rmia"] > 0.52
    honest = attack_rows(range(ROWS), measured(9), SHADOWS, NONE)
    assert all(abs(auc - 0.5) < 0.06 for auc in honest.auc.values())
    assert max(*honest.found.values(), *honest.apart.values()) < 0.05


def test_rows_that_are_answered_worse_than_unseen_ones_stand_out():
    pushed = measured(9)
    labels = pushed.outputs["forget"].labels
    pushed.outputs["forget"].logits[torch.arange(ROWS), labels] -= 6
    found = attack_rows(range(ROWS), pushed, SHADOWS, NONE)
    assert found.apart["lira"] > 0.9
    assert found.found["lira"] == 0


def test_rows_of_forgotten_classes_are_compared_with_unseen_rows_of_these():
    model, gone = measured(9), torch.arange(ROWS) % CLASSES == 1
    before = attack_rows(range(ROWS), model, SHADOWS, gone).auc
    model.outputs["test"].logits[~gone] = torch.randn(int((~gone).sum()), CLASSES)
    assert attack_rows(range(ROWS), model, SHADOWS, gone).auc == before


def test_a_line_for_each_row_and_a_sentence_on_what_more_models_would_give():
    found = attack_rows(range(ROWS), measured(9), SHADOWS, NONE)
    lines = list(csv.reader(io.StringIO(found.to_csv())))
    assert lines[0] == ["rows", "lira", "rmia"]
    assert float(lines[5][1]) == pytest.approx(found.lira[4], abs=1e-4)
    assert len(lines) == ROWS + 1
    assert (
        "With 3 retrained models all rows share one variance. A variance for each row takes 64" in found.sentences()[-1]
    )


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_retrained_models_are_refused_and_the_number_needed_is_told(count):
    with pytest.raises(ValueError, match=f"at least 2 retrained models, and {count} can be used.*64 give"):
        attack_rows(range(ROWS), measured(9), SHADOWS[:count], NONE)
