"""Cautions of a report: seen test rows, sets without labels, and words that the tokenizer keeps."""

from types import SimpleNamespace

import torch

from hf_unlearn import JiT
from hf_unlearn.evaluation.report.cautions import cautions, seen_in_training
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, image_data, image_processor, text_data, tokenizer
from tests.support.models import build
from tests.support.runs import trainer_for

TEXTS = Processor(build("bert"), tokenizer())


def test_test_rows_that_were_trained_on_are_counted_by_what_the_model_reads():
    rows = image_data(40)
    pictures = Processor(build("vit"), image_processor())
    test = rows.select(range(30, 40)).add_column("id", range(10))
    said = seen_in_training(pictures, test, {"to forget": rows.select(range(4)), "kept": rows.select(range(4, 35))})
    assert said.startswith("50.0% of the 10 test rows have an identical copy among the training rows (5 kept)")
    assert not seen_in_training(pictures, test, {"kept": rows.select(range(30))})
    assert not seen_in_training(pictures, None, {"kept": rows})
    assert not seen_in_training(TEXTS, test, {"kept": rows})  # nothing that the model reads
    assert not seen_in_training(TEXTS, text_data(9), {"kept": text_data(9).to_iterable_dataset()})


def test_sets_without_labels_are_named_with_the_figures_that_are_left_out():
    run = SimpleNamespace(processor=TEXTS, forget_dataset=text_data(4), args=SimpleNamespace(check_rows=True))
    labelled = (torch.zeros(4, 4), torch.zeros(4))
    found = cautions(run, None, None, {"forget": labelled, "test": (torch.zeros(4, 4), None)})
    assert found == [
        "the test set has rows without labels, so test accuracy, accuracy by class and the loss attack are left out"
    ]


def test_a_report_carries_its_cautions_and_the_run_stays_a_success(tmp_path):
    split = class_split("vit")
    trainer = trainer_for("vit", tmp_path, JiT(), split=split)
    trainer.train()
    ok = trainer.outcome.ok
    report = trainer.report(test_dataset=split.retain.remove_columns("label"))
    said = [w for w in report.warnings if "test rows" in w or "test set" in w]
    assert ["without labels" in w for w in said] == [True, False]
    assert "100.0% of the 48 test rows" in said[1]
    assert trainer.outcome.ok == ok
    assert [w in report.to_markdown() for w in said] == [True, True]
