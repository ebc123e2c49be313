"""Influence functions: a prediction of how the weights move if rows are taken out of the training data."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ...data.pairs import PreparedRows
from ...data.sampling import drawn_rows
from ...models.forward import classify, eval_mode, in_precision, logits_of, model_inputs, unwrap
from ...utils.distributed import in_parallel, processes, sum_over_processes

logger = logging.getLogger(__name__)

TINY = 1e-20  # curvature of a layer without any gradient
GRADIENT_BYTES = 2**26  # memory of the per-sample gradients of one chunk; a chunk has at least one sample


@dataclass(frozen=True)
class Sample:
    """At most `cap` rows, drawn by seed, of which each process reads its part.

    Args:
        rows: model inputs with labels.
        collate: rows -> batch.
        cap: largest number of rows, over all processes.
        seed: seed of the draw.
        batch_size: rows read at once.
    """

    rows: Sequence[Any] | PreparedRows
    collate: Callable[[list[Any]], Mapping[str, Any]]
    cap: int = 1024
    seed: int = 0
    batch_size: int = 64

    def __len__(self) -> int:
        return min(self.cap, len(self.rows))

    def own_rows(self) -> np.ndarray:
        """Return the numbers of the rows that this process reads, ascending."""
        rank = dist.get_rank() if in_parallel() else 0
        return drawn_rows(len(self.rows), self.cap, self.seed)[rank :: processes()]

    def batches(self, device: torch.device | str) -> Iterator[dict[str, Tensor]]:
        """Yield this process's part, in the order of the data set."""
        own = self.own_rows().tolist()
        for start in range(0, len(own), self.batch_size):
            batch = self.collate([self.rows[i] for i in own[start : start + self.batch_size]])
            yield {k: v.to(device) for k, v in batch.items()}


