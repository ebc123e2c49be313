"""ℓ1-sparse: cross-entropy on retain rows, and a penalty on all weights that falls to zero."""

import pytest
import torch.nn.functional as F

from hf_unlearn import L1Sparse
from hf_unlearn.methods.l1_sparse import PUBLISHED
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.models import state, trained


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    weights = sum(p.numel() for p in trained(arch).parameters())
    trainer = run_of(arch, tmp_path, L1Sparse(alpha=1e-3 * weights / PUBLISHED))
    batches = recorded(trainer)

    def loss(model, batch, step):
        penalty = 1e-3 * (1 - step / 4) * sum(p.abs().sum() for p in model.parameters())
        return F.cross_entropy(logits_of(model, batch["retain"]), batch["retain"]["labels"]) + penalty

    close(state(trainer.model), replayed(trained(arch), batches, loss))


def test_a_frozen_weight_is_not_counted(tmp_path):
    trainer = run_of("vit", tmp_path, L1Sparse(), update="head")
    trainer.train()
    head = sum(p.numel() for p in trainer.model.classifier.parameters())
    batch = trainer.processor.collate(trainer.unlearning_data.retain.many(range(4)))
    trainer.method._steps = 1
    penalty = trainer.method.loss(trainer.model, {"retain": batch}, None)["penalty"]
    size = sum(p.abs().sum() for p in trainer.model.classifier.parameters())
    assert penalty.item() == pytest.approx(5e-4 * PUBLISHED / head * size.item(), rel=1e-4)


def test_rows_to_keep_that_are_lost_are_no_success(tmp_path):
    weights = sum(p.numel() for p in trained("vit").parameters())
    method = L1Sparse(alpha=3.0 * weights / PUBLISHED)
    trainer = run_of(
        "vit", tmp_path, method, max_steps=12, max_retain_drop=0.05, forget_kind="samples", forget_target=-1.0
    )
    trainer.train()
    assert trainer.outcome.steps == 12  # it is not stopped on the way: the penalty falls, and rows may come back
    assert any("kept data collapsed" in warning for warning in trainer.outcome.warnings)


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(ValueError, match="`alpha` must be above 0"):
        L1Sparse(alpha=0.0)
