"""Weights of shards that are fitted on held-out rows."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn.data.forget_request import ForgetRequest
from hf_unlearn.shards.settings import ShardSettings
from hf_unlearn.shards.shard_weights import least_loss_weights
from tests.shards.support import KEY, SMALL, rows_for, save_base, trainer


def test_no_other_weights_have_less_loss():
    torch.manual_seed(0)
    labels = torch.randint(4, (200,))
    signal = F.one_hot(labels, 4).float()
    logits = torch.stack([a * signal + torch.randn(200, 4) for a in (0.2, 1.0, 2.0)])
    found = least_loss_weights(logits, labels)

    def loss(weights):
        return F.cross_entropy(torch.einsum("s,src->rc", weights, logits.double()), labels)

    assert found.sum() == pytest.approx(1.0)
    assert found[2] > found[1] > found[0] > 0
    best = loss(found)
    for other in torch.rand(300, 3, dtype=torch.float64):
        assert loss(other / other.sum()) >= best - 1e-6


@pytest.mark.slow
def test_fitted_weights_are_fitted_again_after_a_deletion(tmp_path):
    base, rows, held_out = save_base("bert", tmp_path / "base"), rows_for("bert", 36), rows_for("bert", 24, seed=9)
    settings = ShardSettings(**{**SMALL, "learning_rate": 0.05})
    model = trainer().train(base, rows, tmp_path / "v1", settings=settings, key=KEY, held_out=held_out)
    assert model.sharding.fitted
    assert sum(model.sharding.weights) == pytest.approx(1.0)
    request = ForgetRequest(column="owner", values=["u3"])
    with pytest.raises(ValueError, match="must be again without the deleted ones"):
        trainer().forget(tmp_path / "v1", rows, request, tmp_path / "v2")
    found = trainer().forget(tmp_path / "v1", rows, request, tmp_path / "v2", held_out=held_out)
    scratch = trainer().train(
        base,
        rows.filter(lambda o: o != "u3", input_columns="owner"),
        tmp_path / "v3",
        settings=settings,
        key=KEY,
        held_out=held_out,
    )
    assert found.sharding.weights == scratch.sharding.weights != model.sharding.weights
