"""SSD: importances by brute force, and the rule that shrinks weights, written again."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import SelectiveSynapticDampening
from hf_unlearn.methods.selective_synaptic_dampening import adaptive_selection, dampened_share
from tests.methods.baselines import forget_rows, logits_of, run_of
from tests.support.models import state, trained


def squares(model, batch, size):
    """The mean over groups of `size` rows of the squared gradient of the mean loss of a group."""
    total, count = {n: torch.zeros_like(p) for n, p in model.named_parameters()}, 0
    for first in range(0, len(batch["labels"]), size):
        part = {k: v[first : first + size] for k, v in batch.items()}
        model.zero_grad()
        F.cross_entropy(logits_of(model, part), part["labels"]).backward()
        count += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.square()
    return {n: t / count for n, t in total.items()}


@pytest.mark.parametrize("arch", ["vit", "bert"])
@pytest.mark.parametrize(("importance", "size"), [("samples", 1), ("batches", 64)])
def test_weights_shrink_by_the_rule(tmp_path, arch, importance, size):
    method = SelectiveSynapticDampening(selection=2.0, dampening=0.8, importance=importance)
    trainer = run_of(arch, tmp_path, method)
    before, model = state(trainer.model), trained(arch).eval()
    rows = trainer.retain_dataset
    kept = trainer.processor.collate([trainer.processor(row) for row in rows])
    gone = forget_rows(trainer)
    forget, retain = squares(model, gone, size), squares(model, kept, size)
    share = len(gone["labels"]) / (len(gone["labels"]) + len(kept["labels"]))
    trainer.train()
    after, shrunk = state(trainer.model), 0
    for name, mine in forget.items():
        if mine.max() < 1e-15:  # softmax does not see the bias of the keys, so its gradient is rounding
            continue
        every = (1 - share) * retain[name] + share * mine
        factor = torch.where(mine > 2.0 * every, (0.8 * every / mine).clamp_max(1), torch.ones_like(mine))
        # A weight at the edge may fall on either side by rounding.
        apart = ((after[name] - before[name] * factor).abs() > 1e-5).sum()
        assert apart <= 2 + 0.002 * mine.numel(), name
        shrunk += int((factor < 1).sum())
    assert shrunk > 0
    assert trainer.state.global_step == 0


def test_selection_is_a_percentile_of_the_ratio_of_importances():
    generator = torch.Generator().manual_seed(0)
    forget, every = ({n: torch.rand(50, 20, generator=generator) for n in "ab"} for _ in range(2))
    forget["a"][0], every["a"][0] = 0.0, 0.0  # weights without a gradient count for nothing
    ratios = np.concatenate([(forget[n] / every[n]).numpy().ravel() for n in "ab"])
    ratios = ratios[np.isfinite(ratios)]
    for share in (0.01, 0.1, 0.5):
        expected = np.percentile(ratios, 100 - math.log(1 + 100 * share), method="lower")
        assert adaptive_selection(forget, every, dampened_share(share)) == pytest.approx(expected)


def test_a_smaller_request_shrinks_fewer_weights(tmp_path):
    counts = []
    for share in (0.02, 0.4):
        forget = {"w": torch.rand(1000, generator=torch.Generator().manual_seed(0))}
        every = {"w": torch.ones(1000)}
        counts.append(int((forget["w"] > adaptive_selection(forget, every, dampened_share(share))).sum()))
    assert counts[0] < counts[1]


def test_weights_without_any_gradient_are_named():
    with pytest.raises(ValueError, match="No weight has a gradient"):
        adaptive_selection({"w": torch.zeros(3)}, {"w": torch.zeros(3)}, 0.1)


@pytest.mark.parametrize("settings", [{"rows": 0}, {"selection": 0.0}, {"importance": "rows"}])
def test_a_setting_that_means_nothing_is_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}"):
        SelectiveSynapticDampening(**settings)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_of_a_class_as_many_weights_shrink_as_retain_rows_bear(tmp_path, arch):
    trainer = run_of(arch, tmp_path, SelectiveSynapticDampening(), max_retain_drop=0.1)
    before = state(trainer.model)
    trainer.train()
    kept, method = trainer.monitor.share_kept(), trainer.method
    assert kept >= 0.9 - 0.02
    shrunk = sum(int((p.detach() != before[n]).sum()) for n, p in trainer.model.named_parameters())
    by_rule = dampened_share(len(trainer.forget_dataset) / (len(trainer.forget_dataset) + len(trainer.retain_dataset)))
    assert shrunk > 1.5 * by_rule * sum(p.numel() for p in trainer.model.parameters())
    assert method.rows == 128
