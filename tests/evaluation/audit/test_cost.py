"""How long an audit takes, and the rows that it reads within a budget."""

import pytest

from hf_unlearn.evaluation.audit.auditor import Auditor, audit_models
from hf_unlearn.evaluation.audit.cost import FEWEST_ROWS, GROWTH, AuditCost, in_words, seconds_of
from tests.evaluation.audit.support import audited_sets
from tests.support.data import class_split, pixel_data
from tests.support.models import trained

SIZES = {"forget": 150, "test": 900, "retain": 5_000}


def test_lengths_of_time_are_read_and_written():
    assert [seconds_of(text) for text in ("90", "90s", "1.5 m", "2h")] == [90, 90, 90, 7200]
    for wrong in ("", "soon", "-3m", "0", "10 days"):
        with pytest.raises(ValueError, match="is no length of time"):
            seconds_of(wrong)
    assert [in_words(seconds) for seconds in (0.2, 80, 200, 7200)] == ["1 s", "80 s", "3 min", "2.0 h"]


def test_what_is_read_and_learned_counts():
    """Two models, 0.01 s a row: every set, two roundings, rows in another order, three draws of relearning; one hidden copy."""
    read = 6_050 + 2 * 150 + 2 * 96
    relearned = 3 * 15 * (3 * 20 + 100)
    hidden = 3 * (3 * 20 * 100 + 100 * 100 / 3)
    assert AuditCost(0.01, 2).seconds(SIZES) == pytest.approx(0.01 * (2 * (read + relearned) + hidden))


@pytest.mark.parametrize("share", [1.0, 1.1, 1.3, 1.6])
def test_as_many_rows_are_read_as_the_budget_allows(share):
    cost = AuditCost(0.01, 3)

    def seconds(most):
        return cost.seconds({name: min(size, int(most)) for name, size in SIZES.items()})

    budget = share * seconds(FEWEST_ROWS)
    tried = [FEWEST_ROWS * GROWTH**k for k in range(20)]
    expected = max(int(rows) for rows in tried if seconds(rows) <= budget and rows < GROWTH * 5_000)
    assert cost.rows_within(budget, SIZES) == expected
    assert cost.rows_within(1e6, SIZES) >= 5_000


def test_a_budget_for_hardly_any_row_is_refused():
    least = AuditCost(0.01, 3).seconds(dict.fromkeys(SIZES, FEWEST_ROWS))
    with pytest.raises(ValueError, match=r"`budget`: an audit of 3 models takes about .* reads 100 rows"):
        AuditCost(0.01, 3).rows_within(0.9 * least, SIZES)


@pytest.mark.slow
def test_an_audit_within_a_budget_reads_fewer_rows_and_says_how_long_it_takes(monkeypatch):
    monkeypatch.setattr(AuditCost, "measured", classmethod(lambda cls, *given: cls(0.01, given[-1])))  # another clock
    split, told = class_split("vit", 240), []
    sets = {"forget": split.forget, "test": pixel_data(200, 9), "retain": split.retain}
    budget = AuditCost(0.01, 2).seconds({"forget": 60, "test": 130, "retain": 130})
    audit = audit_models(trained("vit"), trained("vit"), tell=told.append, budget=budget, **sets)
    assert audit.run["rows"] == {"forget": 60, "test": 125, "retain": 125}
    assert told == [
        "An audit of 2 models on 60 forget, 125 test, 125 retain rows takes about 7 min at most, less what is cached."
    ]


@pytest.mark.slow
def test_a_real_model_is_timed():
    told: list[str] = []
    auditor = Auditor(trained("vit"), tell=told.append, **audited_sets())
    assert told[0].startswith("An audit of 1 model on ")
    cost = AuditCost.measured(trained("vit"), auditor.sets["forget"], auditor.processor, 1)
    assert 0 < cost.seconds_a_row < 1
