"""Forward passes with an edited input, eval mode, and activation checkpointing inside it."""

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_unlearn.models.forward import (
    classify,
    classify_by_length,
    continuous_input,
    eval_mode,
    logits_of,
    lone_values_normalized,
    model_inputs,
    repeat_inputs,
    replace_by,
    unwrap,
)
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.trainable import restrict, updated_names
from tests.models.support import batch_of
from tests.support.data import (
    CLASSES,
    TEXT,
    VISION,
    data_for,
    processing_class,
    text_data,
    tokenizer,
)
from tests.support.models import build, changed, trained

# --- forward passes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", VISION + TEXT)
def test_identity_edit_gives_the_same_logits_and_leaves_no_hook(arch):
    model, inputs = trained(arch), model_inputs(batch_of(arch))
    with torch.no_grad():
        plain, edited = classify(model, inputs), classify(model, inputs, lambda x: x)
        assert torch.equal(plain, edited)
        shifted = classify(model, inputs, lambda x: x.flip(-1))
        assert not torch.allclose(plain, shifted)
        assert torch.equal(classify(model, inputs), plain)
    if arch in TEXT:

        def fail(_):
            raise ArithmeticError

        with pytest.raises(ArithmeticError):
            classify(model, inputs, fail)
        assert not model.get_input_embeddings()._forward_hooks


def test_logits_are_found_in_every_form_of_an_output():
    model, batch = trained("bert"), batch_of("bert")
    with torch.no_grad():
        wanted = model(**batch).logits
        for inputs in (batch, model_inputs(batch)):
            assert torch.equal(logits_of(model(**inputs)), wanted)
            assert torch.equal(logits_of(model(**inputs, return_dict=False)), wanted)


@pytest.mark.parametrize("arch", TEXT)
def test_continuous_input_of_text_is_the_embedding_of_its_tokens(arch):
    model, inputs = trained(arch), model_inputs(batch_of(arch))
    x, mask = continuous_input(model, inputs)
    assert torch.equal(x, model.get_input_embeddings().weight[inputs["input_ids"]])
    assert torch.equal(mask[..., 0], inputs["attention_mask"].float())
    with torch.no_grad():
        assert torch.equal(classify(model, inputs, lambda _: x), classify(model, inputs))


def test_repeated_inputs_are_whole_copies_of_the_batch():
    inputs = model_inputs(batch_of("bert"))
    for key, value in repeat_inputs(inputs, 3).items():
        assert torch.equal(value, torch.cat([inputs[key]] * 3))
    images = repeat_inputs({"pixel_values": torch.randn(2, 3, 4, 4), "flag": True}, 2)
    assert torch.equal(images["pixel_values"][:2], images["pixel_values"][2:])
    assert images["flag"] is True


def test_eval_mode_restores_mixed_modes_even_after_an_error():
    model = build("resnet").train()
    model.classifier.eval()
    before = [m.training for m in model.modules()]
    assert any(before)
    assert not all(before)
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before
    with pytest.raises(ArithmeticError), eval_mode(model):
        raise ArithmeticError
    assert [m.training for m in model.modules()] == before


def test_unwrap_reaches_the_model_inside_its_wrappers():
    model = build("vit")
    wrapped = torch.nn.DataParallel(torch.nn.DataParallel(model))
    assert unwrap(wrapped) is model
    assert unwrap(model) is model


@pytest.mark.parametrize("arch", ["vit", "resnet", "convnext", "bert"])
def test_half_precision_models_take_full_precision_inputs(arch):
    model = build(arch).to(torch.bfloat16).eval()
    processor = Processor(model, processing_class(arch))
    inputs = model_inputs(processor.collate(list(data_for(arch, 4))))
    with torch.no_grad():
        plain = classify(model, inputs)
        x, _ = continuous_input(model, inputs)
        assert torch.equal(classify(model, inputs, replace_by(x.float())), plain)
    assert plain.dtype == torch.bfloat16


