"""The part of the trainer that knows where the original came from, and how far its training went."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from ..methods import UnlearningMethod
from ..methods.components.rewinding import root_mean_square
from ..methods.components.trust_region import TrustRegion
from ..models.adapters import base_classifier, is_adapted
from ..models.base import Base, StartingPoint, find_base, given_base, random_start
from ..models.snapshot import Snapshot

LONGEST = 0.02  # step of a trust region, as a share of the way that training went


def made_with_seed(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return what `make` makes from random numbers with `seed`, so that parts that no training moves are always the same."""
    torch.manual_seed(seed)
    return make()


class StartsFromBase(Trainer):
    """The HF Trainer for a model that was fine-tuned from a base: it finds this base, and takes steps of a length that fits.

    Attributes:
        base_model: the base, `"none"` for a model that was trained from random weights, or None if nobody named it.
    """

    method: UnlearningMethod
    base_model: Base | str | None = None
    given: dict[str, Any]
    model_init_fn: Callable[[], nn.Module] | None
    original: Snapshot | None

    def _name_base(self, given: Base | str | Path | None) -> None:
        """Set `base_model`, and raise ValueError for a folder that is not there."""
        self.base_model = (
            given if given is None or given == "none" or isinstance(given, Base) else given_base(str(given))
        )

    def _trained_as(self, model: nn.Module, patched: bool) -> str:
        """Return how the original was trained, as methods tell it apart; `patched` if the run puts an adapter on top of it."""
        if self.base_model == "none":
            return "scratch"
        return "adapter" if is_adapted(model) and not patched else "base"

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
                    base = find_base(source)
            if not isinstance(base, Base):
                return None
            try:
                start = base.start(self.model, self.args.seed)
            except ValueError:
                if named:
                    raise
                return None
            self.base_model = base
            return start

    def fresh_model(self) -> nn.Module:
        """Return a seeded untrained model of the same kind, made by `model_init` or from the model's configuration."""
        classifier = base_classifier(self.model)  # without the patch of a run
        make = self.model_init_fn or (lambda: type(classifier)(classifier.config))
        return made_with_seed(make, self.args.seed).to(self.args.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer, with the rate that the method found for this original if the user gave none."""
        made = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if not made:
            return optimizer
        args = self.given["args"]
        rate = self.method.found_rate if args.learning_rate is None else None
        if isinstance(optimizer, TrustRegion) and args.trust_region is None:
            rate = self._longest_step(optimizer.defaults["lr"])
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return optimizer

    def _longest_step(self, wanted: float) -> float:
        """Return the length of a step: `wanted`, but at most a small share of the way that training went from a known base.

        Fine-tuning moves the weights little: a step of 0.2 % of their norm can be as long as all of it.
        """
        unknown = self.is_fsdp_enabled or self.base_model == "none"
        start = None if unknown or self.args.update == "head" else self.starting_point()
        if start is None or not start.pretrained or self.original is None:
            return wanted
        began = dict(start.model.named_parameters())
        own = {n: t.float() for n, t in self.original.tensors.items() if n in start.shared}
        moved = root_mean_square(t - began[n].detach().float().cpu() for n, t in own.items())
        size = root_mean_square(own.values())
        return min(wanted, LONGEST * moved / size) if moved and size else wanted
