"""Ordinary training: its warm-up, and the warning when it changed nothing."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_unlearn import UnlearningArguments
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.prepare import load_model, prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.unlearn import retrain
from hf_unlearn.training.plain_training import train_classifier, warmup_steps
from tests.support.data import image_data, image_processor, pixel_data
from tests.support.models import build


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "expected"), [(1348, 64, 25, 50), (96, 64, 1, 0), (640, 64, 10, 10), (65, 64, 5, 1)]
)
def test_the_learning_rate_rises_in_a_tenth_of_the_steps_and_in_fifty_at_most(rows, batch, epochs, expected):
    assert warmup_steps(rows, batch, epochs) == expected


@pytest.fixture
def few_rows(tmp_path):
    """A run over few rows with an untrained model."""
    model = build("vit")
    save_model(model, image_processor(), tmp_path / "original")
    for split, seed in (("train", 0), ("test", 9)):
        (tmp_path / "data").mkdir(exist_ok=True)
        image_data(40, seed).to_parquet(tmp_path / "data" / f"{split}.parquet")
    args = UnlearningArguments(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True)
    run = {"model": str(tmp_path / "original"), "dataset": str(tmp_path / "data"), "forget_class": ["1"]}
    return run, args


def test_a_model_retrained_for_one_epoch_of_few_rows_has_learned_something(few_rows, caplog):
    run, args = few_rows
    job = prepare(RunArguments(**run, train_epochs=1, train_learning_rate=1e-2), args)
    model, _ = retrain(job)
    torch.manual_seed(args.seed + 1)
    fresh = type(model)(model.config)
    moved = [(p - q).abs().max().item() for p, q in zip(fresh.parameters(), model.parameters(), strict=True)]
    assert max(moved) == pytest.approx(1e-2, rel=0.5)  # a step of AdamW is as long as the learning rate
    assert "random weights" not in caplog.text


@pytest.mark.slow
def test_a_model_that_training_did_not_change_gives_a_warning(few_rows, tmp_path, caplog):
    run, args = few_rows
    job = prepare(RunArguments(**run, train_epochs=1, train_learning_rate=1e-60), args)  # nothing in float32
    retrain(job)
    assert "The retrained model did not change in its training" in caplog.text
    model, _ = load_model(job.run, job.train)
    processor = Processor(model, job.processing_class)
    train_classifier(
        model, job.train, processor, {"learning_rate": 0.0, "use_cpu": True, "max_steps": 1}, tmp_path / "x"
    )
    assert "The original did not change in its training" in caplog.text


@pytest.mark.slow
def test_a_last_batch_of_one_row_trains_a_model_with_batch_norm(tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8], "depths": [1, 1, 1]}  # ends with one pixel
    model = ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=4, **sizes))
    arguments = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
    train_classifier(model, pixel_data(9), Processor(model, None), arguments, tmp_path)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    counts = {int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {2, 3}  # the layers before the last pixel see several values in all three batches