@pytest.mark.parametrize("arch", TEXT)
@pytest.mark.parametrize("given", [False, True])
def test_two_passes_by_length_give_the_logits_and_gradients_of_one(arch, given):
    model = trained(arch).train()
    processor, sizes = Processor(model, tokenizer()), []
    texts = ["w1 w2", "w3 w1 w5 w2 w9 w8 w7 w6", "w4", "w5 w6", "w6 w2 w3 w2 w1 w2 w9"]
    inputs = model_inputs(processor.collate([{"text": text} for text in texts]))
    inputs["attention_mask"][1, 3] = 0  # a hole shortens no text
    whole = classify(model, inputs)
    wanted = torch.autograd.grad(whole.logsumexp(-1).sum(), list(model.parameters()), allow_unused=True)
    handle = model.register_forward_pre_hook(
        lambda _m, _a, read: sizes.append(tuple(read["input_ids"].shape)), with_kwargs=True
    )
    parts = classify_by_length(model, inputs, continuous_input(model, inputs)[0] if given else None)
    found = torch.autograd.grad(parts.logsumexp(-1).sum(), list(model.parameters()), allow_unused=True)
    handle.remove()
    assert sizes == [(2, 10), (3, 4)]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(found, wanted, strict=True):
        if ours is None or (given and ours.shape[0] == model.config.vocab_size):
            continue  # no gradient goes behind what took the place of the embeddings
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "one length", "left"])
def test_pictures_and_texts_of_one_length_or_padded_on_the_left_take_one_pass(kind):
    model, calls = trained("vit" if kind == "vit" else "bert"), []
    inputs = model_inputs(batch_of("vit" if kind == "vit" else "bert"))
    if kind == "one length":
        inputs = {name: values[:, :4] for name, values in inputs.items()}  # no text is shorter
    elif kind == "left":
        inputs = {name: values.flip(1) for name, values in inputs.items()}
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(classify_by_length(model, inputs), classify(model, inputs))
    assert len(calls) == 2


def test_texts_that_pass_through_batch_norm_stay_together():
    model = trained("bert")
    model.dropout = torch.nn.BatchNorm1d(16)
    with torch.no_grad():
        inputs = model_inputs(batch_of("bert"))
        assert torch.equal(classify_by_length(model, inputs), classify(model, inputs))


# --- activation checkpointing -----------------------------------------------------------------------------------------


DECODERS = ("bart", "gpt2", "mt5")


