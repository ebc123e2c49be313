"""DELETE: the original's outputs on forget rows with the label struck out, and nothing else."""

import pytest
import torch

from hf_unlearn import Delete, ForgetRequest
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.data import data_for
from tests.support.models import state, trained


@pytest.mark.parametrize(("arch", "kind"), [("vit", "class"), ("bert", "samples")])
def test_steps_are_those_of_the_algorithm(tmp_path, arch, kind):
    split = ForgetRequest(fraction=0.3).split(data_for(arch, 96)) if kind == "samples" else None
    trainer = run_of(arch, tmp_path, Delete(), split=split, forget_kind=kind)
    batches, teacher = recorded(trainer), trained(arch).eval()

    def loss(model, batch, step):
        with torch.no_grad():  # as the authors do it: a logit of −1e10 for the label
            masked = logits_of(teacher, batch["forget"]).scatter(1, batch["forget"]["labels"][:, None], -1e10)
        target = masked.softmax(-1)
        rows = torch.special.xlogy(target, target) - target * logits_of(model, batch["forget"]).log_softmax(-1)
        return rows.sum(-1).mean()

    close(state(trainer.model), replayed(trained(arch).eval(), batches, loss))


def test_no_retain_row_is_read():
    assert not Delete().needs_retain
    assert not Delete().reads_labels("retain")
