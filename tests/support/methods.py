"""The methods that train, and how a test makes one that is quick."""

from hf_unlearn import METHODS

FROM_RETAIN = ("retrain", "fine_tune")


CARRIERS = [
    n for n, m in METHODS.items() if not m.one_shot and n not in (*FROM_RETAIN, "uib")
]  # UIB regularises each of them


GRADIENT = [name for name, m in METHODS.items() if not m.one_shot] + [f"uib+{name}" for name in CARRIERS]


def make(name, **settings):
    """The method with few noisy copies, where it has such a setting; `uib+<name>`: UIB over it, with few samples."""
    if name.startswith("uib"):
        base = make(name.removeprefix("uib+")) if "+" in name else None
        return METHODS["uib"](base=base, samples=16, **settings)
    if name == "jit":
        settings = {"num_perturbations": 3, **settings}
    if name == "feature_information":
        settings = {"attribute": "group", **settings}
    return METHODS[name](**settings)
