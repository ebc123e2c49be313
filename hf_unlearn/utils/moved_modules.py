"""Former import paths that documents, published cards and saved files name. They still work, with a DeprecationWarning."""

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "hf_unlearn.adapters": "hf_unlearn.models.adapters",
    "hf_unlearn.arguments": "hf_unlearn.training.arguments",  # `training_args.bin` of older checkpoints
    "hf_unlearn.mlp": "hf_unlearn.models.pixel_mlp",
    "hf_unlearn.evaluation.likelihood": "hf_unlearn.metrics.functional.per_example_attacks",
    "hf_unlearn.evaluation.shadow": "hf_unlearn.evaluation.shadow_models",
    "hf_unlearn.evaluation.forgetting_quality": "hf_unlearn.metrics.functional.forgetting_quality",
}


class MovedModules(MetaPathFinder, Loader):
    """Import the modules of `MOVED`: each warns, and looks its names up in the module that replaced it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        place = MOVED[module.__name__]
        warnings.warn(f"`{module.__name__}` is now `{place}`.", DeprecationWarning, stacklevel=2)
        moved = import_module(place)
        module.__getattr__ = partial(getattr, moved)  # type: ignore[method-assign]
        module.__dir__ = partial(dir, moved)  # type: ignore[method-assign]
        module.__all__ = getattr(moved, "__all__", [n for n in vars(moved) if not n.startswith("_")])  # type: ignore[attr-defined]


def install() -> None:
    """Make the former paths importable. Python asks this finder after its own."""
    sys.meta_path.append(MovedModules())
