"""Which files may be published, by their names."""

import pytest

from hf_unlearn.evaluation.report.plots import drawings
from hf_unlearn.evaluation.report.report import UnlearningReport
from hf_unlearn.hub.layout import FIGURES, WEIGHTS, is_publishable
from tests.support.hub_runs import RUN_FILES

PUBLISHED = [
    *RUN_FILES,
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "merges.txt",
    "barycenter.json",
    "barycenter.safetensors",
    "unlearning_receipt.json",
    "unlearning_receipt.json.sig",
    "bpe.codes",
    "spm.model",
    "sentencepiece.model",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
]


KEPT = [
    "training_args.bin",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "rows.pkl",
    "optimizer.pt",
    "checkpoint-3/model.safetensors",
    "_private/rows.json",
    "private/report.json",
    "unlearning_state.json",
    "trainer_state.json",
    "rows.json",
    "train.parquet",
    "modeling.py",
    "figures/rows.csv",
    "figures/forgotten_row_17_alice.png",
    "forgotten_rows_embeddings.safetensors",
    "unlearning_control.safetensors",
    "model-own.safetensors",
    "rows.safetensors.index.json",
    "rows.model",
    "figures/more/roc.png",
    "private/report.html",
    ".env",
    "../config.json",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_of_a_model_are_publishable(name):
    assert is_publishable(name)


@pytest.mark.parametrize("name", KEPT)
def test_other_files_are_not_publishable(name):
    assert not is_publishable(name)


def test_every_figure_of_a_report_is_publishable():
    curve = {"path": [{"retain": 1}, {}]}
    report = UnlearningReport(
        {"unlearned": {"relearning_steps": 3}}, roc={"a": {}}, per_class={"a": []}, confidence={"a": {}}, outcome=curve
    )
    report.relearning = {"a": [1.0]}
    assert {f"figures/{name}.png" for name in drawings(report)} == {f"figures/{name}.png" for name in FIGURES}
    assert all(is_publishable(f"figures/{name}.png") for name in drawings(report))


@pytest.mark.parametrize(
    "name", ["a.nemo", "model.ckpt.data-00000-of-00001", "model.ckpt-7.index", "x/y.onnx", "m.BIN"]
)
def test_weights_in_other_formats_are_recognized(name):
    assert WEIGHTS.fullmatch(name)
