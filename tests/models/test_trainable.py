"""`update` chooses parameters, and only these require a gradient."""

import re

import pytest
import torch
import transformers
from peft import LoraConfig

from hf_unlearn.models.structure import find_blocks
from hf_unlearn.models.trainable import check_precision, restrict, updated_names
from tests.models.support import patched
from tests.support.data import TEXT, VISION
from tests.support.models import build, trained


def test_blocks_that_share_their_weights_cannot_be_counted():
    config = transformers.AlbertConfig(
        vocab_size=9, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(ValueError, match="`update='last:1'`: the model has no blocks of its own"):
        updated_names(transformers.AlbertForSequenceClassification(config), "last:1")


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_last_n_grows_towards_all_and_never_takes_embeddings(arch):
    model = build(arch)
    everything = updated_names(model, "all")
    assert everything == [n for n, _ in model.named_parameters()]
    blocks = find_blocks(model)
    previous = set(updated_names(model, "head"))
    for n in range(1, len(blocks) + 1):
        chosen = set(updated_names(model, f"last:{n}"))
        assert previous < chosen
        for i, block in enumerate(blocks):
            inside = [name in chosen for name in everything if name.startswith(block + ".")]
            assert all(inside) if i >= len(blocks) - n else not any(inside)
        assert not [name for name in chosen if "embed" in name and "layer" not in name and "stage" not in name]
        previous = chosen


def test_regular_expression_selects_by_search():
    model = build("vit")
    names = updated_names(model, r"classifier|layernorm_after")
    assert names
    assert set(names) == {n for n, _ in model.named_parameters() if re.search("classifier|layernorm_after", n)}


@pytest.mark.parametrize("update", ["last:0", "last:3", "no_such_parameter", "(", "last:x"])
def test_bad_update_is_refused_by_name(update):
    with pytest.raises(ValueError, match=re.escape(f"`update={update!r}`")):
        updated_names(build("vit"), update)


def test_restrict_freezes_everything_else():
    model = build("bert")
    restrict(model, updated_names(model, "head"))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(updated_names(model, "head"))
    restrict(model, updated_names(model, "all"))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_a_copy_of_the_head_in_half_precision_is_refused_with_what_helps(tmp_path):
    """PEFT leaves it in the base's precision, and in float32 the layer before would not fit it."""
    config, half = LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]), trained("vit").bfloat16()
    match = r"`peft_config.modules_to_save`.*classifier.modules_to_save.*bfloat16.*`dtype=torch.float32`.*leave out"
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path, config=config, model=half)
    patched("vit", tmp_path, config=config).train()


def test_only_tensors_that_move_may_not_be_in_half_precision():
    model = build("vit")
    model.classifier.bfloat16()
    check_precision(model, [n for n, _ in model.named_parameters() if "classifier" not in n])
    with pytest.raises(ValueError, match=r"2 tensors that are to move are in bfloat16, such as `classifier.weight`"):
        check_precision(model, updated_names(model, "head"))
    check_precision(model.to(torch.float32), updated_names(model, "head"))
