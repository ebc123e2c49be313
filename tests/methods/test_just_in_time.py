"""JiT against a restatement of the authors' loop, its closed-form gradient, and its hazards."""

import math
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from hf_unlearn import JiT
from hf_unlearn.data.pairs import sample_seed
from hf_unlearn.methods.just_in_time import gaussian_like
from hf_unlearn.models.forward import continuous_input, model_inputs
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.reference import Reference
from tests.support.data import CLASSES, SIZE, class_split, data_for, pixels, text_data, tokenizer
from tests.support.models import build, changed, state, trained
from tests.support.runs import forget_batch, trainer_for


def official(model, batches, seeds, sigma, copies, learning_rate, zero_gradients):
    """The authors' loop: one pass in the given order, train mode, sum over samples, mean over copies, plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for x, batch_seeds in zip(batches, seeds, strict=True):
        generators = [torch.Generator().manual_seed(s) for s in batch_seeds]
        model.train()
        out, loss = model(pixel_values=x).logits, 0.0
        for _ in range(copies):
            noise = gaussian_like(x, torch.ones(()), generators)
            noisy = torch.clamp(x + sigma * noise, x.min(), x.max())
            with torch.no_grad():
                out_noisy = model(pixel_values=noisy).logits
            rise = torch.linalg.vector_norm(out - out_noisy, dim=-1)
            loss = loss + (rise / torch.linalg.vector_norm((x - noisy).flatten(1), dim=-1)).sum()
        if zero_gradients:
            optimizer.zero_grad()
        (loss / copies).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "resnet", "convnext", "swin"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_paper_arguments_reproduce_the_official_loop_bit_for_bit(tmp_path, momentum, arch):
    preset = JiT.paper_arguments("full_class", "vit", momentum=momentum)
    sigma, copies, learning_rate, size = 0.3, 4, 1e-4, 8
    split = class_split(arch, 80)
    model, expected = trained(arch), trained(arch)
    trainer = trainer_for(
        arch,
        tmp_path,
        replace(preset["method"], sigma=sigma, num_perturbations=copies),
        model=model,
        split=split,
        retain=False,
        **{**preset["arguments"], "learning_rate": learning_rate, "per_device_train_batch_size": size, "seed": 11},
    )
    trainer.train()
    x = torch.from_numpy(np.asarray(split.forget.with_format("numpy")["pixel_values"][:], dtype=np.float32))
    seeds = [sample_seed(11, 0, i) for i in range(len(x))]
    at = range(0, len(x), size)
    official(
        expected,
        [x[i : i + size] for i in at],
        [seeds[i : i + size] for i in at],
        sigma,
        copies,
        learning_rate,
        momentum == 0,
    )
    assert trainer.state.global_step == 3
    assert changed(state(trained(arch)), state(expected))
    assert not changed(state(expected), state(model))


@pytest.mark.parametrize(
    ("task", "network", "sigma", "learning_rate", "batch"),
    [
        ("full_class", "vgg11", 0.5, 3e-4, 128),
        ("full_class", "vit", 0.8, 1.5, 128),
        ("sub_class", "vgg11", 0.01, 3e-4, 64),
        ("sub_class", "vit", 1.5, 0.5, 64),
        ("random", "vgg11", 0.01, 3e-4, 128),
        ("random", "vit", 0.5, 0.1, 128),
    ],
)
def test_paper_arguments_are_those_of_the_paper(task, network, sigma, learning_rate, batch):
    preset = JiT.paper_arguments(task, network)
    method, arguments = preset["method"], preset["arguments"]
    assert (method.sigma, arguments["learning_rate"], arguments["per_device_train_batch_size"]) == (
        sigma,
        learning_rate,
        batch,
    )
    assert (method.reduction, method.mode, method.clamp) == ("sum", "train", "batch")
    assert (method.outputs, method.precision, method.anchors) == ("all", "float32", False)
    assert not method.relative
    assert not method.remembered_only
    assert (arguments["momentum"], arguments["optim"], arguments["update"]) == (1.0, "sgd", "all")
    with pytest.raises(ValueError, match="`task='whole'`"):
        JiT.paper_arguments("whole", network)


def ready(method, sigma=0.5, low=-1.0, high=1.0, forgotten=(), model=None):
    """The method after `setup`, σ in the inputs' own units, for calls of `loss` without a trainer."""
    method.sigma = sigma
    logits = torch.zeros(8, CLASSES)
    trainer = SimpleNamespace(
        reference=Reference(logits, None, forgotten, input_min=low, input_max=high, input_std=1.0),
        args=SimpleNamespace(world_size=1),
        model=model,
    )
    method.setup(trainer)
    return method


