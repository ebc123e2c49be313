"""The methods that train, and how a test makes one that is quick."""

from hf_unlearn import METHODS

FROM_RETAIN = ("retrain", "fine_tune")
TRAINED = [name for name, method in METHODS.items() if not method.one_shot]
CARRIERS = [name for name in TRAINED if name not in (*FROM_RETAIN, "uib")]  # each can be the base of UIB
GRADIENT = TRAINED + [f"uib+{name}" for name in CARRIERS]


def make(name, **settings):
    """Make a method with few noisy copies, if it has that setting. `uib+<name>` is UIB over that method, with few samples."""
    if name.startswith("uib"):
        base = make(name.removeprefix("uib+")) if "+" in name else None
        return METHODS["uib"](base=base, samples=16, **settings)
    if name == "jit":
        settings = {"num_perturbations": 3, **settings}
    if name == "feature_information":
        settings = {"attribute": "group", **settings}
    return METHODS[name](**settings)
