"""Outputs that are too large for the memory lie in files without a name, and change no result."""

import gc
from pathlib import Path

import pytest
import torch

from hf_unlearn import (
    UIB,
    CounterfactualDistillation,
    JiT,
)
from hf_unlearn.models.prediction import predict
from hf_unlearn.training.verification import mean_total_variation
from hf_unlearn.utils import large_tensors
from hf_unlearn.utils.large_tensors import Collector, chunks, new_table
from tests.support.data import class_split
from tests.support.models import changed, state, trained
from tests.support.runs import trainer_for


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(large_tensors, "MEMORY_BYTES", 64)
    monkeypatch.setattr(large_tensors, "CHUNK", 12)


@pytest.mark.parametrize("rows", [30, None])
def test_batches_in_any_order_are_put_in_their_places(rows):
    values, places = torch.randn(30, 5), torch.randperm(30)
    collector = Collector(rows)
    for part in places.split(7):
        collector.add(values[part], part)
    assert torch.equal(collector.table(), values)


@pytest.mark.slow
def test_large_tables_are_files_without_a_name(small_memory, tmp_path):
    values = torch.randn(30, 5)
    collector = Collector(30, tmp_path)
    for part in values.split(7):
        collector.add(part)
    table = collector.table()
    assert torch.equal(table, values)
    assert not list(tmp_path.iterdir())
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped
    assert all("(deleted)" in line for line in mapped)
    assert [len(a) for a, _ in chunks(table, values)] == [2] * 15
    other = torch.randn(30, 5)
    expected = 0.5 * (values.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean().item()
    assert mean_total_variation(table, other) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(table[torch.tensor([3, 29])], values[[3, 29]])
    whole = new_table(3, 7, tmp_path, torch.long)
    assert whole.dtype == torch.long
    assert not whole.any()


@pytest.mark.slow
@pytest.mark.usefixtures("few_anchors")
@pytest.mark.parametrize("method", [JiT, CounterfactualDistillation, UIB], ids=lambda m: m.name)
def test_a_run_is_the_same_with_its_outputs_on_disk(tmp_path, monkeypatch, method):
    split = class_split("vit", n=64)

    def run(folder):
        made = method(num_perturbations=2, anchors=False) if method is JiT else method()
        trainer = trainer_for("vit", tmp_path / folder, made, split=split, probe_size=4, check_steps=1)
        trainer.train()
        outputs = [trainer.reference.logits, trainer.monitor.forget_logits()]
        return trainer, predict(trainer.model, split.forget, trainer.processor)[0], outputs

    plain, logits, _ = run("memory")
    monkeypatch.setattr(large_tensors, "MEMORY_BYTES", 64)
    monkeypatch.setattr(large_tensors, "CHUNK", 12)
    large, same, outputs = run("disk")
    assert sum(str(tmp_path / "disk") in line for line in Path("/proc/self/maps").read_text().splitlines()) >= 2
    assert not changed(state(plain.model), state(large.model))
    assert torch.equal(logits, same)
    assert large.outcome.path == plain.outcome.path
    assert large.outcome.forget_end == plain.outcome.forget_end
    assert large.outcome.outputs_moved == pytest.approx(plain.outcome.outputs_moved, rel=1e-6)
    assert not [f for f in (tmp_path / "disk").rglob("*") if f.is_file()]
    del large, outputs
    gc.collect()
    assert str(tmp_path / "disk") not in Path("/proc/self/maps").read_text()


@pytest.mark.slow
def test_nan_is_found_in_every_chunk_of_a_table(small_memory, tmp_path):
    model = trained("vit")
    with torch.no_grad():
        model.classifier.bias[2] = torch.nan
    split = class_split("vit")
    trainer = trainer_for("vit", tmp_path, JiT(), model=model, split=split)
    with pytest.raises(ValueError, match="`model` gives NaN"):
        trainer.train()
