"""UIB: training on the retain set under a prior that says where the removal should move each layer; alone, or on top of another method."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from ..influence import CURVATURES, Sample, influence
from ..pairing import PreparedRows
from ..processing import unwrap
from ..scope import layer_groups
from .base import Paper, UnlearningMethod, setting
from .fine_tune import FineTune, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..reference import Reference
    from ..trainer import UnlearningTrainer

logger = logging.getLogger(__name__)

PRIOR_FILE = "uib_prior.safetensors"
SILENT = 1e-4  # a displacement, over the norm of its layer, below which the prior says nothing


@dataclass(kw_only=True)
class UIB(UnlearningMethod):
    """UIB (Han et al., "Unlearning Information Bottleneck: Machine Unlearning of Systematic Patterns and Biases", arXiv 2405.14020).

    Needs the forget set ΔD and the retain set D', both with labels. [source]: minimise −I(Y; θ) + β I(X; θ) on D' along the
    layers θ^(1) → … → θ^(L) by a variational bound, with a dynamic prior that integrates the change of the data; influence
    functions give it (UIB-IF); other unlearning methods join through the regulariser R^(l). The paper has no public code, and
    no more of it could be read. [derived], in the form that the Graph Information Bottleneck (arXiv 2010.12811) gives such bounds:

        min_θ  CE(retain) + L_base + β Σ_l R^(l),    R^(l) = ½ (θ − μ)ᵀ Λ (θ − μ),    μ = θ_0 + Δ
        Δ = α (F + λ)⁻¹ (|ΔD|/|D|) [ḡ(ΔD) − ḡ(D')],  ‖Δ^(l)‖ ≤ c ‖θ_0^(l)‖,           Λ ∝ F + λ, of mean 1 in each layer

    with ḡ mean gradients and F the diagonal empirical Fisher information on D' (of per-sample gradients), from one pass over at
    most `samples` rows of each set in eval mode; D = ΔD ∪ D'. The plus sign of Δ, and what a layer is (embeddings, each block,
    head), are derived too. The pull acts once after every optimiser step of rate η, on its own, so that AdamW does not rescale
    it: θ ← (θ + ηβΛμ) / (1 + ηβΛ), the proximal step of R, stable for any ηβ. [derived]: β counts over the sum of all η, so that
    it means the same at any rate and length of a run: how far the weights go to μ, a quarter of the way at 0.3 and two thirds
    at 1, where a toy with a planted bias began to lose accuracy. `normalise=False` is the raw β of the objective.

    `base` is L_base: any gradient method, whose set-up, batches and stop are used; None is `FineTune`, so that β = 0 is ordinary
    fine-tuning. CE(retain) is added where the base does not read the retain set itself. `refresh` takes Λ and Δ again at the
    weights of that moment, and Δ then is the mean of those taken so far: the path average of the displacement from θ_0, to
    second order [derived]. For a stream of requests `save_prior` after one and `load_prior` before the next: μ = μ_before + Δ.

    Processes share the rows of the statistics pass and add up their sums. Memory beside an ordinary step: μ and Λ, 2 × the
    parameters, and in the pass per-sample gradients of 64 MB or of one sample.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=UIB(base=GradientAscent()),
                                    forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "uib"
    paper: ClassVar[Paper | None] = Paper(
        "Unlearning Information Bottleneck: Machine Unlearning of Systematic Patterns and Biases", "2405.14020"
    )
    needs_retain: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = FineTune.arguments

    base: UnlearningMethod | str | None = setting(  # noqa: RUF009
        None,
        "Method that UIB regularises: an instance, or a key (its settings then are the defaults); None: fine-tuning.",
    )
    beta: float = setting(
        0.3, "Weight β of the prior: how far the run goes to it, e^−β of the way being left; 0: none."
    )
    normalise: bool = setting(True, "Spread β over the run as the learning rates are; off: the objective's raw β.")
    damping: float = setting(0.03, "λ, added to the Fisher information: the larger, the shorter the displacement.")
    refresh: int = setting(0, "Optimiser steps after which the prior is taken anew, at the weights of then; 0: once.")
    layers: str | None = setting(
        None, "Regular expression of the names of parameters that the prior holds; None: all that may move."
    )
    retain_weight: float = setting(
        1.0, "Weight of the retain cross-entropy, where the base does not read the retain set."
    )
    scale: float = setting(1.0, "α, the length of the displacement over what influence functions predict.")
    stop: bool = setting(
        True,
        "End where the base ends, at its forgetting target; off: all steps, as for a pattern, whose rows a retrained model may "
        "well answer otherwise.",
    )
    clip: float = setting(0.3, "c, the greatest displacement of a layer over the norm of its weights.")
    samples: int = setting(1024, "Rows of each set that the statistics pass reads at most, drawn by seed.")
    curvature: str = setting("diagonal", "`diagonal` Fisher information, or the `exact` Hessian for tiny models.")
    prior: str | None = setting(
        None, "File of `save_prior` from the request before this one, whose mean is the anchor."
    )
    diagnostics: dict[str, float] | None = dataclass_field(
        default=None, init=False, metadata={"help": "layer -> ‖Δ‖/‖θ_0‖ before clipping, once the prior is known."}
    )

    def __post_init__(self) -> None:
        for name in ("beta", "retain_weight", "refresh"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}. 0 turns it off.")
        for name in ("damping", "scale", "clip", "samples"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.curvature not in CURVATURES:
            raise ValueError(f"`curvature={self.curvature!r}` is not one of {', '.join(map(repr, CURVATURES))}.")
        self.base = _as_method(self.base)
        self._base: UnlearningMethod = FineTune() if self.base is None else self.base
        # What the trainer asks a method about is the base's answer; it always needs both sets and their labels.
        asked = ("needs_forget", "needs_column", "attribute", "mode")
        vars(self).update({name: getattr(self._base, name) for name in asked if hasattr(self._base, name)})
        vars(self)["stops_at_target"] = self.stop and self._base.stops_at_target
        if self._base.anchors:
            self.anchors, self.anchor_weight = self._base.anchors, self._base.anchor_weight
        self._steps, self._refreshed = 0, False
        self._mean: dict[str, Tensor] = {}
        self._precision: dict[str, Tensor] = {}

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        return self._base.arguments_for(update, kind)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: the base described in turn, of `prior` the file's name alone."""
        base = None if self.base is None else self._base.describe()
        return super().describe() | {"base": base, "prior": self.prior and Path(self.prior).name}

    # --- the prior ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: UnlearningTrainer) -> None:
        self._base.setup(trainer)
        self._steps, self._refreshed = 0, False
        self._mean, self._precision = {}, {}
        if not self.beta:
            return
        if trainer.forget_dataset is None or not hasattr(trainer.retain_dataset, "__len__"):
            raise ValueError(
                "`method='uib'` compares gradients of the rows to forget and of the rows to keep, and needs both sets, of known "
                "length. Pass `forget_dataset` and `retain_dataset`, without `streaming=True`."
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "`method='uib'` needs whole parameters in every process. Run it with plain data parallelism."
            )
        self._names = self._held_names(trainer.model)
        self._anchor = self._read_anchor(trainer)
        retain = PreparedRows(trainer.retain_dataset, trainer.processor, "retain_dataset", cache_bytes=0)
        batch_size = min(trainer.args.eval_batch_size, 64)
        self._samples = tuple(
            Sample(rows, trainer.processor.collate, self.samples, trainer.args.seed, batch_size)  # type: ignore[arg-type]
            for rows in (trainer.forget_rows, retain)
        )
        self._take_prior(trainer.model)

    def _held_names(self, model: nn.Module) -> list[str]:
        """S: what may move and matches `layers`; tied parameters once."""
        moving = [n for n, p in unwrap(model).named_parameters() if p.requires_grad]
        try:
            held = [n for n in moving if re.search(self.layers or "", n)]
        except re.error as error:
            raise ValueError(f"`layers={self.layers!r}` is no regular expression: {error}.") from error
        if not held:
            raise ValueError(
                f"`layers={self.layers!r}` matches no parameter that may move. Their names look like: "
                f"{', '.join(moving[:3])}, …, {moving[-1]}."
            )
        return held

    def _read_anchor(self, trainer: UnlearningTrainer) -> Mapping[str, Tensor]:
        """What the displacement is added to, on the CPU: the original, or the mean of the request before."""
        if self.prior is None:
            assert trainer.original is not None
            return trainer.original.tensors
        anchor, own = _split(load_file(self.prior))[0], dict(unwrap(trainer.model).named_parameters())
        wrong = [n for n in self._names if n not in anchor or anchor[n].shape != own[n].shape]
        if wrong:
            raise ValueError(
                f"`prior={self.prior!r}` does not fit: it has no mean for {len(wrong)} of {len(self._names)} parameters, such as "
                f"`{wrong[0]}`. Use the file of a run on the same architecture, with the same `layers` and `update`."
            )
        return anchor

    def _take_prior(self, model: nn.Module) -> None:
        """Λ and Δ from curvature and gradients at the weights as they are, Δ averaged with those before."""
        former = {n: t.cpu() for n, t in self._mean.items()}
        self._mean, self._precision = {}, {}  # makes room for the pass
        forget, retain = self._samples
        found = influence(model, self._names, forget, retain, damping=self.damping, curvature=self.curvature)
        self.diagnostics = {}
        for layer, names in layer_groups(model, self._names).items():
            moves, curvatures = ([table[n] for n in names] for table in (found.displacement, found.fisher))
            anchors = [self._anchor[n].to(m) for n, m in zip(names, moves, strict=True)]
            length, size = (torch.stack([t.norm() for t in side]).norm().item() for side in (moves, anchors))
            length *= self.scale
            factor = self.scale * min(1.0, self.clip * size / length if length else 1.0)
            level = sum(f.add_(self.damping).sum().item() for f in curvatures) / sum(f.numel() for f in curvatures)
            for name, move, anchor, curvature in zip(names, moves, anchors, curvatures, strict=True):
                self._mean[name], self._precision[name] = move.mul_(factor).add_(anchor), curvature.div_(level)
            self.diagnostics[layer] = length / size if size else float(length > 0)
            logger.info("%s: predicted displacement %.2g of its weights", layer, self.diagnostics[layer])
        if former:  # as many priors came before as there were refreshes, this one left out
            for name, mean in self._mean.items():
                mean.lerp_(former[name].to(mean), 1 - 1 / (1 + self._steps // self.refresh))
        if max(self.diagnostics.values()) < SILENT:
            logger.warning(
                "The prior says nothing: no layer is predicted to move by more than %.0e of its weights. The model has no "
                "gradient on the forget set, as confident ones have not; try a smaller `damping`, or a `base` that moves it.",
                SILENT,
            )

    def save_prior(self, path: str | Path) -> None:
        """Write μ and Λ as safetensors, for the next request of a stream. It is made from the forget set: keep it private."""
        if not self._mean:
            raise RuntimeError("`save_prior`: there is no prior yet. Train first, with `beta` above 0.")
        tables = {"mean": self._mean, "precision": self._precision}
        save_file({f"{kind}/{n}": t.cpu() for kind, table in tables.items() for n, t in table.items()}, path)

    def load_prior(self, path: str | Path) -> None:
        """Start from the prior of the request before: the next run anchors its own at that mean."""
        if not Path(path).is_file():
            raise ValueError(f"`path`: no such file: {path}. Write one with `save_prior` after the request before.")
        self.prior = str(path)

    # --- a step -------------------------------------------------------------------------------------------------------

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        self._base.before_step(model, batches)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        terms = self._base.loss(model, batch, reference)
        if self.retain_weight and not self._base.needs_retain:
            terms["retain"] = self.retain_weight * cross_entropy(model, batch["retain"])
        return terms

    def adjust_gradients(self, model: nn.Module) -> None:
        self._base.adjust_gradients(model)

    @torch.no_grad()
    def _pull(self, model: nn.Module, strength: float) -> None:
        """The proximal step of Σ R with ηβ = `strength`: the minimiser of ½‖θ' − θ‖² + ηβ Σ R(θ')."""
        for name, mean in self._mean.items():
            parameter = unwrap(model).get_parameter(name)
            share = self._precision[name] * strength
            share.div_(1 + share)
            parameter.copy_(torch.lerp(parameter.to(mean), mean, share))

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        self._base.after_step(model, learning_rate, share)
        self._steps += 1
        if not self.beta:
            return
        self._pull(model, self.beta * (share if self.normalise else learning_rate))
        if self.refresh and self._steps % self.refresh == 0:
            self._take_prior(model)
            self._refreshed = True

    # --- what goes with the model and its checkpoints -----------------------------------------------------------------

    def undone(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._base.undone(model)

    def save(self, model: nn.Module, folder: str | Path) -> None:
        self._base.save(model, folder)

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps, "base": self._base.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]
        self._base.load_state(state["base"])

    def save_checkpoint(self, folder: Path) -> None:
        """A refreshed prior, which stems from weights that are gone; the first one is found again by `setup`."""
        self._base.save_checkpoint(folder)
        if self._refreshed:
            self.save_prior(folder / PRIOR_FILE)

    def load_checkpoint(self, folder: Path) -> None:
        self._base.load_checkpoint(folder)
        if (folder / PRIOR_FILE).is_file():
            mean, precision = _split(load_file(folder / PRIOR_FILE))
            self._mean = {n: mean[n].to(t.device) for n, t in self._mean.items()}
            self._precision = {n: precision[n].to(t.device) for n, t in self._precision.items()}
            self._refreshed = True


def _as_method(base: UnlearningMethod | str | None) -> UnlearningMethod | None:
    from . import METHODS

    if isinstance(base, str):
        if base not in METHODS:
            raise ValueError(f"`base={base!r}` is unknown. Known: {', '.join(METHODS)}.")
        base = METHODS[base]()
    if base is None:
        return None
    if not isinstance(base, UnlearningMethod):
        raise TypeError(f"`base` must be an `UnlearningMethod` or a key, got {type(base).__name__}.")
    if base.one_shot or isinstance(base, UIB) or base.name == "retrain":
        raise ValueError(
            f"`base={base.name!r}` has no steps from the original weights that a prior could regularise. Use a gradient method, "
            "such as 'gradient_ascent' or 'marginal_information', or None for fine-tuning."
        )
    return base


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and precision from the entries of a file of `save_prior`."""
    mean, precision = (
        {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)} for kind in ("mean/", "precision/")
    )
    return mean, precision
