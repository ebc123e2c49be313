"""Barycenters fitted to tiny models, on data whose attribute goes with the class."""

from hf_unlearn.methods.wasserstein_barycenter import fit_barycenter
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.processor import Processor
from tests.support.data import data_for, processing_class
from tests.support.models import trained


def attributed(arch, n=192, seed=0):
    """Data whose attribute `user` says whether the class is one of the upper two."""
    data = data_for(arch, n, seed)
    return data.add_column("user", ["high" if label > 1 else "low" for label in data["label"]])


def fitted(arch, model=None, **settings):
    """A trained model, the data, the processor of its rows, and the barycenter fitted to them; not attached."""
    model = trained(arch) if model is None else model
    data, processor = attributed(arch), Processor(model, processing_class(arch))
    return model, data, processor, fit_barycenter(model, data, processor, "user", **settings)


def leading_batch(data, processor, n=32):
    """The first rows as inputs of a model."""
    return model_inputs(processor.collate([data[i] for i in range(n)]))
