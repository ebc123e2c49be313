"""UIB: training on the retain set under a prior on the weights, alone or on top of another method."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..models.forward import classify, eval_mode, model_inputs, unwrap
from ..models.reference import Reference
from ..models.snapshot import Snapshot
from ..models.structure import layer_groups
from ..utils.argument_checks import check_positive
from ..utils.large_tensors import chunks
from ..utils.loading_errors import loading
from .base import ALL_WEIGHTS, METHODS, Paper, UnlearningMethod, setting
from .components.influence import GRADIENT_BYTES, TINY, Sample, influence
from .components.losses import cross_entropy, kl_to_target
from .components.step_length import OutputProbe, Ray, farthest
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

PRIOR_FILE, OUTPUTS_FILE = "uib_prior.safetensors", "uib_told.safetensors"
CHECK_BASE_EVERY = 4  # steps between two checks that the base can pause
ALONE, TOGETHER = 7, 2  # rows of a training that the gradient of a single row costs, one by one and many at once
SMALLEST_MOVE = 1e-4  # share of a layer's norm; a prior that moves every layer by less has no effect


@dataclass(kw_only=True)
class UIB(UnlearningMethod):
    """Train on the retain set under a prior that predicts how the removal moves each layer (Han et al.).

    With ΔD the forget set, D' the retain set, D their union and θ_0 the original, minimize

        CE(D') + L_base + β Σ_l R^(l) + ω KL(f_μ ‖ f_θ on ΔD),    R^(l) = ½ (θ − μ)ᵀ Λ (θ − μ),    μ = θ_0 + s Δ
        Δ = (F + λ)⁻¹ (|ΔD|/|D|) [ḡ(ΔD) − ḡ(D')],    λ = `damping` · mean F,    Λ ∝ F + λ, of mean 1, both in each layer

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 2, those of the base, and one pass over `samples` rows first | μ and Λ: 2 × the weights |

    [source: arXiv 2405.14020] −I(Y; θ) + β I(X; θ) is minimized on D' along the layers θ^(1) → … → θ^(L) by a variational bound;
    a dynamic prior integrates the change of the data; influence functions give it (UIB-IF); other methods join through R^(l).
    The paper has no public code, and no more of it could be read. All else is [derived]: the form of the bound, which is that of
    the Graph Information Bottleneck (arXiv 2010.12811), the plus sign of Δ, the layers (embeddings, each block, head), and

    - *The step length s.* On a deep network Δ points the right way and is many times too long. The step grows until outputs on
      retained rows have moved by KL(f_θ0 ‖ f_μ) = `trust` nats. If the forget set is still remembered more often than unseen
      rows of `eval_dataset` are, it continues, to at most `reach` nats. For a class, it ends once the class is forgotten. No
      step is longer than α, and no layer moves by more than `clip` of its norm.
    - *The start at μ*, the mode of the prior. Training repairs there what the move cost on D'. The KL term is the curvature that
      a diagonal cannot hold, the Fisher information on ΔD in function space. Without it training leads back to θ_0.
    - *The pull* of R acts once after every optimizer step of rate η, so that AdamW does not rescale it. The proximal step
      θ ← (θ + ηβΛμ) / (1 + ηβΛ) is stable for any ηβ.

    ḡ are mean gradients, and F is the diagonal empirical Fisher information on D', from per-sample gradients in eval mode. A
    base that stops at a target ends for good once the forget set is at it. CE(D') is left out while a base reads the retain set.

    Use it if the removed rows share a pattern or bias, or to regularize another gradient method. Do not use it with a streamed
    data set, or if the model has no gradient on the forget set (a warning says so).

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
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "its prior is taken from gradients of single rows, and pulls on weights, that must be whole in every process",
        "deepspeed": "its prior pulls on weights, and DeepSpeed steps on a copy of its own",
    }
    arguments: ClassVar[Mapping[str, Any]] = {
        **ALL_WEIGHTS,
        "learning_rate": 5e-4,
        "num_train_epochs": 0.5,
        "check_steps": 1_000_000,  # the start is meant to lose accuracy, so only the end is checked
        "per_device_train_batch_size": 8,
        "retain_per_forget": 4,
        "weight_average": 0.0,
    }

    base: UnlearningMethod | str | None = setting(  # noqa: RUF009
        None,
        "Method L_base that the prior regularizes: an instance, or a key of the table (with default settings). None means "
        "training on the retain set alone.",
    )
    beta: float = setting(0.3, "Weight β of the pull to the prior. A run leaves e^−β of the distance. 0 means no pull.")
    normalise: bool = setting(True, "Spread β over the run as the learning rates are. If off, the raw β acts.")
    hold: float = setting(0.25, "Weight ω of the KL divergence that keeps forget-set outputs at those of the prior.")
    trust: float = setting(0.03, "KL divergence, in nats, by which the prior may move the outputs on the retain set.")
    reach: float = setting(
        0.3,
        "Upper limit, in nats, on how far the prior may move retain-set outputs while the forget set is still over its target "
        "(`trust` applies otherwise).",
    )
    damping: float = setting(0.1, "Damping λ of the curvature, as a share of the layer's mean Fisher information.")
    refresh: int = setting(0, "Compute the prior again every so many optimizer steps. 0 means only once.")
    layers: str | None = setting(None, "Regular expression for the names of parameters with a prior. None means all.")
    retain_weight: float = setting(1.0, "Weight of the retain set's cross-entropy, unless the base reads that set.")
    scale: float = setting(1.0, "Largest step length α along the displacement. Influence functions predict 1.")
    clip: float = setting(0.3, "Largest displacement of a layer, as a share of the norm of its weights.")
    samples: int = setting(512, "Largest number of rows of each set that the statistics pass reads, drawn by seed.")
    prior: str | None = setting(None, "File of `save_prior` from the request before, to whose mean s Δ is added.")
    diagnostics: dict[str, float] | None = field(
        default=None, init=False, metadata={"help": "The table layer -> ‖sΔ‖/‖θ‖ of the latest prior."}
    )

    def __post_init__(self) -> None:
        for name in ("beta", "retain_weight", "refresh", "hold"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}. 0 turns it off.")
        check_positive(self, "damping", "scale", "clip", "samples", "trust")
        if not self.reach >= self.trust:
            raise ValueError(f"`reach={self.reach}` must not be below `trust={self.trust}`: it is the upper limit.")
        if self.base is None and not (self.retain_weight or self.hold):
            raise ValueError("`retain_weight=0` and `hold=0` leave nothing to train on. Set one, or a `base`.")
        self.base = _as_method(self.base)
        self._base: UnlearningMethod = UnlearningMethod() if self.base is None else self.base
        # The trainer reads these from a method, and here the base decides them. Without a prior, the base ends as it does alone.
        vars(self).update(
            {name: getattr(self._base, name) for name in ("needs_column", "attribute") if hasattr(self._base, name)},
            needs_forget=not self._base.needs_column,
            stops_at_target=not self.beta and self._base.stops_at_target,
            backends=self.backends & self._base.backends,
        )
        if self._base.anchors:
            self.anchors, self.anchor_weight = self._base.anchors, self._base.anchor_weight
        self._reset()

    def _reset(self) -> None:
        self._steps, self._refreshed, self._base_paused = 0, False, self.base is None
        self._mean: dict[str, Tensor] = {}
        self._precision: dict[str, Tensor] = {}
        self._prior_outputs: Tensor | None = None  # probabilities (forget rows, classes) at the prior's mean

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        base = self._base.arguments_for(update, kind)
        if not self.beta and self.base is not None:
            return base
        return {**base, **self.arguments, "update": base.get("update", self.arguments["update"])}

    def rows_before_steps(self, forget_rows: int, retain_rows: int, weights: int) -> int:
        before = self._base.rows_before_steps(forget_rows, retain_rows, weights)
        cost = ALONE if 4 * weights > GRADIENT_BYTES else TOGETHER
        rows = min(self.samples, forget_rows) + min(self.samples, retain_rows)
        return before + (cost * rows if self.beta else 0)

    def moves_statistics(self) -> bool:
        return self._base.moves_statistics()

    def describe(self) -> dict[str, Any]:
        """Return a JSON-ready description, with the base described too and only the name of the file `prior`."""
        base = None if self.base is None else self._base.describe()
        return super().describe() | {"base": base, "prior": self.prior and Path(self.prior).name}

    def measures(self) -> dict[str, float]:
        return {f"displacement/{layer}": length for layer, length in (self.diagnostics or {}).items()}

    def setup(self, run: UnlearningRun) -> None:
        self._base.setup(run)
        self._reset()
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
        how = (run.processor.collate, self.samples, run.args.seed, min(run.args.eval_batch_size, 64))
        self._samples = Sample(run.forget_rows, *how), Sample(retain, *how)
        self._probe = OutputProbe(run, *self._samples)
        self._run = run
        self._take_prior(run.model)
        self._base_paused = self._base_can_pause()

    def _held_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters with a prior: those that may move and match `layers`, tied ones once."""
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
        """Return the mean of the former request's prior minus the present weights, on the CPU; empty without a `prior`."""
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
        """Compute μ and Λ at the present weights, and move the weights by s Δ."""
        self._mean, self._precision = {}, {}  # frees their memory for the pass
        layers, (forget, retain) = layer_groups(model, self._names), self._samples
        with torch.enable_grad():
            displacement, precision = influence(model, self._names, forget, retain, layers=layers, damping=self.damping)
        ray = Ray(model, layers, displacement, self.clip)
        if self.scale * max(ray.lengths.values()) < SMALLEST_MOVE:
            logger.warning(
                "The prior has no effect: no layer is predicted to move by more than %.0e of its weights. The model has no "
                "gradient on the forget set, because it is too confident. Try a smaller `damping`, or a `base` that moves it.",
                SMALLEST_MOVE,
            )

        def far_enough(s: float) -> bool:
            ray.move_to(s)
            return self._probe.far_enough(self.trust, self.reach)

        # The KL divergence of a small step is half its squared length in the metric F, which gives a first guess of s.
        curved = sum((m.square() * precision[n]).sum().item() for n, m in displacement.items())
        ray.move_to(farthest(far_enough, math.sqrt(2 * self.trust / max(curved, TINY)), self.scale))
        moves, self.diagnostics = ray.moved_by()
        for layer, names in layers.items():
            logger.info("%s: displaced by %.2g of its weights", layer, self.diagnostics[layer])
            level = sum(precision[n].sum().item() for n in names) / sum(moves[n].numel() for n in names)
            for n in names:
                self._precision[n] = precision[n].div_(level)
                self._mean[n] = moves[n].add_(ray.start[n])
                if self._offset:
                    self._mean[n].add_(self._offset[n].to(moves[n]))
        monitor = self._run.monitor
        monitor.model_changed()
        if self.needs_forget and self.hold:
            self._prior_outputs = monitor.forget_logits()
            monitor.model_changed()  # the monitor must not keep these outputs as those of the start
            for (part,) in chunks(self._prior_outputs):
                part.copy_(part.softmax(-1))

    def save_prior(self, path: str | Path) -> None:
        """Write μ and Λ as safetensors, for the next request of a stream. The file depends on the forget set: keep it private."""
        if not self._mean:
            raise RuntimeError("`save_prior`: there is no prior yet. Train first, with `beta` above 0.")
        tables = {"mean": self._mean, "precision": self._precision}
        save_file({f"{kind}/{n}": t.cpu() for kind, table in tables.items() for n, t in table.items()}, path)

    def load_prior(self, path: str | Path) -> None:
        """Use the prior of the request before: the next run adds its displacement to that mean."""
        if not Path(path).is_file():
            raise ValueError(f"`path`: no such file: {path}. Write one with `save_prior` after the request before.")
        self.prior = str(path)

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        if not self._base_paused:
            self._base.before_step(model, batches)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        terms = {} if self._base_paused else self._base.loss(model, batch, reference)
        if self._prior_outputs is not None:
            with eval_mode(model):
                logits = classify(model, model_inputs(batch["forget"]))
            target = self._prior_outputs[batch["index"].cpu()].to(logits.device)
            terms["hold"] = self.hold * kl_to_target(target, logits)
        # The base trains on the retain set itself, or without a prior there is nothing to repair. Every step needs a term.
        covered = not self._base_paused and (self._base.needs_retain or not self.beta)
        if not covered and (self.retain_weight or not terms):
            terms["retain"] = self.retain_weight * cross_entropy(model, batch["retain"])
        return terms

    def adjust_gradients(self, model: nn.Module) -> None:
        if not self._base_paused:
            self._base.adjust_gradients(model)

    def _base_can_pause(self) -> bool:
        """Return True if L_base has nothing left to do, because the forget set is at its target."""
        return self.base is None or (self._base.stops_at_target and self._probe.at_target())

    @torch.no_grad()
    def _pull(self, model: nn.Module, strength: float) -> None:
        """Take the proximal step of Σ R with ηβ = `strength`: the minimizer of ½‖θ' − θ‖² + ηβ Σ R(θ')."""
        for name, mean in self._mean.items():
            parameter = unwrap(model).get_parameter(name)
            share = self._precision[name] * strength
            share.div_(1 + share)
            parameter.copy_(torch.lerp(parameter.to(mean), mean, share))

    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        if not self._base_paused:
            self._base.after_step(model, learning_rate, share)
        self._steps += 1
        if not self.beta:
            return
        self._pull(model, self.beta * (share if self.normalise else learning_rate))
        if self.refresh and self._steps % self.refresh == 0:
            self._take_prior(model)
            self._refreshed = True
        if not self._base_paused and self._steps % CHECK_BASE_EVERY == 0:
            self._base_paused = self._base_can_pause()

    @contextmanager
    def undone(self, model: nn.Module) -> Iterator[None]:
        """Put the original's weights back inside the context."""
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
        own = {"steps": self._steps, "resting": self._base_paused, "diagnostics": self.diagnostics}
        return {**own, "base": self._base.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._steps, self._base_paused, self.diagnostics = state["steps"], state["resting"], state["diagnostics"]
        self._base.load_state(state["base"])

    def save_checkpoint(self, folder: Path) -> None:
        """Write a refreshed prior, which depends on weights that no file holds. `setup` computes the first prior again."""
        self._base.save_checkpoint(folder)
        if self._refreshed:
            self.save_prior(folder / PRIOR_FILE)
            if self._prior_outputs is not None:
                save_file({"told": self._prior_outputs}, folder / OUTPUTS_FILE)

    def load_checkpoint(self, folder: Path) -> None:
        self._base.load_checkpoint(folder)
        if (folder / PRIOR_FILE).is_file():
            for table, found in zip((self._mean, self._precision), _read_prior(folder / PRIOR_FILE), strict=True):
                table.update({n: found[n].to(t.device) for n, t in table.items()})
            self._refreshed = True
        if (folder / OUTPUTS_FILE).is_file():
            self._prior_outputs = load_file(folder / OUTPUTS_FILE)["told"]


def _as_method(base: UnlearningMethod | str | None) -> UnlearningMethod | None:
    if isinstance(base, str):
        if base not in METHODS:
            raise ValueError(f"`base={base!r}` is unknown. Known: {', '.join(METHODS)}.")
        base = METHODS[base]()
    if base is None:
        return None
    if not isinstance(base, UnlearningMethod):
        raise TypeError(f"`base` must be an `UnlearningMethod` or a key, got {type(base).__name__}.")
    if base.one_shot or isinstance(base, UIB) or base.starts_fresh or base.reads_base:
        raise ValueError(
            f"`base={base.name!r}` has no steps from the original weights that a prior could regularise. Use a gradient method, "
            "such as 'gradient_ascent' or 'marginal_information', or None for fine-tuning."
        )
    return base


def _read_prior(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return mean and precision from a file of `save_prior`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"`prior={str(path)!r}` is no file. Give the one that `save_prior` wrote.")
    with loading("prior"):
        tensors = load_file(path)
    mean, precision = (
        {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)} for kind in ("mean/", "precision/")
    )
    return mean, precision
