"""The library's measures as `evaluate` modules: classes, files for `evaluate.load`, parts of `evaluate.combine`.

    from hf_unlearn.metrics import BiasFollowing
    BiasFollowing(mapping={"red": 0, "green": 1}).compute(predictions=..., references=..., attributes=...)

    evaluate.load(f"{hf_unlearn.metrics.__path__[0]}/bias_following.py", mapping=...)

Everything runs offline and in memory: no row is written to a cache. `evaluate.combine` hands every keyword to every module,
so there options go to the constructor. One reading holds for all of them: the aim is the retrained model's value, and the
distance to it counts in both directions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Public name -> module, loaded on first use: importing `evaluate` takes seconds.
_NAMES = {
    "AlignedConflictingGap": "aligned_conflicting_gap",
    "BiasFollowing": "bias_following",
    "CramersV": "cramers_v",
    "DemographicParity": "demographic_parity",
    "EqualisedOdds": "equalised_odds",
    "FalsePositiveRates": "false_positive_rates",
    "WorstGroupAccuracy": "worst_group_accuracy",
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from .aligned_conflicting_gap import AlignedConflictingGap
    from .bias_following import BiasFollowing
    from .cramers_v import CramersV
    from .demographic_parity import DemographicParity
    from .equalised_odds import EqualisedOdds
    from .false_positive_rates import FalsePositiveRates
    from .worst_group_accuracy import WorstGroupAccuracy


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_unlearn.metrics' has no attribute {name!r}")
    return getattr(import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
