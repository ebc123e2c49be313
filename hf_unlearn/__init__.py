"""Machine unlearning for Hugging Face classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils import VERSION as __version__
from .utils import moved_modules

# Module -> its public names. Loaded on first use (PEP 562), so that `import hf_unlearn` costs nothing.
_PUBLIC = {
    "data.forget_request": "ForgetRequest Split",
    "training.arguments": "UnlearningArguments",
    "trainer": "UnlearningTrainer",
    "evaluation.report.report": "UnlearningReport",
    "evaluation.audit.audit": "Audit",
    "evaluation.audit.auditor": "Auditor audit_models",
    "hub.receipt.receipt": "Receipt",
    "models.sharded_classifier": "ShardedClassifier",
    "shards.settings": "ShardSettings",
    "shards.trainer": "ShardedTrainer",
    "methods": "UnlearningMethod METHODS JiT CounterfactualDistillation MarginalInformation FeatureInformation Retrain "
    "SurrogateDistillation FineTune GradientAscent GradientDifference WassersteinBarycenter UIB "
    "NegGradPlus SalUn Scrub MSG L1Sparse Delete SelectiveSynapticDampening BoundaryShrink BadTeacher "
    "InfluenceUnlearning ReGUn COLA",
}
_NAMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [*_NAMES, "__version__"]

if TYPE_CHECKING:
    from .data.forget_request import ForgetRequest, Split
    from .evaluation.audit.audit import Audit
    from .evaluation.audit.auditor import Auditor, audit_models
    from .evaluation.report.report import UnlearningReport
    from .hub.receipt.receipt import Receipt
    from .methods import (
        COLA,
        METHODS,
        MSG,
        UIB,
        BadTeacher,
        BoundaryShrink,
        CounterfactualDistillation,
        Delete,
        FeatureInformation,
        FineTune,
        GradientAscent,
        GradientDifference,
        InfluenceUnlearning,
        JiT,
        L1Sparse,
        MarginalInformation,
        NegGradPlus,
        ReGUn,
        Retrain,
        SalUn,
        Scrub,
        SelectiveSynapticDampening,
        SurrogateDistillation,
        UnlearningMethod,
        WassersteinBarycenter,
    )
    from .models.sharded_classifier import ShardedClassifier
    from .shards.settings import ShardSettings
    from .shards.trainer import ShardedTrainer
    from .trainer import UnlearningTrainer
    from .training.arguments import UnlearningArguments


moved_modules.install()


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_unlearn' has no attribute {name!r}")
    return getattr(import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
