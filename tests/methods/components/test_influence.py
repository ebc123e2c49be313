"""Influence functions: per-sample gradients against a loop, the predicted displacement against real retraining."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from hf_unlearn.methods.components.influence import Sample, SampleGradients, influence, mean_gradients
from hf_unlearn.models.processor import Processor
from tests.methods.support import distance
from tests.support.data import data_for, processing_class
from tests.support.models import changed, state, trained
from tests.support.tables import slow

pytestmark = pytest.mark.slow  # together too long for the quick tests


class Logistic(nn.Module):
    """Logistic regression on 16 inputs, as a classifier of two classes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 1)

    def forward(self, pixel_values):
        z = self.linear(pixel_values.flatten(1))
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(z), z], -1))


def logistic_rows(n, seed):
    """Random inputs with noisy labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator)
    weights = 0.5 * torch.randn(16, generator=torch.Generator().manual_seed(7))
    return {
        "pixel_values": x,
        "labels": torch.bernoulli((x.flatten(1) @ weights).sigmoid(), generator=generator).long(),
    }


def rows_of(batch):
    return [{k: v[i] for k, v in batch.items()} for i in range(len(batch["labels"]))]


def collate(rows):
    return {k: torch.stack([r[k] for r in rows]) for k in rows[0]}


def minimised(model, *batches):
    """The exact solution on all rows, from the model's own start."""
    x, y = (torch.cat([b[k] for b in batches]) for k in ("pixel_values", "labels"))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).logits, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.fixture(scope="module", params=[0, 1, 2])
def solved(request):
    """(model at its minimum over all rows, forget rows, retain rows, weights of the exact retraining)."""
    torch.manual_seed(request.param)
    forget, retain = logistic_rows(60, 10 * request.param + 1), logistic_rows(4_000, 10 * request.param + 2)
    model, other = Logistic(), Logistic()
    minimised(model, forget, retain)
    return model, forget, retain, minimised(other, retain)


def exact_displacement(model, displacement, precision, retain):
    """The displacement with the exact Hessian on the retain rows in the place of the diagonal Fisher information."""
    names, sizes = list(displacement), [d.numel() for d in displacement.values()]

    def loss(vector):
        pieces = {n: v.view_as(displacement[n]) for n, v in zip(names, vector.split(sizes), strict=True)}
        logits = torch.func.functional_call(model, pieces, (retain["pixel_values"],)).logits
        return F.cross_entropy(logits, retain["labels"])

    hessian = torch.autograd.functional.hessian(loss, torch.cat([p.flatten() for p in state(model).values()]))
    gradient = torch.cat([(displacement[n] * precision[n]).flatten() for n in names])
    solved = torch.linalg.solve(hessian + 1e-6 * torch.eye(len(hessian)), gradient)
    return {n: v.view_as(displacement[n]) for n, v in zip(names, solved.split(sizes), strict=True)}


@pytest.mark.parametrize(("curvature", "left"), [("diagonal", 0.3), ("exact", 0.05)])
def test_displacement_leads_to_the_retrained_solution(solved, curvature, left):
    model, forget, retain, retrained = solved
    before = state(model)
    samples = (Sample(rows_of(side), collate, cap=5_000) for side in (forget, retain))
    displacement, precision = influence(model, list(before), *samples, damping=1e-4)
    move = displacement if curvature == "diagonal" else exact_displacement(model, displacement, precision, retain)
    moved = {n: before[n] + move[n] for n in before}
    opposite = {n: before[n] - move[n] for n in before}
    start = distance(before, retrained)
    assert start > 0.01
    assert distance(moved, retrained) <= left * start
    assert distance(opposite, retrained) > 1.5 * start
    assert not changed(before, state(model))


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", *slow("swin", "convnext", "distilbert", "roberta")])
def test_many_samples_at_once_work_on_every_architecture(arch, caplog):
    with caplog.at_level(logging.WARNING):
        gradients_of(arch, 0.0)
    assert "one after another" not in caplog.text


def gradients_of(arch, dropout, n=24, **settings):
    model = trained(arch, dropout).train()
    processor = Processor(model, processing_class(arch))
    batch = processor.collate([processor(row) for row in data_for(arch, n)])
    before = state(model)
    gradients = SampleGradients(model, [n for n, _ in model.named_parameters()], **settings)
    parts = list(gradients(batch))
    assert not changed(before, state(model))  # BatchNorm statistics stay
    assert model.training
    return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}


