"""The methods that train, and how a test makes one that is quick."""

from functools import partial
from unittest.mock import patch

from hf_unlearn import METHODS
from hf_unlearn.methods import base
from hf_unlearn.methods.baseline import Baseline
from hf_unlearn.methods.components.counterfactual_anchors import CounterfactualAnchors

FROM_RETAIN = ("retrain", "fine_tune")
WITH_TERM = "surrogate_distillation+marginal_information"  # the second is a term of the first
OF_ROWS = ("regun",)  # methods that forget single rows alone, which the common runs, of a class, cannot show
TRAINED = [name for name, method in METHODS.items() if not (method.one_shot or name in OF_ROWS)]
BASELINES = [name for name in TRAINED if issubclass(METHODS[name], Baseline)]
IN_TRAIN_MODE = (
    *FROM_RETAIN,
    *(name for name in BASELINES if METHODS[name]().moves_statistics()),
    "surrogate_distillation",
    WITH_TERM,
)
CARRIERS = [
    name for name in TRAINED if not (name in IN_TRAIN_MODE or METHODS[name].reads_base or name == "uib")
]  # for UIB
GRADIENT = [*TRAINED, WITH_TERM, *(f"uib+{name}" for name in CARRIERS)]


def make(name, **settings):
    """Make a method with few noisy copies, if it has that setting. `uib+<name>` is UIB over that method, with few samples."""
    if name.startswith("uib"):
        base = make(name.removeprefix("uib+")) if "+" in name else None
        return METHODS["uib"](base=base, samples=16, **settings)
    if name == WITH_TERM:
        own, term = name.split("+")
        return METHODS[own](term=make(term), **settings)
    if name == "jit":
        settings = {"num_perturbations": 3, **settings}
    if name == "feature_information":
        settings = {"attribute": "group", **settings}
    return METHODS[name](**settings)


def few_anchors():
    """A context in which methods make 32 anchors and not 256, which takes much of a short run."""
    return patch.object(base, "CounterfactualAnchors", partial(CounterfactualAnchors, count=32))
