"""One pass over rows gives every row's logits, in order."""

import io
import sys

import pytest
import torch
import transformers

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.models import prediction
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.prediction import Answers, _pooled, answers, pooled_features, predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.structure import find_last_layer
from tests.support.data import (
    CLASSES,
    data_for,
    processing_class,
    text_data,
    tokenizer,
)
from tests.support.models import build, trained


@pytest.mark.parametrize("arch", ["resnet", "bert"])
def test_predictions_are_in_order_whatever_the_batch_size(arch):
    model, data = trained(arch).train(), data_for(arch, 13)
    processor = Processor(model, processing_class(arch))
    logits, labels = predict(model, data, processor, batch_size=100)
    assert model.training
    assert labels.tolist() == data["label"][:]
    assert logits.dtype == torch.float32
    for size in (1, 4, 13):
        assert torch.allclose(predict(model, data, processor, batch_size=size)[0], logits, atol=1e-5)
    assert torch.allclose(predict(model, data.to_iterable_dataset(), processor, limit=5)[0], logits[:5], atol=1e-5)
    with pytest.raises(ValueError, match="`dataset` is empty"):
        predict(model, [], processor)


def test_the_last_layer_turns_the_features_into_the_logits():
    model = trained("vit")
    data, last = data_for("vit", 10), find_last_layer(model)
    seen = list(answers(model, data, Processor(model).collate, batch_size=4, features=True))
    assert [len(a.rows) for a in seen] == [4, 4, 2]
    for answer in seen:
        torch.testing.assert_close(answer.features @ last.weight.T + last.bias, answer.logits)


def test_features_of_a_decoder_are_those_of_the_token_that_answers():
    config = transformers.GPT2Config(
        vocab_size=28, n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=CLASSES, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    (answer,) = answers(model, text_data(6), Processor(model, tokenizer()).collate, features=True)
    torch.testing.assert_close(answer.features @ model.score.weight.T, answer.logits)
    assert answer.features.shape == (6, 16)


@pytest.mark.parametrize("form", ["texts", "prepared", "stream"])
def test_texts_of_like_length_share_a_batch_and_come_back_in_their_order(form):
    model, data = trained("bert"), text_data(100)
    processor, shapes = Processor(model, tokenizer()), []
    single = [processor.collate([row]) for row in data]
    with torch.no_grad():
        wanted = torch.cat([model(**model_inputs(one)).logits for one in single])
    model.register_forward_pre_hook(lambda _m, _a, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True)
    rows = {"texts": data, "prepared": PreparedRows(data, processor), "stream": data.to_iterable_dataset()}[form]
    logits, labels = predict(model, rows, processor, batch_size=64)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == data["label"][:]
    lengths = sorted((one["input_ids"].shape[1] for one in single), reverse=True)
    size = prediction.CPU_ROWS
    assert [tuple(shape) for shape in shapes] == [(min(size, 100 - i), lengths[i]) for i in range(0, 100, size)]


def test_a_label_that_is_missing_is_missed_in_any_order():
    model, data = trained("bert"), text_data(40)
    rows = [{**row, "label": None} if i == 7 else row for i, row in enumerate(data)]
    assert predict(model, rows, Processor(model, tokenizer()), batch_size=16)[1] is None


@pytest.mark.parametrize("arch", ["bert", "vit"])
def test_pooled_features_come_in_the_order_of_the_rows(arch):
    model, data = trained(arch), data_for(arch, 40)
    processor = Processor(model, processing_class(arch))
    rows = PreparedRows(data, processor)
    found, labels = pooled_features(model, rows, processor.collate, 16)
    single = [pooled_features(model, [row], processor.collate, 1)[0] for row in rows]
    assert len(found) == 3
    for pooled, alone in zip(found, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(pooled, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert labels.tolist() == data["label"][:]


def given(rows, mask=None):
    """Answers to `rows` rows, of which only their number and the mask of their tokens count."""
    inputs = {} if mask is None else {"attention_mask": mask}
    return Answers([], inputs, torch.zeros(rows, 2), None, None, torch.arange(rows))


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooled_features_are_mean_maximum_and_first_of_the_real_tokens(side):
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0] if side == "right" else [0, 0, 0, 1, 1]])
    mean, largest, first = _pooled(hidden, given(2, mask))
    real = [hidden[0], hidden[1, :2] if side == "right" else hidden[1, 3:]]
    torch.testing.assert_close(mean, torch.stack([tokens.mean(0) for tokens in real]))
    assert torch.equal(largest, torch.stack([tokens.amax(0) for tokens in real]))
    assert torch.equal(first, torch.stack([tokens[0] for tokens in real]))


def test_pooled_features_of_a_picture_are_mean_and_maximum_over_places():
    hidden = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mean, largest = _pooled(hidden, given(2))
    torch.testing.assert_close(mean, hidden.flatten(2).mean(-1))
    assert torch.equal(largest, hidden.flatten(2).amax(-1))


def test_rows_are_read_as_they_are_asked_for():
    model, read = build("resnet"), []
    rows = ((read.append(i), row)[1] for i, row in enumerate(data_for("resnet", 8)))
    iterator = answers(model, rows, Processor(model).collate, batch_size=3)
    first = next(iterator)
    assert read == [0, 1, 2]
    assert first.labels.tolist() == [row["label"] for row in first.rows]


def test_a_model_for_another_task_is_refused_with_the_class_to_use():
    model = transformers.BertForMaskedLM(build("bert").config)
    with pytest.raises(
        ValueError, match=r"`model`: BertForMaskedLM gives outputs of shape \(3, \d+, 28\).*ForSequenceClass"
    ):
        predict(model, text_data(3), Processor(model, tokenizer()))


def test_what_a_model_says_of_rows_that_it_does_not_read_names_the_model():
    model = transformers.BertModel(build("bert").config)
    with pytest.raises(ValueError, match=r"`model`: BertModel does not classify rows of .*\(AttributeError: .*logits"):
        predict(model, text_data(3), Processor(model, tokenizer()))

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    model.forward = full
    with pytest.raises(torch.OutOfMemoryError):
        predict(model, text_data(3), Processor(model, tokenizer()))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_a_long_pass_shows_its_progress_on_a_terminal_alone(monkeypatch, arch):
    model, data = trained(arch), data_for(arch, 40)
    processor = Processor(model, processing_class(arch))
    monkeypatch.setattr(prediction, "PATIENCE", 0.0)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        predict(model, data, processor)
        assert ("Reading rows" in stream.getvalue()) == ("/40" in stream.getvalue()) == shown
    monkeypatch.setattr(prediction, "PATIENCE", 60.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    predict(model, data, processor)
    assert "Reading rows" not in sys.stderr.getvalue()
