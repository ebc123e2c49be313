"""UIB: training on the retain set under a prior that says where the removal should move each layer; alone, or on top of another method."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..models.forward import classify, eval_mode, model_inputs, unwrap
from ..models.reference import Reference
from ..models.snapshot import Snapshot
from ..models.structure import layer_groups
from ..utils.large_tensors import chunks
from .base import METHODS, Paper, UnlearningMethod, setting
from .components.influence import TINY, Sample, influence
from .components.losses import cross_entropy, kl_to_target
from .components.step_length import OutputProbe, Ray, farthest
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

PRIOR_FILE, TOLD_FILE = "uib_prior.safetensors", "uib_told.safetensors"
LOOK = 4  # steps between two looks whether the base may rest
SILENT = 1e-4  # a displacement, over the norm of its layer, below which the prior says nothing


@dataclass(kw_only=True)
class UIB(UnlearningMethod):
    """UIB (Han et al., "Unlearning Information Bottleneck: Machine Unlearning of Systematic Patterns and Biases", arXiv 2405.14020).

    Needs the forget set ΔD and the retain set D', both with labels. [source]: minimise −I(Y; θ) + β I(X; θ) on D' along the
    layers θ^(1) → … → θ^(L) by a variational bound, with a dynamic prior that integrates the change of the data; influence
    functions give it (UIB-IF); other unlearning methods join through the regulariser R^(l). The paper has no public code, and
    no more of it could be read. [derived], in the form that the Graph Information Bottleneck (arXiv 2010.12811) gives such bounds:

        min_θ  CE(retain) + L_base + β Σ_l R^(l) + ω KL(f_μ ‖ f_θ on ΔD),    R^(l) = ½ (θ − μ)ᵀ Λ (θ − μ),    μ = θ_0 + s Δ
        Δ = (F + λ)⁻¹ (|ΔD|/|D|) [ḡ(ΔD) − ḡ(D')],    λ = `damping` · mean F,    Λ ∝ F + λ, of mean 1, both in each layer

    with ḡ mean gradients and F the diagonal empirical Fisher information on D' (of per-sample gradients), from one pass over at
    most `samples` rows of each set in eval mode; D = ΔD ∪ D'. The plus sign of Δ, and what a layer is (embeddings, each block,
    head), are derived too, and so is the rest:

    - *How far.* On a deep network Δ points the right way and is many times the weights long. s ≤ α is where the outputs on D'
      have moved by KL(f_θ0 ‖ f_μ) = `trust` nats; and on, to `reach` nats at most, while ΔD is answered as before more often
      than unseen rows are, where `eval_dataset` tells how often that is. For a class, s ends where the class is gone.
      No layer moves by more than c of its norm at once.
    - *The run starts at μ*, the mode of the prior, and mends there what the move cost on D'. The KL term is the part of the
      prior's curvature that a diagonal cannot hold, the Fisher information on ΔD, taken in function space; without it
      training on D' leads straight back to θ_0.
    - *The pull* of R acts once after every optimiser step of rate η, so that AdamW does not rescale it: the proximal step
      θ ← (θ + ηβΛμ) / (1 + ηβΛ), stable for any ηβ. β counts over the sum of all η, so that it means the same at any rate
      and length of a run; `normalise=False` is the raw β of the objective.

    `base` is L_base: any gradient method, whose set-up and batches are used. One that stops at a target rests while the forget
    set is there, as it mostly is from the start, and the run goes on. CE(retain) is added where the base does not read the
    retain set itself. β = 0 is the base alone. `refresh` takes F, Δ and s again, at the weights of that moment, s still measured
    from θ_0. For a stream of requests `save_prior` after one and `load_prior` before the next: R then holds μ_before + s Δ.

    Processes share the rows of the statistics pass and add up their sums. Memory beside an ordinary step: μ and Λ, 2 × the
    parameters, and in the pass per-sample gradients of 64 MB or of one sample. `trust`, `reach`, `damping`, `hold` and the
    schedule were chosen on the four recipes on biases that the tables measure; see recipes/README.md.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=UIB(),
                                    forget_dataset=split.forget, retain_dataset=split.retain, eval_dataset=validation)
        ```
    """

    name: ClassVar[str] = "uib"
    paper: ClassVar[Paper | None] = Paper(
        "Unlearning Information Bottleneck: Machine Unlearning of Systematic Patterns and Biases", "2405.14020"
    )
    needs_retain: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    reads_held_out: ClassVar[bool] = True
    reasons: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "fsdp": "its prior is taken from gradients of single rows, and pulls on weights, that must be whole in every process",
            "deepspeed": "its prior pulls on weights of which DeepSpeed keeps a copy of its own to step on",
        }
    )
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "update": "all",
            "trust_region": 0.0,
            "learning_rate": 5e-4,
            "num_train_epochs": 0.5,
            "max_steps": -1,
            "check_steps": 1_000_000,  # the start is off balance on purpose: what counts is the end
            "per_device_train_batch_size": 8,
            "retain_per_forget": 4,
            "weight_average": 0.0,
        }
    )

    base: UnlearningMethod | str | None = setting(  # noqa: RUF009
        None,
        "Method that UIB regularises: an instance, or a key (its settings then are the defaults); None: retain training alone.",
    )
    beta: float = setting(0.3, "Weight β of the pull to the prior: e^−β of a way to it is left after a run; 0: none.")
    normalise: bool = setting(True, "Spread β over the run as the learning rates are; off: the objective's raw β.")
    hold: float = setting(0.25, "Weight ω of the KL divergence that holds the forget set's outputs at the prior's.")
    trust: float = setting(0.03, "KL divergence, in nats, by which the prior may move the outputs on the retain set.")
    reach: float = setting(0.3, "The same, while more of the forget set is remembered than by a retrained model.")
    damping: float = setting(0.1, "λ over the mean Fisher information of the layer.")
    refresh: int = setting(0, "Optimiser steps after which the prior is taken anew, at the weights of then; 0: once.")
    layers: str | None = setting(
        None, "Regular expression of the parameters' names that the prior moves and holds; None: all that may move."
    )
    retain_weight: float = setting(1.0, "Weight of the retain cross-entropy, where the base does not read that set.")
    scale: float = setting(1.0, "α, the greatest s: 1 is what influence functions predict.")
    clip: float = setting(0.3, "c, the greatest displacement of a layer over the norm of its weights.")
    samples: int = setting(512, "Rows of each set that the statistics pass reads at most, drawn by seed.")
    prior: str | None = setting(
        None, "File of `save_prior` from the request before this one, to whose mean s Δ is added."
    )
    diagnostics: dict[str, float] | None = dataclass_field(
        default=None, init=False, metadata={"help": "layer -> ‖sΔ‖/‖θ‖ of the latest prior."}
    )

    def __post_init__(self) -> None:
        for name in ("beta", "retain_weight", "refresh", "hold"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}. 0 turns it off.")
        for name in ("damping", "scale", "clip", "samples", "trust"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not self.reach >= self.trust:
            raise ValueError(f"`reach={self.reach}` must not be below `trust={self.trust}`: it is how far at most.")
        if self.base is None and not (self.retain_weight or self.hold):
            raise ValueError(
                "`retain_weight=0` and `hold=0` leave nothing to train on without a `base`. Set one of them."
            )
        self.base = _as_method(self.base)
        self._base: UnlearningMethod = UnlearningMethod() if self.base is None else self.base
        # What the trainer asks a method about is the base's answer; it always needs the retain set and all labels.
        asked = ("needs_column", "attribute")
        vars(self).update({name: getattr(self._base, name) for name in asked if hasattr(self._base, name)})
        # A batch is led by the rows to forget, or by those of a column; without a prior, the base ends as it does alone.
        ends = not self.beta and self._base.stops_at_target
        backends = self.backends & self._base.backends
        vars(self).update(needs_forget=not self.needs_column, stops_at_target=ends, backends=backends)
        if self._base.anchors:
            self.anchors, self.anchor_weight = self._base.anchors, self._base.anchor_weight
        self._steps, self._refreshed, self._resting = 0, False, self.base is None
        self._mean: dict[str, Tensor] = {}
        self._precision: dict[str, Tensor] = {}
        self._told: Tensor | None = None  # log-probabilities (forget rows, classes) at the prior's mean

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        base = self._base.arguments_for(update, kind)
        if not self.beta and self.base is not None:
            return base
        return {**base, **self.arguments, "update": base.get("update", self.arguments["update"])}

    def moves_statistics(self) -> bool:
        return self._base.moves_statistics()

    def describe(self) -> dict[str, Any]:
        """JSON-ready: the base described in turn, of `prior` the file's name alone."""
        base = None if self.base is None else self._base.describe()
        return super().describe() | {"base": base, "prior": self.prior and Path(self.prior).name}

    def measures(self) -> dict[str, float]:
        return {f"displacement/{layer}": length for layer, length in (self.diagnostics or {}).items()}

    # --- the prior ----------------------------------------------------------------------------------------------------

    def setup(self, run: UnlearningRun) -> None:
        self._base.setup(run)
        self._steps, self._refreshed = 0, False
        self._mean, self._precision, self._told = {}, {}, None
        self._resting = self.base is None
        if not self.beta:
            return
        if run.forget_dataset is None or not hasattr(run.retain_dataset, "__len__"):
            raise ValueError(
                "`method='uib'` compares gradients of the rows to forget and of the rows to keep, and needs both sets, of known "
                "length. Pass `forget_dataset` and `retain_dataset`, without `streaming=True`."
            )
        self._names = self._held_names(run.model)
        self._offset = self._read_offset(run.model)
        retain = PreparedRows(run.retain_dataset, run.processor, "retain_dataset", cache_bytes=0)
        batch_size = min(run.args.eval_batch_size, 64)
        self._samples = tuple(
            Sample(rows, run.processor.collate, self.samples, run.args.seed, batch_size)  # type: ignore[arg-type]
            for rows in (run.forget_rows, retain)
        )
        self._probe = OutputProbe(run, *self._samples)
        self._run = run
        self._take_prior(run.model)
        self._resting = self._may_rest()

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

    def _read_offset(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The mean of the request before, less the weights that this one starts from; on the CPU, empty where there was none."""
        if self.prior is None:
            return {}
        former, own = _read_prior(self.prior)[0], dict(unwrap(model).named_parameters())
        wrong = [n for n in self._names if n not in former or former[n].shape != own[n].shape]
        if wrong:
            raise ValueError(
                f"`prior={self.prior!r}` does not fit: it has no mean for {len(wrong)} of {len(self._names)} parameters, such as "
                f"`{wrong[0]}`. Use the file of a run on the same architecture, with the same `layers` and `update`."
            )
        return {n: former[n] - own[n].detach().float().cpu() for n in self._names}

    @torch.no_grad()
    def _take_prior(self, model: nn.Module) -> None:
        """μ and Λ from curvature and gradients at the weights as they are, which then move by s Δ."""
        self._mean, self._precision = {}, {}  # makes room for the pass
        layers, (forget, retain) = layer_groups(model, self._names), self._samples
        with torch.enable_grad():
            found = influence(model, self._names, forget, retain, layers=layers, damping=self.damping)
        ray = Ray(model, layers, found.displacement, self.clip)
        if self.scale * max(ray.lengths.values()) < SILENT:
            logger.warning(
                "The prior says nothing: no layer is predicted to move by more than %.0e of its weights. The model has no "
                "gradient on the forget set, as confident ones have not; try a smaller `damping`, or a `base` that moves it.",
                SILENT,
            )

        def far_enough(s: float) -> bool:
            ray.go(s)
            return self._probe.far_enough(self.trust, self.reach)

        # KL is half the squared length of a small step in the metric F: a first guess of s
        curved = sum((m.square() * found.precision[n]).sum().item() for n, m in found.displacement.items())
        ray.go(farthest(far_enough, math.sqrt(2 * self.trust / max(curved, TINY)), self.scale))
        moves, self.diagnostics = ray.gone()
        for layer, names in layers.items():
            level = sum(found.precision[n].sum().item() for n in names) / sum(moves[n].numel() for n in names)
            logger.info("%s: displaced by %.2g of its weights", layer, self.diagnostics[layer])
            for n in names:
                self._precision[n] = found.precision[n].div_(level)
                self._mean[n] = moves[n].add_(ray.start[n])
                if self._offset:  # of the mean of the request before from where this one starts
                    self._mean[n].add_(self._offset[n].to(moves[n]))
        run = self._run
        run.monitor.model_changed()
        if self.needs_forget and self.hold:
            self._told = run.monitor.forget_logits()
            run.monitor.model_changed()  # what it saw is the prior's, not the start's
            for (part,) in chunks(self._told):
                part.copy_(part.softmax(-1))

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
        if not self._resting:
            self._base.before_step(model, batches)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        terms = {} if self._resting else self._base.loss(model, batch, reference)
        if self._told is not None:
            with eval_mode(model):
                logits = classify(model, model_inputs(batch["forget"]))
            target = self._told[batch["index"].cpu()].to(logits.device)
            terms["hold"] = self.hold * kl_to_target(target, logits)
        # The base covers it, or nothing is there to mend; and a step needs a term.
        covered = not self._resting and (self._base.needs_retain or not self.beta)
        if not covered and (self.retain_weight or not terms):
            terms["retain"] = self.retain_weight * cross_entropy(model, batch["retain"])
        return terms

    def adjust_gradients(self, model: nn.Module) -> None:
        if not self._resting:
            self._base.adjust_gradients(model)

    def _may_rest(self) -> bool:
        """Whether L_base has nothing left to do: the forget set is at its target, or no further from it than is known."""
        return self.base is None or (self._base.stops_at_target and self._probe.at_target())

    @torch.no_grad()
    def _pull(self, model: nn.Module, strength: float) -> None:
        """The proximal step of Σ R with ηβ = `strength`: the minimiser of ½‖θ' − θ‖² + ηβ Σ R(θ')."""
        for name, mean in self._mean.items():
            parameter = unwrap(model).get_parameter(name)
            share = self._precision[name] * strength
            share.div_(1 + share)
            parameter.copy_(torch.lerp(parameter.to(mean), mean, share))

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        if not self._resting:
            self._base.after_step(model, learning_rate, share)
        self._steps += 1
        if not self.beta:
            return
        self._pull(model, self.beta * (share if self.normalise else learning_rate))
        if self.refresh and self._steps % self.refresh == 0:
            self._take_prior(model)
            self._refreshed = True
        if not self._resting and self._steps % LOOK == 0:
            self._resting = self._may_rest()

    # --- what goes with the model and its checkpoints -----------------------------------------------------------------

    @contextmanager
    def undone(self, model: nn.Module) -> Iterator[None]:
        """Inside, the weights are the original's again."""
        moved = Snapshot(model, self._mean)
        if self._mean and model is self._run.model:
            self._run.original.restore(model)  # type: ignore[union-attr]
        try:
            with self._base.undone(model):
                yield
        finally:
            moved.restore(model)

    def save(self, model: nn.Module, folder: str | Path) -> None:
        self._base.save(model, folder)

    def state(self) -> dict[str, Any]:
        own = {"steps": self._steps, "resting": self._resting, "diagnostics": self.diagnostics}
        return {**own, "base": self._base.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._steps, self._resting, self.diagnostics = state["steps"], state["resting"], state["diagnostics"]
        self._base.load_state(state["base"])

    def save_checkpoint(self, folder: Path) -> None:
        """A refreshed prior, which stems from weights that are gone; the first one is found again by `setup`."""
        self._base.save_checkpoint(folder)
        if self._refreshed:
            self.save_prior(folder / PRIOR_FILE)
            if self._told is not None:
                save_file({"told": self._told}, folder / TOLD_FILE)

    def load_checkpoint(self, folder: Path) -> None:
        self._base.load_checkpoint(folder)
        if (folder / PRIOR_FILE).is_file():
            mean, precision = _read_prior(folder / PRIOR_FILE)
            self._mean = {n: mean[n].to(t.device) for n, t in self._mean.items()}
            self._precision = {n: precision[n].to(t.device) for n, t in self._precision.items()}
            self._refreshed = True
        if (folder / TOLD_FILE).is_file():
            self._told = load_file(folder / TOLD_FILE)["told"]


def _as_method(base: UnlearningMethod | str | None) -> UnlearningMethod | None:
    if isinstance(base, str):
        if base not in METHODS:
            raise ValueError(f"`base={base!r}` is unknown. Known: {', '.join(METHODS)}.")
        base = METHODS[base]()
    if base is None:
        return None
    if not isinstance(base, UnlearningMethod):
        raise TypeError(f"`base` must be an `UnlearningMethod` or a key, got {type(base).__name__}.")
    if base.one_shot or isinstance(base, UIB) or base.starts_fresh:
        raise ValueError(
            f"`base={base.name!r}` has no steps from the original weights that a prior could regularise. Use a gradient method, "
            "such as 'gradient_ascent' or 'marginal_information', or None for fine-tuning."
        )
    return base


def _read_prior(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and precision from a file of `save_prior`."""
    tensors = load_file(path)
    mean, precision = (
        {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)} for kind in ("mean/", "precision/")
    )
    return mean, precision
