"""Relearning takes the steps of a plain loop with Adam."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn.evaluation.relearning import relearn
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, processing_class
from tests.support.models import changed, state, trained


def parts(arch, model):
    processor = Processor(model, processing_class(arch))
    rows = [processor(row) for row in class_split(arch, 80).forget]
    return processor, rows[:10], rows[10:]


def brute_force(model, processor, rows, probe, accuracy, learning_rate, limit):
    batch, test = processor.collate(rows), processor.collate(probe)
    optimiser = torch.optim.Adam(model.eval().parameters(), lr=learning_rate)
    for step in range(limit):
        with torch.no_grad():
            right = (model(**test).logits.argmax(-1) == test["labels"]).float().mean().item()
        if right >= accuracy:
            return step
        optimiser.zero_grad()
        F.cross_entropy(model(**batch).logits, batch["labels"]).backward()
        optimiser.step()
    return limit


def relearning_steps(model, rows, probe, processor, stop, limit=200, **settings):
    """Steps until the accuracy is back; `limit` where it never is."""
    path = list(relearn(model, rows, probe, processor, stop=stop, limit=limit - 1, **settings))
    assert [step for step, _ in path] == list(range(len(path)))
    return path[-1][0] if path[-1][1] >= stop else limit


def forgetful(arch):
    """A trained model whose class 1 is turned off at the head alone: hidden, not forgotten."""
    model = trained(arch)
    processor, rows, probe = parts(arch, model)
    with torch.no_grad():
        logits = model(**processor.collate(rows + probe)).logits
        margin = logits[:, 1] - logits[:, [0, 2, 3]].amax(-1)
        [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1].bias[1] -= margin.max() + 0.5
    return model


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
def test_steps_are_those_of_a_plain_adam_loop(arch):
    model = forgetful(arch).train()
    processor, rows, probe = parts(arch, model)
    expected = brute_force(forgetful(arch), processor, rows, probe, 0.9, 5e-3, 200)
    assert 0 < expected < 200
    before, gradients = state(model), [p.grad for p in model.parameters()]
    assert relearning_steps(model, rows, probe, processor, 0.9, learning_rate=5e-3) == expected
    assert not changed(before, state(model))
    assert [p.grad for p in model.parameters()] == gradients
    assert model.training


def test_model_that_still_knows_needs_no_step():
    hidden = forgetful("vit")
    processor, rows, probe = parts("vit", hidden)
    steps = [relearning_steps(m, rows, probe, processor, 0.9, learning_rate=2e-3) for m in (trained("vit"), hidden)]
    assert steps[0] == 0
    assert steps[1] > 0


def test_limit_is_returned_where_the_class_never_comes_back_and_frozen_models_are_relearned_too():
    model = forgetful("vit")
    processor, rows, probe = parts("vit", model)
    assert relearning_steps(model, rows, probe, processor, 0.9, learning_rate=1e-9, limit=4) == 4
    model.requires_grad_(False)
    assert 0 < relearning_steps(model, rows, probe, processor, 0.9, learning_rate=5e-3) < 200
    assert not any(p.requires_grad for p in model.parameters())


def test_rows_without_labels_are_refused():
    model = forgetful("vit")
    processor, rows, probe = parts("vit", model)
    bare = [{"pixel_values": r["pixel_values"]} for r in rows]
    for given in ((bare, probe), (rows, bare)):
        with pytest.raises(ValueError, match="need labels"):
            relearning_steps(model, *given, processor, 0.9)
