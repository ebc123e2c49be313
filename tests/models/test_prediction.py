"""One pass over rows gives every row's logits, in order."""

import pytest
import torch

from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from tests.support.data import (
    data_for,
    processing_class,
)
from tests.support.models import trained


@pytest.mark.parametrize("arch", ["resnet", "bert"])
def test_predictions_are_in_order_whatever_the_batch_size(arch):
    model, data = trained(arch).train(), data_for(arch, 13)
    processor = Processor(model, processing_class(arch))
    logits, labels = predict(model, data, processor, batch_size=100)
    assert model.training
    assert labels.tolist() == data["label"][:]
    assert logits.dtype == torch.float32
    for size in (1, 4, 13):
        assert torch.allclose(predict(model, data, processor, batch_size=size)[0], logits, atol=1e-5)
    assert torch.allclose(predict(model, data.to_iterable_dataset(), processor, limit=5)[0], logits[:5], atol=1e-5)
    with pytest.raises(ValueError, match="`dataset` is empty"):
        predict(model, [], processor)
