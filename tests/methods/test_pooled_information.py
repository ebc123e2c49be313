"""Mean outputs pooled over micro-batches: value and gradient of the whole batch, whatever the parts."""

from dataclasses import dataclass

import pytest
import torch

from hf_unlearn.methods.components.pooled_sums import class_sums, means
from hf_unlearn.methods.pooled_information import PooledInformation
from hf_unlearn.metrics.functional.information import group_information


@dataclass(kw_only=True)
class OnLogits(PooledInformation):
    """The information between the prediction and the group, for batches that hold their logits."""

    def logits(self, model, batch):
        return batch["logits"]

    def own_sums(self, logits, batch):
        return class_sums(logits.softmax(-1), batch["group"], 2)

    def loss(self, model, batch, reference):
        return {
            "information": self.term(group_information(*means(self.pooled(self.logits(model, batch), batch))), batch)
        }


def rows(n=24):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(2, (n,), generator=generator)


def by_definition(logits, group):
    joint = torch.stack([logits.softmax(-1)[group == k].sum(0) for k in (0, 1)]) / len(logits)
    return (joint * (joint / (joint.sum(0) * joint.sum(1, keepdim=True))).log()).sum()


def ready(**settings):
    method = OnLogits(**settings)
    method.setup(None)
    return method


@pytest.mark.parametrize("cuts", [[24], [12, 12], [20, 4], [8, 8, 8]])
def test_parts_of_a_step_have_the_value_and_the_gradient_of_the_whole(cuts):
    logits, group = rows()
    (expected,) = torch.autograd.grad(by_definition(logits, group), logits)
    parts = zip(logits.split(cuts), group.split(cuts), strict=True)
    batches = [{"logits": x, "group": g, "share": len(x) / 24} for x, g in parts]
    method, gradient = ready(), torch.zeros_like(logits)
    method.before_step(None, batches)
    for batch in batches:
        term = method.loss(None, batch, None)["information"]
        assert term.item() == pytest.approx(by_definition(logits, group).item(), abs=1e-12)
        gradient += torch.autograd.grad(batch["share"] * term, logits)[0]
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_a_batch_that_only_fills_up_counts_nothing():
    logits, group = rows()
    whole, filler = (
        {"logits": logits, "group": group, "share": 1.0},
        {"logits": 9 * logits, "group": group, "share": 0.0},
    )
    method = ready()
    method.before_step(None, [whole, filler])
    values = [method.loss(None, b, None)["information"] for b in (whole, filler)]
    assert values[0].item() == pytest.approx(by_definition(logits, group).item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(values[1], logits)
    assert not gradient.any()


def test_the_past_goes_on_after_a_checkpoint():
    method, again = ready(memory=0.5), ready(memory=0.5)
    logits, group = rows()
    batch = {"logits": logits, "group": group}
    method.loss(None, batch, None)
    assert not method.state()
    method.adjust_gradients(None)
    again.load_state(method.state())
    other = {"logits": 3 * logits.detach().float(), "group": 1 - group}
    values = [m.loss(None, other, None)["information"].item() for m in (method, again)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] != pytest.approx(by_definition(other["logits"], other["group"]).item(), rel=1e-2)


@pytest.mark.parametrize("memory", [-0.1, 1.0, float("nan")])
def test_memory_outside_its_range_is_refused(memory):
    with pytest.raises(ValueError, match="`memory`"):
        OnLogits(memory=memory)
