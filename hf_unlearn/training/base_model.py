"""The part of the trainer that knows where the original came from, and how far its training went."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from ..methods import UnlearningMethod
from ..models.adapters import base_classifier
from ..models.base import Base, StartingPoint, find_base, given_base, random_start


class StartsFromBase(Trainer):
    """The HF Trainer for a model that was fine-tuned from a base: it finds this base, and takes steps of a length that fits.

    Attributes:
        base_model: the base, `"none"` for a model that was trained from random weights, or None if nobody named it.
    """

    method: UnlearningMethod
    base_model: Base | str | None = None
    given: dict[str, Any]
    model_init_fn: Callable[[], nn.Module] | None

    def _name_base(self, given: Base | str | Path | None) -> None:
        """Set `base_model`, and raise ValueError for a folder that is not there."""
        self.base_model = (
            given if given is None or given == "none" or isinstance(given, Base) else given_base(str(given))
        )

    def starting_point(self) -> StartingPoint | None:
        """Return where the training of the original began; None if that is not known.

        Raises:
            ValueError: `base_model` does not fit the original.
        """
        base, named = self.base_model, self.base_model is not None
        with torch.random.fork_rng(devices=[]):
            if base == "none":
                return random_start(self.model, self.args.seed)
            source = getattr(base_classifier(self.model).config, "_name_or_path", None)
            if base is None and source:
                with suppress(OSError):  # a name that is no folder, while no Hub answers
                    base = self.base_model = find_base(source)
            if not isinstance(base, Base):
                return None
            try:
                return base.start(self.model, self.args.seed)
            except ValueError:
                if named:
                    raise
                return None

    def fresh_model(self) -> nn.Module:
        """Return a seeded untrained model of the same kind, made by `model_init` or from the model's configuration."""
        torch.manual_seed(self.args.seed)
        model = self.model_init_fn() if self.model_init_fn is not None else type(self.model)(self.model.config)
        return model.to(self.args.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer, with the rate that the method found for this original if the user gave none."""
        made = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        args = self.given["args"]
        rate = self.method.found_rate
        if made and rate is not None and (args is None or args.learning_rate is None):
            for group in optimizer.param_groups:
                group["lr"] = rate
        return optimizer