def decoder(kind):
    """A classifier whose layers have dropout of their own, or keep keys and values."""
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=CLASSES, pad_token_id=0,
            bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        return transformers.GPT2ForSequenceClassification(config)
    if kind == "mt5":
        config = transformers.MT5Config(
            vocab_size=28, d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=32, dropout_rate=0.3, num_labels=CLASSES,
            pad_token_id=0, eos_token_id=3, decoder_start_token_id=3,
        )  # fmt: skip
        return transformers.MT5ForSequenceClassification(config)
    config = transformers.BartConfig(
        vocab_size=28, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, num_labels=CLASSES, dropout=0.3,
        activation_dropout=0.2, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    return transformers.BartForSequenceClassification(config)


def saved_bytes(compute):
    """What `compute` returns, and the bytes that autograd keeps for its backward pass outside of checkpoints."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return compute(), total


@pytest.mark.parametrize("update", ["all", "last:1", "head"])
@pytest.mark.parametrize("arch", ["vit", "swin", "bert", "distilbert", *DECODERS])
def test_checkpointed_layers_recompute_in_eval_mode_and_give_the_same_gradients(arch, update):
    dropped = {"dropout": 0.3} if arch in ("vit", "bert", "distilbert") else {}
    model = decoder(arch) if arch in DECODERS else build(arch, **dropped)
    restrict(model, updated_names(model, update))
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    checkpointed.disable_input_require_grads()
    batch = Processor(build("bert"), tokenizer()).collate(list(text_data(6))) if arch in DECODERS else batch_of(arch)

    def loss(m):
        with eval_mode(m):
            logits = classify(m, model_inputs(batch))
            with torch.no_grad():
                assert torch.allclose(classify(m, model_inputs(batch)), logits, atol=1e-5)
        return F.cross_entropy(logits, batch["labels"])

    results = []
    for m in (model, checkpointed):
        m.train()
        calls = []
        hooks = [
            x.register_forward_hook(lambda *_, c=calls: c.append(1))
            for n, x in m.named_modules()
            if "attention" in n.lower() or n.endswith("attn")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value, kept = saved_bytes(lambda m=m: loss(m))
            forward = len(calls)
            value.backward()
        assert all(x.training for x in m.modules())
        results.append((value.item(), kept, len(calls) - forward, {n: p.grad for n, p in m.named_parameters()}))
        for hook in hooks:
            hook.remove()
    (plain, all_kept, none, expected), (value, kept, recomputed, found) = results
    assert value == plain
    assert {n for n, g in expected.items() if g is not None} == {n for n, g in found.items() if g is not None}
    assert all(torch.equal(g, found[n]) for n, g in expected.items() if g is not None)
    assert none == 0
    if update == "head":
        assert (kept, recomputed) == (all_kept, 0)
    else:
        assert recomputed > 0
        assert kept < 0.5 * all_kept
    assert checkpointed.config.to_dict() == model.config.to_dict()


def test_eval_mode_leaves_a_checkpointed_model_as_it_was_after_an_error():
    model = build("vit").train()
    model.gradient_checkpointing_enable()
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    layers[0].forward = hooked = layers[0].forward  # as a hook of accelerate sets one

    def own():
        return [vars(m).get("forward") for m in layers]

    before = own()
    with eval_mode(model):
        assert None not in own()
        assert not any(m.training for m in model.modules())
    with pytest.raises(ArithmeticError), eval_mode(model):
        raise ArithmeticError
    assert own() == before == [hooked, *[None] * (len(layers) - 1)]
    with torch.no_grad(), eval_mode(model):
        assert own() == before
        assert not any(m.training for m in model.modules())
    with eval_mode(model, recompute=False):
        assert own() == before
        assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.modules())


def test_statistics_of_batches_do_not_move_in_a_recomputed_layer():
    class Normed(GradientCheckpointingLayer):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(x) ** 2

    model = transformers.PreTrainedModel(transformers.PretrainedConfig())
    model.layer = Normed()
    model.layer.gradient_checkpointing = True
    model.layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    model.train()
    before = model.layer.norm.running_mean.clone()
    with eval_mode(model):
        loss = model.layer(torch.randn(8, 4) + 3).sum()
    loss.backward()
    assert torch.equal(model.layer.norm.running_mean, before)
    assert model.layer.norm.weight.grad is not None


# --- BatchNorm over a single value ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lone", "usual"),
    [
        (torch.nn.BatchNorm1d, (1, 3), (2, 3)),
        (torch.nn.BatchNorm1d, (1, 3, 1), (1, 3, 2)),
        (torch.nn.BatchNorm2d, (1, 3, 1, 1), (1, 3, 2, 1)),
        (torch.nn.BatchNorm3d, (1, 3, 1, 1, 1), (4, 3, 1, 1, 1)),
    ],
)
def test_a_lone_value_is_normalized_by_the_running_statistics_and_all_else_is_as_usual(kind, lone, usual):
    norm = kind(3)
    norm(torch.randn(5, *usual[1:]) * 3 + 2)
    plain, x, one = copy.deepcopy(norm), torch.randn(usual), torch.randn(lone)
    mean, deviation = (
        b.clone().view(1, 3, *[1] * (len(lone) - 2)) for b in (norm.running_mean, norm.running_var.sqrt())
    )
    with pytest.raises(ValueError, match="more than 1 value"):
        copy.deepcopy(norm)(one)
    with lone_values_normalized(norm):
        assert torch.allclose(norm(one), (one - mean) / deviation, atol=1e-4)
        assert norm.training
        assert torch.equal(norm(x), plain(x))
        assert not changed(plain.state_dict(), norm.state_dict())  # only the usual call moved the statistics
        with eval_mode(norm):
            norm(one)
        with pytest.raises(RuntimeError):
            norm(one.long())  # an error inside the layer
        assert norm.training
    assert not norm._forward_hooks
    assert not norm._forward_pre_hooks


def test_a_recomputed_layer_with_a_lone_value_gives_the_same_gradients():
    layer = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.BatchNorm1d(4)
    )
    x, found = torch.randn(1, 4, requires_grad=True), []
    for recompute in (True, False):
        with lone_values_normalized(layer):
            y = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
            found.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
        assert all(m.training for m in layer.modules())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
