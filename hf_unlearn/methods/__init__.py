"""The table of methods. A new one is a file beside this one and a line in `METHODS`."""

from .bad_teacher import BadTeacher
from .base import METHODS, Paper, UnlearningMethod, find_method, setting
from .boundary_shrink import BoundaryShrink
from .cola import COLA
from .counterfactual_distillation import CounterfactualDistillation
from .delete import Delete
from .feature_information import FeatureInformation
from .fine_tune import FineTune
from .gradient_ascent import GradientAscent
from .gradient_difference import GradientDifference
from .influence_unlearning import InfluenceUnlearning
from .information_bottleneck import UIB
from .just_in_time import JiT
from .l1_sparse import L1Sparse
from .marginal_information import MarginalInformation
from .msg import MSG
from .neggrad_plus import NegGradPlus
from .regun import ReGUn
from .retrain import Retrain
from .salun import SalUn
from .scrub import Scrub
from .selective_synaptic_dampening import SelectiveSynapticDampening
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
        "neggrad_plus": NegGradPlus,
        "salun": SalUn,
        "scrub": Scrub,
        "msg": MSG,
        "cola": COLA,
        "l1_sparse": L1Sparse,
        "delete": Delete,
        "selective_synaptic_dampening": SelectiveSynapticDampening,
        "influence_unlearning": InfluenceUnlearning,
        "regun": ReGUn,
        "boundary_shrink": BoundaryShrink,
        "bad_teacher": BadTeacher,
    }
)

__all__ = ["METHODS", "Paper", "UnlearningMethod", "find_method", "setting", *(c.__name__ for c in METHODS.values())]