class SampleGradients:
    """Gradients of the cross-entropy of single samples, in eval mode (no dropout, BatchNorm statistics fixed).

    Args:
        model: a classifier.
        names: names of the parameters to differentiate; tied ones count once, under their first name.
        vectorise: take many samples at once by `torch.func.vmap`. If a model does not allow that, they are taken one by one.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], vectorise: bool = True) -> None:
        self.model, self.vectorise = unwrap(model), vectorise
        self.parameters = {n: self.model.get_parameter(n) for n in names}
        self.chunk = max(1, GRADIENT_BYTES // sum(4 * p.numel() for p in self.parameters.values()))

    def __call__(self, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield name -> (samples, *shape), for one part of the batch after another."""
        for start in range(0, len(batch["labels"]), self.chunk):
            yield self._part({k: v[start : start + self.chunk] for k, v in batch.items()})

    def total(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradient of the sum of the cross-entropies of a batch."""
        loss = F.cross_entropy(classify(self.model, model_inputs(batch)).float(), batch["labels"], reduction="sum")
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(self.parameters.items(), found, strict=True)
        }

    def _part(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with eval_mode(self.model, recompute=False):
            if self.vectorise and self.chunk > 1:
                try:
                    with plain_attention(self.model):
                        return self._vectorised(batch)
                except Exception as error:  # each architecture has its own way to refuse
                    logger.warning(
                        "%s does not allow gradients of many samples at once (%s): taking one after another, which is slower.",
                        type(self.model).__name__,
                        str(error).strip().split("\n")[0],
                    )
                    self.vectorise = False
            singles = [self.total({k: v[i : i + 1] for k, v in batch.items()}) for i in range(len(batch["labels"]))]
        if len(singles) == 1:  # gradients of a large model are not copied
            return {n: g[None] for n, g in singles[0].items()}
        return {n: torch.stack([s[n] for s in singles]) for n in self.parameters}

    def _vectorised(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def single(parameters: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
            batch = {k: v[None] for k, v in row.items()}
            inputs = in_precision(self.model, model_inputs(batch))
            logits = logits_of(functional_call(self.model, parameters, (), inputs))
            return F.cross_entropy(logits.float(), batch["labels"], reduction="sum")

        own = {n: p.detach() for n, p in self.parameters.items()}
        return vmap(grad(single), in_dims=(None, 0), randomness="different")(own, self._with_plain_mask(batch))

    @torch.no_grad()
    def _with_plain_mask(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with its padding mask (B, T) as an addend of the attention scores (B, 1, 1, T), if logits stay equal.

        Models branch on the values of a (B, T) mask, which `vmap` does not allow. Encoders use the other form as it is.
        """
        mask = batch.get("attention_mask")
        if mask is None or mask.ndim != 2:
            return dict(batch)
        score = next(iter(self.parameters.values())).dtype
        plain = {**batch, "attention_mask": (1 - mask[:, None, None].to(score)) * torch.finfo(score).min}
        before = classify(self.model, model_inputs(batch))
        try:
            logits = classify(self.model, model_inputs(plain))
        except Exception:  # OPT counts positions by the mask, Longformer pads it, XLM checks its shape
            return dict(batch)
        return plain if torch.allclose(logits, before, rtol=1e-3, atol=1e-3) else dict(batch)


def mean_gradients(model: nn.Module, names: Sequence[str], sample: Sample) -> dict[str, Tensor]:
    """Return the gradient of the mean cross-entropy over a sample, in evaluation mode, for the parameters `names`.

    Processes share the rows and add up their sums.
    """
    gradients = SampleGradients(model, names)
    means = {n: torch.zeros_like(p) for n, p in gradients.parameters.items()}
    with eval_mode(gradients.model, recompute=False):
        for batch in sample.batches(next(iter(gradients.parameters.values())).device):
            for name, gradient in gradients.total(batch).items():
                means[name].add_(gradient, alpha=1 / len(sample))
    return {name: sum_over_processes(mean) for name, mean in means.items()}


@contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """Compute attention without fused kernels inside: they have no second derivative, and their masks branch on the data."""
    config: Any = getattr(model, "config", None)
    former = getattr(config, "_attn_implementation", None)
    if former not in ("sdpa", "flash_attention_2"):
        yield
        return
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = former


def influence(
    model: nn.Module,
    names: Sequence[str],
    forget: Sample,
    retain: Sample,
    *,
    layers: Mapping[str, Sequence[str]] | None = None,
    damping: float = 0.1,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return Δ = (|ΔD|/|D|) (F + λ)⁻¹ [ḡ(ΔD) − ḡ(D')] and F + λ, with ḡ mean gradients of the cross-entropy, in fp32.

    F is the diagonal empirical Fisher information on D', from per-sample gradients. λ is relative to each layer's mean of F:
    confident models have gradients far below any fixed number, and a fixed λ would turn Δ into a plain gradient. The sign is
    plus, because at a minimum over D the two gradients cancel, and without ΔD the weights may go uphill on it. The diagonal
    misses how a softmax couples its classes: in a last layer of C classes Δ is about C/(C − 1) times too long.

    Processes share the rows and add up their sums, so all have the same result, bit for bit.

    Args:
        forget, retain: samples of the removed data ΔD and of the rest, D'.
        layers: layer -> names of its parameters; None means one layer.
        damping: λ as a share of the layer's mean of F.
    """
    gradients = SampleGradients(model, names)
    parameters = gradients.parameters
    device = next(iter(parameters.values())).device
    fisher = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    move = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    for batch in retain.batches(device):
        for part in gradients(batch):
            for n, g in part.items():
                move[n].sub_(g.sum(0), alpha=1 / len(retain))
                fisher[n].add_(g.float().square().sum(0), alpha=1 / len(retain))
            del part, g
    with eval_mode(gradients.model, recompute=False):
        for batch in forget.batches(device):
            for n, g in gradients.total(batch).items():
                move[n].add_(g, alpha=1 / len(forget))
    share = len(forget.rows) / (len(forget.rows) + len(retain.rows))
    for tensor in (*move.values(), *fisher.values()):
        sum_over_processes(tensor)
    for own in (layers or {"": list(names)}).values():
        level = sum(fisher[n].sum().item() for n in own) / sum(fisher[n].numel() for n in own)
        for n in own:
            fisher[n].add_(max(damping * level, TINY))
    for n, m in move.items():
        m.div_(fisher[n]).mul_(share)
    return move, fisher
