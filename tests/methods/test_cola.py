"""COLA: the contrastive loss of a whole step, and then plain training on retain rows."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import COLA, ForgetRequest
from hf_unlearn.methods.cola import contrastive
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.structure import find_last_layer
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.data import data_for
from tests.support.models import state, trained


def by_loops(z, labels, temperature):
    """Equation 2 of arXiv 2004.11362, row by row and pair by pair."""
    z = [row / row.norm() for row in z]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positive = [p for p in others if labels[p] == labels[i]]
        if positive:
            below = sum((z[i] @ z[a] / temperature).exp() for a in others)
            terms.append(-sum(((z[i] @ z[p] / temperature).exp() / below).log() for p in positive) / len(positive))
    return sum(terms) / len(terms)


def features(model, inputs):
    """What the last layer reads."""
    seen = []
    handle = find_last_layer(model).register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    return seen[0]


def test_the_contrastive_loss_is_the_published_one():
    torch.manual_seed(0)
    z, labels = torch.randn(9, 5), torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 2])
    torch.testing.assert_close(contrastive(z, labels, 0.2), by_loops(z, labels.tolist(), 0.2))
    assert contrastive(z, torch.arange(9), 0.2) == 0  # no row has another of its class


@pytest.mark.parametrize("kind", ["class", "samples"])
def test_steps_are_those_of_the_algorithm(tmp_path, kind):
    split = ForgetRequest(fraction=0.3).split(data_for("vit", 96)) if kind == "samples" else None
    trainer = run_of("vit", tmp_path, COLA(temperature=0.2), split=split, forget_kind=kind)
    original = trained("vit").eval()
    batches = recorded(trainer)

    def loss(model, batch, step):
        if step >= 2:  # half of four steps
            return F.cross_entropy(logits_of(model, batch["retain"]), batch["retain"]["labels"])
        z, labels = features(model, model_inputs(batch["retain"])), batch["retain"]["labels"]
        if kind == "samples":
            z = torch.cat([z, features(model, model_inputs(batch["forget"]))])
            scores = logits_of(original, batch["forget"]).detach()
            scores[torch.arange(len(scores)), batch["forget"]["labels"]] = -math.inf
            labels = torch.cat([labels, scores.argmax(-1)])
        return by_loops(z, labels.tolist(), 0.2)

    close(state(trainer.model), replayed(trained("vit").eval(), batches, loss))


def test_the_last_layer_waits_until_the_features_are_trained(tmp_path):
    trainer = run_of("vit", tmp_path, COLA(collapse=0.9))  # three of four steps
    last = find_last_layer(trainer.model)
    before, gradients = last.weight.detach().clone(), []
    trainer.method.adjust_gradients = lambda model: gradients.append(find_last_layer(model).weight.grad.norm().item())
    trainer.train()
    assert gradients[:3] == [0.0, 0.0, 0.0]
    assert gradients[3] > 0
    assert not torch.equal(before, last.weight)


@pytest.mark.parametrize(
    ("settings", "message"), [({"collapse": 1.0}, "in \\(0, 1\\)"), ({"temperature": 0.0}, "above 0")]
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        COLA(**settings)