@pytest.mark.parametrize(("arch", "dropout"), [("vit", 0.1), ("resnet", 0.0), ("bert", 0.1), ("roberta", 0.1)])
def test_per_sample_fisher_equals_a_loop_over_single_samples(arch, dropout):
    model = trained(arch, dropout).eval()
    processor = Processor(model, processing_class(arch))
    rows = [processor(row) for row in data_for(arch, 24)]
    loop = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        model(**processor.collate([row])).loss.backward()
        for n, p in model.named_parameters():
            loop[n] += p.grad.square() / len(rows)
    gradients = gradients_of(arch, dropout)
    error = sum((gradients[n].square().mean(0) - loop[n]).square().sum() for n in loop).sqrt()
    assert error <= 1e-5 * sum(f.square().sum() for f in loop.values()).sqrt()


def test_gradients_without_vectorising_are_the_same_and_the_log_says_why(caplog):
    fast, slow = gradients_of("vit", 0.1), gradients_of("vit", 0.1, vectorise=False)
    for name, gradient in fast.items():
        assert torch.allclose(gradient, slow[name], atol=1e-5), name

    class Branching(Logistic):
        def forward(self, pixel_values):
            return super().forward(pixel_values if pixel_values.sum().item() > 0 else -pixel_values)

    with caplog.at_level(logging.WARNING):
        parts = list(SampleGradients(Branching(), ["linear.weight"])(logistic_rows(5, 0)))
    assert parts[0]["linear.weight"].shape == (5, 1, 16)
    assert "one after another" in caplog.text


SIZES = {
    "vocab_size": 28,
    "num_labels": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("opt", {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16}),
        ("longformer", {"hidden_size": 16, "intermediate_size": 32, "attention_window": [4]}),
        ("xlm", {"emb_dim": 16, "n_layers": 1, "n_heads": 2}),
        ("big_bird", {"hidden_size": 16, "intermediate_size": 32, "attention_type": "original_full"}),
    ],
)
def test_influence_of_models_that_take_no_other_mask_or_return_expanded_gradients(kind, sizes):
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **sizes, "pad_token_id": 0})
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    processor = Processor(model, processing_class("bert"))
    rows, names = [processor(row) for row in data_for("bert", 4)], [n for n, _ in model.named_parameters()]
    move, fisher = influence(model, names, Sample(rows[:2], processor.collate), Sample(rows[2:], processor.collate))
    batch = processor.collate(rows[2:])
    squares = dict.fromkeys(names, 0.0)
    for i in range(2):
        model.zero_grad()
        model(**{k: v[i : i + 1] for k, v in batch.items()}).loss.backward()
        squares = {
            n: squares[n] + (0.0 if p.grad is None else p.grad.square() / 2) for n, p in model.named_parameters()
        }
    found = torch.cat([fisher[n].flatten() for n in names])
    wanted = torch.cat([torch.zeros_like(fisher[n]).add(squares[n]).flatten() for n in names])
    assert torch.allclose(found - wanted, (found - wanted).mean().expand_as(found), rtol=1e-3, atol=1e-6)  # the damping
    assert all(torch.isfinite(m).all() for m in move.values())


def test_gradients_of_a_model_that_returns_tuples_are_the_same(caplog):
    model = trained("bert")
    processor = Processor(model, processing_class("bert"))
    batch, found = processor.collate([processor(row) for row in data_for("bert", 6)]), []
    for returned in (True, False):
        model.config.return_dict = returned
        found += SampleGradients(model, ["classifier.weight", "bert.pooler.dense.weight"])(batch)
    assert not changed(*found)
    assert "one after another" not in caplog.text


def test_gradients_of_a_causal_model_with_padding():
    """Its mask must not be replaced by one that lets words see what follows."""
    config = transformers.GPT2Config(
        vocab_size=28, n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=4, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    processor = Processor(model, processing_class("bert"))
    rows = [processor(row) for row in data_for("bert", 6)]
    found = next(iter(SampleGradients(model, ["score.weight", "transformer.wte.weight"])(processor.collate(rows))))
    for i, row in enumerate(rows):
        model.zero_grad()
        model(**processor.collate([row])).loss.backward()
        for name, gradient in found.items():
            assert torch.allclose(gradient[i], model.get_parameter(name).grad, atol=1e-5), name


def test_a_sample_is_capped_seeded_and_in_order():
    def read(**settings):
        sample = Sample(list(range(100)), lambda rows: {"x": torch.tensor(rows)}, batch_size=8, **settings)
        return torch.cat([b["x"] for b in sample.batches("cpu")]).tolist()

    assert read() == list(range(100))
    assert len(read(cap=20)) == 20
    assert read(cap=20) == sorted(read(cap=20)) == read(cap=20)
    assert read(cap=20) != read(cap=20, seed=1)


def test_mean_gradients_are_those_of_the_mean_loss():
    processor = Processor(trained("vit"), processing_class("vit"))
    rows = [processor(row) for row in data_for("vit", 12)]
    model = trained("vit").eval()
    names = [n for n, _ in model.named_parameters()]
    found = mean_gradients(model, names, Sample(rows, processor.collate, cap=12, batch_size=5))
    batch = processor.collate(rows)
    F.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
