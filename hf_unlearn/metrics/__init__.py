"""The library's measures as `evaluate` modules: classes, files for `evaluate.load`, parts of `evaluate.combine`.

    from hf_unlearn.metrics import BiasFollowing
    BiasFollowing(mapping={"red": 0, "green": 1}).compute(predictions=..., references=..., attributes=...)

    evaluate.load(f"{hf_unlearn.metrics.__path__[0]}/bias_following.py", mapping=...)

Everything runs offline and in memory: no row is written to a cache. `evaluate.combine` passes every keyword to every
module, so pass options to the constructor there. Each docstring says how to read its value. For most the target is the
value of the retrained model, and the distance to that value counts in both directions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Public name -> module, loaded on first use: importing `evaluate` takes seconds.
_NAMES = {
    "Agreement": "agreement",
    "AlignedConflictingGap": "aligned_conflicting_gap",
    "AverageGap": "average_gap",
    "BiasFollowing": "bias_following",
    "CramersV": "cramers_v",
    "DemographicParity": "demographic_parity",
    "EntropyAttack": "entropy_attack",
    "EqualisedOdds": "equalised_odds",
    "FalsePositiveRates": "false_positive_rates",
    "ForgetInformation": "forget_information",
    "InformationAudit": "information_audit",
    "JensenShannon": "jensen_shannon",
    "LossAttack": "loss_attack",
    "MIAEfficacy": "mia_efficacy",
    "ModifiedEntropyAttack": "modified_entropy_attack",
    "SetAccuracy": "set_accuracy",
    "TugOfWar": "tug_of_war",
    "UnlearningAccuracy": "unlearning_accuracy",
    "WorstGroupAccuracy": "worst_group_accuracy",
    "ZeroRetrainForgetting": "zero_retrain_forgetting",
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from .agreement import Agreement
    from .aligned_conflicting_gap import AlignedConflictingGap
    from .average_gap import AverageGap
    from .bias_following import BiasFollowing
    from .cramers_v import CramersV
    from .demographic_parity import DemographicParity
    from .entropy_attack import EntropyAttack
    from .equalised_odds import EqualisedOdds
    from .false_positive_rates import FalsePositiveRates
    from .forget_information import ForgetInformation
    from .information_audit import InformationAudit
    from .jensen_shannon import JensenShannon
    from .loss_attack import LossAttack
    from .mia_efficacy import MIAEfficacy
    from .modified_entropy_attack import ModifiedEntropyAttack
    from .set_accuracy import SetAccuracy
    from .tug_of_war import TugOfWar
    from .unlearning_accuracy import UnlearningAccuracy
    from .worst_group_accuracy import WorstGroupAccuracy
    from .zero_retrain_forgetting import ZeroRetrainForgetting


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_unlearn.metrics' has no attribute {name!r}")
    return getattr(import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
