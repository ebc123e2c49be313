"""What the original says: about the forget set, and about any input."""

import pytest
import torch

from hf_unlearn import MarginalInformation
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.reference import FrozenOriginal
from tests.models.support import logits, patched
from tests.support.models import trained
from tests.support.runs import forget_batch


@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_the_frozen_base_is_the_reference(tmp_path, arch):
    trainer = patched(arch, tmp_path, MarginalInformation(utility="kl"))
    trainer.train()
    inputs = model_inputs(forget_batch(arch)["forget"])
    frozen = FrozenOriginal(trainer.model, trainer.patch)
    assert frozen.model is trainer.model
    assert torch.equal(frozen.logits(inputs), logits(trained(arch), arch))
    assert trainer.model.training or not torch.equal(logits(trainer.model, arch), logits(trained(arch), arch))
