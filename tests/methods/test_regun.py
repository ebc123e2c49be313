"""ReGUn: forget rows get the original's mean output on held-out rows of their class."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import ForgetRequest, ReGUn
from hf_unlearn.methods.regun import class_means
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.data import data_for
from tests.support.models import state, trained


def samples(arch):
    return ForgetRequest(fraction=0.3).split(data_for(arch, 96))


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    trainer = run_of(arch, tmp_path, ReGUn(forget_weight=0.3), split=samples(arch), forget_kind="samples")
    batches, teacher = recorded(trainer), trained(arch).eval()
    held_out = trainer.processor.collate([trainer.processor(row) for row in trainer.eval_dataset])
    with torch.no_grad():
        p = logits_of(teacher, held_out).softmax(-1)
    means = torch.stack([p[held_out["labels"] == c].mean(0) for c in range(4)])

    def loss(model, batch, step):
        q = means[batch["forget"]["labels"]]
        away = (q * (q.log() - logits_of(model, batch["forget"]).log_softmax(-1))).sum(-1).mean()
        return 0.7 * F.cross_entropy(logits_of(model, batch["retain"]), batch["retain"]["labels"]) + 0.3 * away

    close(state(trainer.model), replayed(trained(arch), batches, loss))


def test_a_class_without_held_out_rows_gets_the_mean_over_all():
    p = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    found = class_means(p, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found[0], torch.tensor([0.7, 0.2, 0.1]))
    torch.testing.assert_close(found[1], p[2])
    torch.testing.assert_close(found[2], p.mean(0))


def test_a_whole_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`method='regun'` forgets single rows"):
        run_of("vit", tmp_path, ReGUn()).train()


def test_held_out_rows_are_needed(tmp_path):
    trainer = run_of("vit", tmp_path, ReGUn(), split=samples("vit"), forget_kind="samples", held_out=None)
    with pytest.raises(ValueError, match="rows with labels that the original was not trained on"):
        trainer.train()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_outside_of_the_loss_is_refused(weight):
    with pytest.raises(ValueError, match="`forget_weight` is a share of the loss"):
        ReGUn(forget_weight=weight)
