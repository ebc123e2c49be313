"""Fine-tuning is ordinary training on the retain set."""

import pytest

from hf_unlearn import FineTune
from tests.methods.support import mean_nll
from tests.support.models import trained
from tests.support.runs import forget_batch


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_loss_is_the_cross_entropy_of_the_retain_rows_in_training_mode(arch):
    model, batch = trained(arch).train(), forget_batch(arch)
    terms = FineTune().loss(model, batch, None)
    assert terms["retain"].item() == pytest.approx(
        mean_nll(model, batch["retain"]), rel=1e-5
    )  # these models have no dropout
    assert model.training
    dropping = trained(arch, dropout=0.1).train()
    first, second = (FineTune().loss(dropping, batch, None)["retain"].item() for _ in range(2))
    assert first != second
