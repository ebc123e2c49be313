"""An original that contradicts the labels is noticed: the numbers mean other classes, or it reads other inputs."""

import datasets
import pytest
import torch

from hf_unlearn import ForgetRequest, JiT, Retrain
from hf_unlearn.models.processor import Processor
from hf_unlearn.training.original_check import doubts_of_rows
from tests.support.data import pixel_data
from tests.support.models import build
from tests.support.runs import trainer_for


def outcome(folder, rows, model=None, label=0, **changes):
    split = ForgetRequest(label=label).split(rows)
    trainer = trainer_for(
        "vit", folder, JiT(num_perturbations=1), model=model, split=split, **{"max_steps": 1, **changes}
    )
    trainer.train()
    return trainer.outcome


def doubts(outcome):
    return [w for w in outcome.warnings if w.startswith("the original ")]


def relabelled(numbers, n=96):
    rows = pixel_data(n)
    rows = rows.filter(lambda r: r["label"] in numbers)
    return rows.cast_column("label", datasets.Value("int64")).map(lambda r: {"label": numbers[r["label"]]})


def test_an_original_that_knows_the_labels_raises_no_doubt(tmp_path):
    assert not doubts(outcome(tmp_path, pixel_data(96)))


def test_classes_that_were_numbered_anew_are_noticed(tmp_path, caplog):
    shifted = relabelled({0: 0, 1: 1, 3: 2})  # the data lacks class 2, and nothing has a name
    forgotten = outcome(tmp_path / "forget", shifted, label=2)
    assert not forgotten.ok
    assert "rows to forget with label 2 (LABEL_2) for class 3 (LABEL_3)" in doubts(forgotten)[0]
    kept = outcome(tmp_path / "keep", shifted, label=0)
    assert not kept.ok
    assert len(doubts(kept)) == 1
    assert "of the rows to keep with label 2 (LABEL_2) for class 3 (LABEL_3)" in caplog.text


def test_an_original_that_is_no_better_than_guessing_is_noticed(tmp_path):
    found = outcome(tmp_path, pixel_data(96), model=build("vit"))
    assert not found.ok
    assert "no better than guessing: it is untrained, or labels" in doubts(found)[-1]


@pytest.mark.slow
def test_a_report_notices_what_a_run_without_rows_to_keep_cannot(tmp_path):
    shifted = relabelled({0: 0, 1: 1, 3: 2})
    split = ForgetRequest(label=0).split(shifted)
    for number, (retain, test) in enumerate(((split.retain, None), (pixel_data(48), shifted))):
        trainer = trainer_for(
            "vit", tmp_path / str(number), JiT(num_perturbations=1), split=split, retain=False, max_steps=1
        )
        trainer.train()
        assert not doubts(trainer.outcome)
        report = trainer.report(retain, test)
        (doubt,) = doubts(trainer.outcome)
        assert f"of the {'rows to keep' if test is None else 'test rows'} with label 2 (LABEL_2) for class 3" in doubt
        assert doubt in report.warnings
        trainer.report(retain, test)
        assert doubts(trainer.outcome) == [doubt]


def test_an_untrained_model_that_is_retrained_is_no_doubt(tmp_path):
    split = ForgetRequest(label=0).split(pixel_data(96))
    trainer = trainer_for("vit", tmp_path, Retrain(), model=build("vit"), split=split, max_steps=1)
    trainer.train()
    assert not doubts(trainer.outcome)


def test_a_class_that_is_mistaken_for_a_well_known_one_is_hard_and_not_renumbered():
    processor = Processor(build("vit"))
    labels = torch.tensor([0] * 20 + [1] * 60 + [2] * 60 + [3] * 60)
    rare = torch.tensor([1] * 20 + [1] * 60 + [2] * 60 + [3] * 60)
    assert not doubts_of_rows(rare, labels, processor, "rows")  # all of class 0 is taken for 1, as is class 1 itself
    swapped = torch.tensor([1] * 20 + [0] * 60 + [2] * 60 + [3] * 60)
    assert len(doubts_of_rows(swapped, labels, processor, "rows")) == 2


def test_a_class_to_forget_that_was_never_learned_is_no_other_number(tmp_path):
    rows = pixel_data(96)
    learned = rows.filter(lambda r: r["label"] == 1).select(range(8)).cast_column("label", datasets.Value("int64"))
    mistaken = learned.map(lambda r: {"label": 0})  # rows that the original takes for class 1, as it takes class 1
    others = rows.filter(lambda r: r["label"] != 0).cast_column("label", datasets.Value("int64"))
    assert not doubts(outcome(tmp_path, datasets.concatenate_datasets([mistaken, others])))
