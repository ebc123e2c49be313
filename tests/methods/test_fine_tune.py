"""Fine-tuning is ordinary training on the retain set."""

import pytest
from transformers import ResNetConfig, ResNetForImageClassification

from hf_unlearn import FineTune, Retrain, Split
from tests.methods.support import mean_nll
from tests.support.data import pixel_data
from tests.support.models import trained
from tests.support.runs import forget_batch, trainer_for


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


@pytest.mark.parametrize("method", [FineTune(), Retrain()])
def test_a_last_batch_of_one_row_trains_a_model_with_batch_norm(tmp_path, method):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8], "depths": [1, 1, 1]}  # ends with one pixel
    model = ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=4, **sizes))
    data = pixel_data(13)
    split = Split(data.select(range(4)), data.select(range(4, 13)), list(range(4)), None)
    changes = {"forget_kind": "samples", "max_steps": -1, "num_train_epochs": 1.0, "per_device_train_batch_size": 4}
    trainer = trainer_for("resnet", tmp_path, method, model=model, split=split, **changes)
    trainer.train()
    assert trainer.state.global_step == 3
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
