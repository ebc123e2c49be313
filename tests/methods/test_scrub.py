"""SCRUB climbs away from its teacher on forget rows and comes back to it on retain rows, in turns."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import Scrub
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.models import state, trained

KINDS = [True, False, False, False, True, False, False, False, *[False] * 8]  # of 16 steps in four rounds


def divergence(teacher, student, t):
    """T² KL(teacher ‖ student) at temperature T, summed over classes and averaged over rows."""
    p, q = (teacher / t).softmax(-1), (student / t).log_softmax(-1)
    return t**2 * (p * (p.log() - q)).sum(-1).mean()


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    trainer = run_of(arch, tmp_path, Scrub(gamma=0.9, alpha=0.3, temperature=2.0), max_steps=16)
    batches, teacher, kinds = recorded(trainer), trained(arch).eval(), []

    def loss(model, batch, step):
        round_, place = divmod(step, 4)
        kinds.append(round_ < 2 and place == 0)  # a fifth of four steps is the first of them
        with torch.no_grad():
            known = {side: logits_of(teacher, batch[side]) for side in ("forget", "retain")}
        if kinds[-1]:
            return -divergence(known["forget"], logits_of(model, batch["forget"]), 2.0)
        own = logits_of(model, batch["retain"])
        return 0.9 * F.cross_entropy(own, batch["retain"]["labels"]) + 0.3 * divergence(known["retain"], own, 2.0)

    close(state(trainer.model), replayed(trained(arch), batches, loss), 1e-4)
    assert kinds == KINDS


def test_which_steps_climb():
    method = Scrub()
    assert [method.climbs(step, 16) for step in range(16)] == KINDS
    share = sum(Scrub(ascent=0.25).climbs(step, 400) for step in range(400)) / 400
    assert share == pytest.approx(0.25 * 2 / 4)
    assert not any(Scrub(rounds=2, ascent_rounds=1).climbs(step, 100) for step in range(50, 100))


def test_a_run_that_would_end_by_climbing_is_refused():
    with pytest.raises(ValueError, match="`ascent_rounds=3` leaves none of `rounds=3` to descend alone"):
        Scrub(rounds=3, ascent_rounds=3)
    with pytest.raises(ValueError, match="`ascent` is a share"):
        Scrub(ascent=1.0)
