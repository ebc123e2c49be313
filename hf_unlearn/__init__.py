"""Machine unlearning for Hugging Face classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils import VERSION as __version__
from .utils import moved_modules

# Public name -> module. Loaded on first use (PEP 562), so that `import hf_unlearn` costs nothing.
_NAMES = {
    "ForgetRequest": "data.forget_request",
    "Split": "data.forget_request",
    "UnlearningArguments": "training.arguments",
    "UnlearningTrainer": "trainer",
    "UnlearningReport": "evaluation.report.report",
    "Audit": "evaluation.audit.audit",
    "Auditor": "evaluation.audit.auditor",
    "audit_models": "evaluation.audit.auditor",
    "Receipt": "hub.receipt.receipt",
    "UnlearningMethod": "methods",
    "METHODS": "methods",
    "JiT": "methods",
    "CounterfactualDistillation": "methods",
    "MarginalInformation": "methods",
    "FeatureInformation": "methods",
    "Retrain": "methods",
    "FineTune": "methods",
    "GradientAscent": "methods",
    "GradientDifference": "methods",
    "WassersteinBarycenter": "methods",
    "UIB": "methods",
}

__all__ = [*_NAMES, "__version__"]

if TYPE_CHECKING:
    from .data.forget_request import ForgetRequest, Split
    from .evaluation.audit.audit import Audit
    from .evaluation.audit.auditor import Auditor, audit_models
    from .evaluation.report.report import UnlearningReport
    from .hub.receipt.receipt import Receipt
    from .methods import (
        METHODS,
        UIB,
        CounterfactualDistillation,
        FeatureInformation,
        FineTune,
        GradientAscent,
        GradientDifference,
        JiT,
        MarginalInformation,
        Retrain,
        UnlearningMethod,
        WassersteinBarycenter,
    )
    from .trainer import UnlearningTrainer
    from .training.arguments import UnlearningArguments


moved_modules.install()


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_unlearn' has no attribute {name!r}")
    return getattr(import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
