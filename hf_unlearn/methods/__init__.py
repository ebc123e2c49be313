"""The table of methods. A new one is a file beside this one and a line in `METHODS`."""

from .base import METHODS, Paper, UnlearningMethod, find_method, setting
from .counterfactual_distillation import CounterfactualDistillation
from .feature_information import FeatureInformation
from .fine_tune import FineTune
from .gradient_ascent import GradientAscent
from .gradient_difference import GradientDifference
from .information_bottleneck import UIB
from .just_in_time import JiT
from .marginal_information import MarginalInformation
from .retrain import Retrain
from .surrogate_distillation import SurrogateDistillation
from .wasserstein_barycenter import WassersteinBarycenter

METHODS.update(
    {
        "surrogate_distillation": SurrogateDistillation,
        "jit": JiT,
        "counterfactual_distillation": CounterfactualDistillation,
        "marginal_information": MarginalInformation,
        "feature_information": FeatureInformation,
        "uib": UIB,
        "wasserstein_barycenter": WassersteinBarycenter,
        "retrain": Retrain,
        "fine_tune": FineTune,
        "gradient_ascent": GradientAscent,
        "gradient_difference": GradientDifference,
    }
)

__all__ = ["METHODS", "Paper", "UnlearningMethod", "find_method", "setting", *(c.__name__ for c in METHODS.values())]