def faithful(**settings):
    """The published estimator."""
    published = {
        "remembered_only": False,
        "relative": False,
        "reduction": "sum",
        "outputs": "all",
        "precision": "float32",
    }
    return JiT(**{**published, "num_perturbations": 6, **settings})


def outputs_of(model):
    """Every logits tensor the model gives, with its gradient kept."""
    seen = []

    def hook(_module, _inputs, output):
        if output.logits.requires_grad:
            output.logits.retain_grad()
        seen.append(output.logits)

    return seen, model.register_forward_hook(hook)


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
def test_gradient_at_the_output_is_the_closed_form(arch):
    model, batch, method = trained(arch).double(), forget_batch(arch, dtype=torch.float64), ready(faithful())
    seen, handle = outputs_of(model)
    terms = method.loss(model, batch, None)
    sum(terms.values()).backward()
    handle.remove()
    noisy, d = method.perturbed_logits(model, model_inputs(batch["forget"]), batch["seed"])
    clean, noisy, d = seen[0].detach().double().requires_grad_(), noisy.double(), d.double()

    difference = clean - noisy  # (N, B, classes)
    r = difference.norm(dim=-1)
    closed_form = (difference / (r * d)[..., None]).mean(0).detach()
    (r / d).sum(1).mean().backward()
    assert torch.allclose(closed_form, clean.grad, rtol=1e-12, atol=1e-12 * closed_form.abs().max().item())
    assert torch.allclose(seen[0].grad.double(), closed_form, rtol=1e-4, atol=1e-5 * closed_form.abs().max().item())
    assert sum(terms.values()).item() == pytest.approx((r / d).sum(1).mean().item(), rel=1e-5)


def test_only_the_clean_forward_has_a_gradient():
    model, batch = trained("vit"), forget_batch("vit")
    seen, handle = outputs_of(model)
    ready(faithful(rows_per_forward=16)).loss(model, batch, None)["flatness"].backward()
    handle.remove()
    assert [logits.requires_grad for logits in seen] == [True, False, False, False]
    assert [len(logits) for logits in seen] == [8, 16, 16, 16]


@pytest.mark.parametrize("arch", ["vit", "bert"])
@pytest.mark.parametrize("rows", [1, 16, 32, 1000])
def test_stacking_copies_changes_nothing(arch, rows):
    model, batch = trained(arch), forget_batch(arch)
    noisy, distance = ready(faithful(rows_per_forward=8)).perturbed_logits(
        model, model_inputs(batch["forget"]), batch["seed"]
    )
    stacked = ready(faithful(rows_per_forward=rows)).perturbed_logits(
        model, model_inputs(batch["forget"]), batch["seed"]
    )
    assert noisy.shape == (6, 8, CLASSES)
    assert torch.allclose(stacked[0], noisy, atol=1e-5)
    assert torch.allclose(stacked[1], distance, rtol=1e-6)


def test_distances_are_those_after_clamping_to_the_chosen_range():
    model, batch = trained("vit"), forget_batch("vit")
    inputs = model_inputs(batch["forget"])
    x = inputs["pixel_values"]
    for clamp, (low, high) in {"batch": (x.min(), x.max()), "dataset": (-0.2, 0.1)}.items():
        method = ready(faithful(clamp=clamp), sigma=2.0, low=-0.2, high=0.1)
        _, distance = method.perturbed_logits(model, inputs, batch["seed"])
        generators = [torch.Generator().manual_seed(s) for s in batch["seed"].tolist()]
        for j in range(6):
            noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
            moved = (x + 2.0 * noise).clamp(low, high)
            assert torch.allclose(distance[j], (x - moved).flatten(1).norm(dim=1), rtol=1e-5)


