"""One pass over the rows, rounded weights, and adapters that are switched off."""

import copy

import pytest
import torch

from hf_unlearn.evaluation.audit.model_outputs import (
    DEPTHS,
    adapters_off,
    hide_classes,
    quantized,
    run_model,
    unsteady_share,
)
from hf_unlearn.evaluation.audit.networks import unchanged_share
from hf_unlearn.models.prediction import pooled_features, predict
from tests.support.models import trained

from .support import prepared


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", "roberta"])
def test_one_pass_gives_logits_and_what_the_last_layer_reads(arch):
    rows, processor = prepared(arch)
    out = run_model(trained(arch), {"test": rows}, processor, name="vit", batch_size=16)["test"]
    logits, labels = predict(trained(arch), rows, processor)
    torch.testing.assert_close(out.logits, logits)
    assert torch.equal(out.labels, labels)
    pooled, _ = pooled_features(trained(arch), rows, processor.collate, 16, DEPTHS)
    for block, mean in zip(out.blocks, pooled[:: len(pooled) // len(DEPTHS)], strict=True):
        torch.testing.assert_close(block, mean, rtol=1e-4, atol=1e-4)
    layer = [m for m in trained(arch).modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.testing.assert_close(layer(out.features), logits, rtol=1e-4, atol=1e-5)
    p = logits.double().softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(out.margin, (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_hidden_class_is_never_answered_and_all_else_stays(arch, bias):
    model, (rows, processor) = copy.deepcopy(trained(arch)), prepared(arch)
    layer = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    if not bias:
        layer.bias = None
    before = run_model(model, {"test": rows}, processor, name=arch)["test"]
    after = run_model(hide_classes(model, [0, 2], before), {"test": rows}, processor, name=arch)["test"]
    assert not set(after.logits.argmax(-1).tolist()) & {0, 2}
    assert torch.equal(after.logits[:, [1, 3]], before.logits[:, [1, 3]])
    assert torch.equal(after.features, before.features)
    moved = after.logits[:, [0, 2]] - before.logits[:, [0, 2]]
    if bias:
        torch.testing.assert_close(moved, moved[:1, :1].expand_as(moved))
    else:
        torch.testing.assert_close(after.logits[:, 2], before.logits[:, [1, 3]].mean(-1))


def test_int8_has_255_levels_for_each_channel_and_the_model_stays():
    model = trained("vit")
    before = copy.deepcopy(model.state_dict())
    rounded = dict(quantized(model, "int8").named_parameters())
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            scale = p.flatten(1).abs().amax(1) / 127
            steps = rounded[name].flatten(1) / scale[:, None].clamp_min(1e-12)
            torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
            assert (rounded[name] - p).flatten(1).abs().amax(1).le(0.51 * scale + 1e-9).all()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_adapters_can_be_switched_off_and_weights_below_them_are_the_originals():
    peft = pytest.importorskip("peft")
    original = trained("vit")
    rows, processor = prepared("vit")
    names = [n for n, m in original.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    model = peft.get_peft_model(trained("vit"), peft.LoraConfig(target_modules=names, init_lora_weights=False))
    was, now = (predict(m, rows, processor)[0] for m in (original, model))
    assert not torch.allclose(was, now)
    with adapters_off(model):
        torch.testing.assert_close(predict(model, rows, processor)[0], was)
    torch.testing.assert_close(predict(model, rows, processor)[0], now)
    assert unchanged_share(model, original) == 1
    assert unchanged_share(model.merge_and_unload(), original) < 1


class LooksAtOthers(torch.nn.Module):
    """It hides a class only in large batches."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.main_input_name = model, model.config, model.main_input_name

    def forward(self, **inputs):
        out = self.model(**inputs)
        if len(out.logits) > 10:
            out.logits = out.logits.index_fill(-1, torch.tensor([1]), -1e4)
        return out


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", "roberta"])
def test_answers_that_depend_on_other_rows_are_found(arch):
    rows, processor = prepared(arch)
    shares = []
    for model in (trained(arch), LooksAtOthers(trained(arch))):
        out = run_model(model, {"test": rows}, processor, name=arch, batch_size=16)["test"]
        shares.append(unsteady_share(model, rows, processor, out))
    assert shares[0] == 0
    assert shares[1] > 0.5  # the log-odds of rows that have nothing to do with the class stay
