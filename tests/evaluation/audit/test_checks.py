"""Sets and models that cannot be compared."""

import copy

import datasets
import pytest
import torch

from hf_unlearn import audit_models
from hf_unlearn.evaluation.audit.checks import check_sets, draw_sets, same_shares
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, pixel_data
from tests.support.models import build, trained

from .support import Untouchable, audited_sets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": pixel_data(8).select([])}, "`forget`.* is empty|`forget` is empty"),
        ({"test": pixel_data(8).remove_columns("label")}, "`test`: 8 of 8 rows have no label"),
        ({"test": class_split("vit").forget}, "`forget` and `test` overlap"),
        ({"retain": class_split("vit").forget}, "`forget` and `retain` overlap"),
        ({"kind": "classes"}, "`kind='classes'` is unknown"),
        ({"kind": "class", "forget": pixel_data(8, 3)}, "the retain set has rows of the classes"),
        ({"test": pixel_data(64, 9).filter(lambda r: r["label"] == 1)}, "rows of the forgotten classes only"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused_before_a_model_is_run(changes, message):
    model = Untouchable(trained("vit"))
    with pytest.raises(ValueError, match=message):
        audit_models(model, model, **audited_sets(**changes))


def test_models_that_cannot_be_compared_are_refused_before_a_model_is_run():
    original = Untouchable(trained("vit"))
    with pytest.raises(ValueError, match=r"`retrained\[0\]` has a head of 3 classes and `original` one of 4"):
        audit_models(original, original, [build("vit", labels=3)], **audited_sets())
    other = trained("vit")
    other.config = copy.deepcopy(other.config)
    names = list(other.config.label2id)
    other.config.label2id = dict(zip(names, (1, 0, 2, 3), strict=True))
    with pytest.raises(ValueError, match="`unlearned` numbers its classes differently"):
        audit_models(original, other, **audited_sets())
    with pytest.raises(ValueError, match="one reads images and the other texts"):
        audit_models(original, build("bert"), **audited_sets())


def test_labels_in_other_shares_are_no_random_draw():
    assert same_shares(torch.arange(100) % 4, torch.arange(60) % 4)
    assert not same_shares(torch.ones(30, dtype=torch.long), torch.arange(60) % 4)


def test_labels_of_every_set_are_matched_with_the_head_by_name():
    model = trained("vit")
    model.config.id2label, model.config.label2id = dict(enumerate("abcd")), {n: i for i, n in enumerate("abcd")}
    rows = pixel_data(40, seed=3)
    turned = rows.remove_columns("label").add_column("label", [3 - y for y in rows["label"]])
    given = {
        "forget": pixel_data(20),
        "test": turned.cast_column("label", datasets.ClassLabel(names=list("dcba"))),
    }
    processor = Processor(model)
    _, labels, digests = draw_sets(check_sets(given, processor), processor, 100, 0)
    assert set(digests) == set(given)
    assert sorted(labels["test"].tolist()) == sorted(rows["label"])
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="a multi-label head"):
        check_sets(given, Processor(model))