# --- noise ------------------------------------------------------------------------------------------------------------


def generators(seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    x, one = torch.zeros(4, 3, 5, 5), torch.ones(())
    together = gaussian_like(x, one, generators([4, 5, 6, 7]))
    assert torch.equal(gaussian_like(x[:1], one, generators([6]))[0], together[2])
    assert torch.equal(gaussian_like(x[:2], one, generators([7, 4])), together[[3, 0]])
    assert abs(gaussian_like(torch.zeros(1, 3, 200, 200), one, generators([0])).std().item() - 1) < 0.02


@pytest.mark.parametrize("side", ["right", "left"])
def test_noise_of_a_sentence_does_not_depend_on_padding_and_is_zero_there(side):
    lengths, width = [3, 5, 1], 4
    masks = {t: torch.zeros(3, t, 1) for t in (5, 9)}
    for t, mask in masks.items():
        for row, n in zip(mask, lengths, strict=True):
            row[slice(0, n) if side == "right" else slice(t - n, t)] = 1
    drawn = {t: gaussian_like(torch.zeros(3, t, width), mask, generators([1, 2, 3])) for t, mask in masks.items()}
    for i, n in enumerate(lengths):
        short, long = (drawn[t][i][masks[t][i, :, 0] > 0] for t in (5, 9))
        assert short.shape == (n, width)
        assert torch.equal(short, long)
        assert (drawn[9][i][masks[9][i, :, 0] == 0] == 0).all()
        assert (short != 0).all()


@pytest.mark.parametrize("arch", ["bert", "distilbert", "roberta"])
def test_loss_of_a_sentence_does_not_depend_on_the_length_of_its_neighbours(arch):
    model = trained(arch)
    processor, method = Processor(model, tokenizer()), ready(faithful())
    rows = [processor(r) for r in text_data(12)]
    rows.sort(key=lambda r: len(r["input_ids"]))
    assert len(rows[0]["input_ids"]) < len(rows[-1]["input_ids"])
    batch = processor.collate(rows)
    seeds = torch.arange(12)
    together, distance = method.perturbed_logits(model, model_inputs(batch), seeds)
    for i in (0, 5, 11):
        alone, distance_alone = method.perturbed_logits(
            model, model_inputs(processor.collate(rows[i : i + 1])), seeds[i : i + 1]
        )
        assert torch.allclose(alone[:, 0], together[:, i], atol=1e-5)
        assert torch.allclose(distance_alone[:, 0], distance[:, i], rtol=1e-5)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_relative_sigma_is_in_units_of_the_inputs_own_deviation(tmp_path, arch):
    split = class_split(arch)
    method = JiT(sigma=0.7, num_perturbations=2)
    trainer = trainer_for(arch, tmp_path, method, split=split, retain=False)
    model = trained(arch)
    batch = trainer.processor.collate(list(split.forget))
    x, mask = continuous_input(model, model_inputs(batch))
    real = x[mask.expand_as(x) > 0].double()
    trainer.train()
    assert trainer.reference.input_std == pytest.approx(real.std(correction=0).item(), rel=1e-6)
    assert (trainer.reference.input_min, trainer.reference.input_max) == (real.min().item(), real.max().item())
    assert trainer.method._sigma == pytest.approx(0.7 * real.std(correction=0).item(), rel=1e-6)


# --- hazards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="`sigma`"):
        JiT(sigma=sigma)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_perturbations": 0}, "`num_perturbations`"),
        ({"rows_per_forward": 0}, "`rows_per_forward`"),
        ({"outputs": "some"}, "`outputs='some'`"),
        ({"precision": "int8"}, "`precision='int8'`"),
        ({"clamp": "image"}, "`clamp='image'`"),
        ({"reduction": "none"}, "`reduction='none'`"),
        ({"mode": "test"}, "`mode='test'`"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, match):
    with pytest.raises(ValueError, match=match):
        JiT(**settings)


def loss_and_gradients(method, batch, model=None):
    model = trained("vit") if model is None else model
    loss = method.loss(model, batch, None)["flatness"]
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("sigma", [1e-30, 1e-12, 1e-8, 1e-4])
def test_vanishing_noise_gives_no_nan(sigma):
    loss, gradients = loss_and_gradients(ready(faithful(), sigma=sigma), forget_batch("vit"))
    assert math.isfinite(loss)
    assert torch.isfinite(gradients).all()
    if sigma == 1e-30:  # every copy equals its original
        assert loss == 0
        assert not gradients.any()


def test_constant_images_give_no_nan():
    batch = forget_batch("vit")
    batch["forget"]["pixel_values"][2:4] = 0.25
    loss, gradients = loss_and_gradients(ready(faithful(clamp="batch")), batch)
    assert math.isfinite(loss)
    assert torch.isfinite(gradients).all()
    batch["forget"]["pixel_values"][:] = 0.25  # the batch's own range is a point: no copy can move
    loss, gradients = loss_and_gradients(ready(faithful(clamp="batch")), batch)
    assert loss == 0
    assert not gradients.any()


def test_equal_outputs_give_a_zero_gradient():
    model = trained("vit")
    with torch.no_grad():
        model.classifier.weight.zero_()
    loss, gradients = loss_and_gradients(ready(faithful()), forget_batch("vit"), model)
    assert loss == 0
    assert not gradients.any()


def test_a_forget_set_of_one_colour_is_refused(tmp_path):
    constant = datasets.Dataset.from_dict(
        {"pixel_values": np.full((8, 3, SIZE, SIZE), 0.5, dtype=np.float32), "label": [1] * 8},
        features=data_for("vit").remove_columns("group").features,
    )
    split = class_split("vit")
    trainer = trainer_for("vit", tmp_path, JiT(), split=replace(split, forget=constant), retain=False)
    with pytest.raises(ValueError, match=r"`forget_dataset`.*constant"):
        trainer.train()


def test_saturated_images_stay_inside_the_range():
    batch = forget_batch("vit")
    batch["forget"]["pixel_values"] = torch.from_numpy(np.sign(pixels(8)))
    loss, gradients = loss_and_gradients(ready(faithful(), sigma=50.0), batch)
    assert math.isfinite(loss)
    assert torch.isfinite(gradients).all()


# --- our variants -----------------------------------------------------------------------------------------------------


def reference_for(batch, model):
    with torch.no_grad():
        return Reference(model(**model_inputs(batch["forget"])).logits, batch["forget"]["labels"], (1,))


def test_mean_over_the_batch_is_the_sum_divided_by_its_size():
    model, batch = trained("vit"), forget_batch("vit")
    total, mean = (ready(faithful(reduction=r)).loss(model, batch, None)["flatness"].item() for r in ("sum", "mean"))
    assert mean == pytest.approx(total / 8, rel=1e-6)


def test_relative_distance_is_in_units_of_the_expected_length_of_the_noise():
    model, batch = trained("bert"), forget_batch("bert")
    inputs = model_inputs(batch["forget"])
    _, own = ready(faithful()).perturbed_logits(model, inputs, batch["seed"])
    _, relative = ready(faithful(relative=True)).perturbed_logits(model, inputs, batch["seed"])
    dimensions = inputs["attention_mask"].sum(1) * model.config.hidden_size
    assert torch.allclose(relative, own / (0.5 * dimensions.sqrt()), rtol=1e-5)
    assert abs(relative.mean().item() - 1) < 0.05


@pytest.mark.parametrize("arch", ["vit", "bert"])
@pytest.mark.parametrize("forgotten", [(1,), (0, 3), ()])
def test_a_request_narrows_the_gradient_to_the_logits_it_is_about(arch, forgotten):
    model, batch = trained(arch), forget_batch(arch)
    gradients, values = {}, {}
    for outputs in ("all", "auto"):
        seen, handle = outputs_of(model)
        reference = Reference(torch.zeros(1, CLASSES), None, forgotten)
        loss = ready(faithful(outputs=outputs), forgotten=forgotten).loss(model, batch, reference)["flatness"]
        loss.backward()
        handle.remove()
        gradients[outputs], values[outputs] = seen[0].grad, loss.item()
    expected = torch.zeros_like(gradients["all"])
    if forgotten:
        expected[:, list(forgotten)] = gradients["all"][:, list(forgotten)].abs()
    else:  # single samples: v at the predicted class
        predicted = torch.arange(len(expected)), seen[0].argmax(-1)
        expected[predicted] = gradients["all"][predicted]
    assert torch.allclose(gradients["auto"], expected, rtol=1e-5, atol=1e-7)
    assert values["auto"] == pytest.approx(values["all"], rel=1e-5)


def test_half_precision_copies_follow_the_weights_and_are_close():
    model, batch = trained("vit"), forget_batch("vit")
    inputs = model_inputs(batch["forget"])
    half, full = ready(faithful(precision="bfloat16"), model=model), ready(faithful())
    for scale in (1.0, 0.5):
        with torch.no_grad():
            model.classifier.weight.mul_(scale)
        low, high = (m.perturbed_logits(model, inputs, batch["seed"])[0] for m in (half, full))
        assert low.dtype == torch.float32
        assert not torch.equal(low, high)
        assert (low - high).norm() < 0.03 * high.norm()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_samples_that_are_forgotten_have_no_gradient():
    model, batch = trained("vit"), forget_batch("vit")
    reference = reference_for(batch, model)
    remembered = reference.remembered(reference.logits, batch["index"])
    assert remembered.tolist() == (reference.logits.argmax(-1) == 1).tolist()
    assert 0 < remembered.sum() < 8
    seen, handle = outputs_of(model)
    ready(faithful(remembered_only=True)).loss(model, batch, reference)["flatness"].backward()
    handle.remove()
    assert (seen[0].grad.abs().sum(-1) > 0).tolist() == remembered.tolist()
    everything = ready(faithful()).loss(model, batch, reference)["flatness"]
    chosen = {k: v[remembered] for k, v in batch["forget"].items()}
    part = ready(faithful()).loss(model, {"forget": chosen, "seed": batch["seed"][remembered]}, reference)["flatness"]
    ours = ready(faithful(remembered_only=True)).loss(model, batch, reference)["flatness"]
    assert ours.item() == pytest.approx(part.item(), rel=1e-5)
    assert ours.item() < everything.item()


def test_a_batch_without_remembered_samples_moves_nothing():
    model, batch = trained("vit"), forget_batch("vit")
    reference = Reference(reference_for(batch, model).logits, None, (1,))
    with torch.no_grad():
        model.classifier.bias[1] = -1e4
    loss = ready(faithful(remembered_only=True)).loss(model, batch, reference)["flatness"]
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_eval_mode_is_used_and_the_former_modes_come_back():
    model, batch = trained("resnet").train(), forget_batch("resnet")
    model.resnet.embedder.eval()
    before = [m.training for m in model.modules()]
    statistics = {n: b.clone() for n, b in model.named_buffers()}
    ready(faithful()).loss(model, batch, None)
    assert [m.training for m in model.modules()] == before
    assert all(torch.equal(b, statistics[n]) for n, b in model.named_buffers())
    ready(faithful(mode="train")).loss(model, batch, None)
    assert any(not torch.equal(b, statistics[n]) for n, b in model.named_buffers())


def test_untrained_model_can_be_flattened_too(tmp_path):
    trainer = trainer_for(
        "vit", tmp_path, JiT(num_perturbations=2, remembered_only=False), model=build("vit"), retain=False
    )
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_sum_over_accumulated_batches_is_that_of_one_batch_in_the_last_group_too(tmp_path):
    split, after = class_split("vit", 96), []
    assert len(split.forget) == 24
    for batch, parts in ((16, 1), (8, 2)):
        method = JiT(num_perturbations=2, reduction="sum", remembered_only=False, anchors=False)
        trainer = trainer_for(
            "vit", tmp_path / str(parts), method, split=split, retain=False, per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts, update="all", num_train_epochs=1.0, max_steps=-1, trust_region=0.0,
            optim="sgd", learning_rate=1e-3, lr_scheduler_type="constant", max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        assert trainer.outcome.steps == 2
        after.append(state(trainer.model))
    assert all(torch.allclose(after[0][name], after[1][name], atol=1e-6) for name in after[0])
