"""Bad teacher: an untrained network's outputs on forget rows, the original's on retain rows, and no labels."""

import pytest
import torch

from hf_unlearn import BadTeacher
from tests.methods.baselines import close, forget_rows, logits_of, recorded, replayed, run_of
from tests.support.models import state, trained


def divergence(target, logits):
    return (target * (target.log() - logits.log_softmax(-1))).sum(-1)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    trainer = run_of(arch, tmp_path, BadTeacher(), retain_per_forget=2)
    batches, teacher = recorded(trainer), trained(arch).eval()
    bad = trainer.fresh_model().eval()

    def loss(model, batch, step):
        with torch.no_grad():
            unknown, known = (
                logits_of(bad, batch["forget"]).softmax(-1),
                logits_of(teacher, batch["retain"]).softmax(-1),
            )
        rows = [
            divergence(unknown, logits_of(model, batch["forget"])),
            divergence(known, logits_of(model, batch["retain"])),
        ]
        return torch.cat(rows).mean()  # each row has one of the two teachers

    close(state(trainer.model), replayed(trained(arch), batches, loss))
    with torch.no_grad():
        torch.testing.assert_close(trainer.method._targets, logits_of(bad, forget_rows(trainer)).softmax(-1))


def test_another_seed_is_another_teacher(tmp_path):
    first, second = (run_of("vit", tmp_path / str(seed), BadTeacher(), seed=seed) for seed in (0, 1))
    for trainer in (first, second):
        trainer.train()
    assert not torch.allclose(first.method._targets, second.method._targets)


def test_no_label_is_read():
    assert not any(BadTeacher().reads_labels(side) for side in ("forget", "retain"))
