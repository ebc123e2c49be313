"""The rows of an audit of one forgotten class, and a model that must not be run."""

import torch

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, data_for, pixel_data, processing_class
from tests.support.models import trained


def prepared(arch, n=40, seed=0):
    """Prepared rows, and their processor."""
    processor = Processor(trained(arch), processing_class(arch))
    return PreparedRows(data_for(arch, n, seed), processor), processor


def audited_sets(**changes):
    """Forget, test and retain rows of a request to forget class 1."""
    split = class_split("vit")
    return {"forget": split.forget, "test": pixel_data(48, 9), "retain": split.retain, **changes}


class Untouchable(torch.nn.Module):
    """A model that must not be run."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.main_input_name = model, model.config, model.main_input_name

    def forward(self, **inputs):
        raise AssertionError("the model was run")
