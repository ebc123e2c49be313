"""A sharded classifier against its shards, each loaded by PEFT and run by itself."""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, pipeline

from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FOLDER
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.pretrained import load_classifier, load_processing_class
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.sharded_classifier import (
    SHARDING,
    ShardedClassifier,
    SharedBlock,
    fresh_classifier,
    joint_head,
)
from hf_unlearn.models.structure import find_head, last_layer_inputs
from hf_unlearn.shards.settings import ShardSettings
from tests.shards.support import KEY, SMALL, rows_for, save_base, shared, trainer
from tests.support.data import data_for, processing_class
from tests.support.tables import slow

pytestmark = pytest.mark.xdist_group("shared shards")


def batch_of(arch, model, n=6):
    processor = Processor(model, processing_class(arch))
    return model_inputs(processor.collate([processor(row) for row in data_for(arch, n, seed=3)]))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["bert", "vit", *slow("distilbert", "roberta", "dinov2", "swin", "convnext")])
def test_its_answer_is_the_mean_of_the_log_probabilities_of_its_shards(arch, tmp_path):
    base = save_base(arch, tmp_path / "base")
    settings = ShardSettings(**{**SMALL, "num_shards": 2, "learning_rate": 0.05})
    model = trainer().train(base, rows_for(arch, 36), tmp_path / "v1", settings=settings, key=KEY)
    batch, apart = batch_of(arch, model), []
    for number in range(2):
        alone, _ = fresh_classifier(model.sharding)
        shard = PeftModel.from_pretrained(alone, str(tmp_path / f"v1/shard-{number:02d}")).eval()
        with torch.no_grad():
            apart.append(shard(**batch).logits)
    assert (apart[0] - apart[1]).abs().max() > 1e-3
    expected = torch.stack(apart).log_softmax(-1).mean(0).softmax(-1)
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits.softmax(-1), expected, atol=1e-5)
        assert torch.allclose(model.shard_logits(**batch), torch.stack(apart), atol=1e-5)


@pytest.mark.slow
def test_what_no_adapter_changes_runs_once_for_all_shards():
    model = load_classifier(str(shared()[0]))
    blocks = [m for m in model.modules() if isinstance(m, SharedBlock)]
    calls = []
    blocks[0].block.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(**batch_of("bert", model))
        model(**batch_of("bert", model, 3))
    assert len(blocks) == 1  # of two
    assert len(calls) == 2


def test_it_is_a_classifier_with_a_last_layer_and_features_in_front_of_it():
    model = load_classifier(str(shared()[0]))
    assert find_head(model) == "classifier"
    with torch.no_grad(), last_layer_inputs(model) as seen:
        logits = model(**batch_of("bert", model)).logits
    features, output = seen[-1]
    assert features.shape == (6, 3 * 16)
    assert torch.equal(output, logits)


def test_a_copy_answers_alike_and_learns_by_itself():
    model = load_classifier(str(shared()[0]))
    batch, twin = batch_of("bert", model), copy.deepcopy(model)
    before = model(**batch).logits
    assert torch.equal(before, twin(**batch).logits)
    twin(**batch, labels=torch.zeros(6, dtype=torch.long)).loss.backward()
    moved = [n for n, p in twin.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(".copies.0." in n for n in moved)
    assert any(".copies.2." in n for n in moved)
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert not torch.equal(before, twin(**batch).logits)
    assert torch.equal(before, model(**batch).logits)


@pytest.mark.slow
def test_pipelines_of_transformers_take_it(caplog):
    folder = shared()[0]
    model = ShardedClassifier.from_pretrained(folder)
    tokenizer = load_processing_class(str(folder))
    found = pipeline("text-classification", model=model, tokenizer=tokenizer)(["w1 w2", "w3"])
    assert [f["label"] in model.config.label2id for f in found] == [True, True]
    assert "not supported" not in caplog.text
    for auto in (AutoModelForImageClassification, AutoModelForSequenceClassification):
        assert ShardedClassifier in auto._model_mapping.values()


def test_saving_copies_what_may_be_published_and_nothing_private(tmp_path):
    model = ShardedClassifier.from_pretrained(shared()[0])
    model.save_pretrained(tmp_path / "copy")
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {SHARDING, "shard-00", "shard-01", "shard-02"}
    assert (shared()[0] / PRIVATE_FOLDER).is_dir()
    again, batch = ShardedClassifier.from_pretrained(tmp_path / "copy"), batch_of("bert", model)
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_it_is_published_by_the_command_alone():
    with pytest.raises(NotImplementedError, match="hf-unlearn push"):
        ShardedClassifier.from_pretrained(shared()[0]).push_to_hub("alice/sharded")


def test_weights_of_shards_weigh_their_logits():
    heads = [torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)]
    x = torch.randn(5, 6)
    expected = 0.25 * heads[0](x[:, :3]) + 0.75 * heads[1](x[:, 3:])
    assert torch.allclose(joint_head(heads, [0.25, 0.75])(x), expected, atol=1e-6)


def test_a_base_with_batch_norm_is_refused(tmp_path):
    base = save_base("resnet", tmp_path / "base")
    with pytest.raises(ValueError, match="BatchNorm, whose statistics would learn"):
        trainer().train(base, rows_for("resnet", 36), tmp_path / "out", settings=ShardSettings(**SMALL))


def test_a_folder_without_shards_or_with_a_part_missing_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"holds no sharding\.json"):
        ShardedClassifier.from_pretrained(tmp_path)
    model = ShardedClassifier.from_pretrained(shared()[0])
    model.save_pretrained(tmp_path)
    (tmp_path / "shard-01" / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match="lacks shard-01"):
        ShardedClassifier.from_pretrained(tmp_path)
    (tmp_path / SHARDING).write_text("{}")
    with pytest.raises(ValueError, match="no description of shards"):
        ShardedClassifier.from_pretrained(tmp_path)
