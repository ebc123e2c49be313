"""Mutual information between a model's outputs and a group, its bounds, and its audit.

Two questions, one quantity (Xu and Strohmer, "Machine Unlearning via Information Theoretic Regularization", arXiv
2502.05684): *data points*, does the output tell whether the forgotten rows were in the pool (`marginal_information`), and
*features*, does it tell an attribute (`group_information`). Ŷ is a class drawn from the softmax, so all that enters is the
mean softmax vector of each group. All values are in nats; the computation is in fp32, or in fp64 where that is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

PERMUTATIONS = 200  # relabellings behind the null level
CHUNK = 4_000_000  # resampled rows held at once: about 100 MB


def entropy(p: Tensor) -> Tensor:
    """Entropy (...) in nats of probability vectors `p` (..., C); 0 log 0 = 0.

    The gradient at p = 0 is large but finite, so that a softmax that underflowed passes on 0 and not NaN.
    """
    p = _precise(p)
    return -torch.xlogy(p, p.clamp_min(torch.finfo(p.dtype).tiny)).sum(-1)


def group_information(means: Tensor, counts: Any) -> Tensor:
    """Î(Ŷ;Z) = H(p̄) − Σ_k π_k H(p̄_k), the information that the output holds on the group. Differentiable in `means`.

    arXiv 2502.05684, feature unlearning; the plug-in estimator [derived]. At most min(H(π), ln C). NaN in a group with
    samples comes through, so that a training loop sees it in its loss.

    Args:
        means: (..., K, C) mean softmax vector p̄_k of each group.
        counts: (..., K) samples n_k of each group; π_k = n_k / Σ n. Groups without samples are ignored, whatever their mean.

    Returns:
        (...) nats.

    Raises:
        ValueError: fewer than two groups or classes, or shapes that do not fit.
    """
    means = _precise(means)
    counts = torch.as_tensor(counts, dtype=means.dtype, device=means.device)
    if means.ndim < 2 or counts.shape != means.shape[:-1]:
        raise ValueError(
            f"`counts` of shape {tuple(counts.shape)} does not fit `means` of shape {tuple(means.shape)}: give one count per "
            "group, (..., K), and one vector per group, (..., K, C)."
        )
    _at_least_two(means.shape[-1], "`means`", "classes")
    _at_least_two(means.shape[-2], "`means`", "groups")
    shares = _shares(counts)
    means = torch.where(counts[..., None] > 0, means, 0.0)
    return entropy(_mix(means, shares)) - (shares * entropy(means)).sum(-1)


def marginal_information(retain_mean: Tensor, forget_mean: Tensor, n_retain: Any, n_forget: Any) -> Tensor:
    """Î(Ŷ;Z), Z telling the union D_r ∪ D_f (Z=0) from the retain set D_r alone (Z=1). Differentiable in the means.

    arXiv 2502.05684, data-point unlearning. [derived] closed form of the paper's estimator: with ρ = n_f / (n_r + n_f),
    m_1 = p̄_r, m_0 = (1−ρ) p̄_r + ρ p̄_f and π = (n_r + n_f, n_r) / (2 n_r + n_f),

        Î = H(π_0 m_0 + π_1 m_1) − π_0 H(m_0) − π_1 H(m_1),     ∂Î/∂p̄_f = (n_f/N) log(m_0/m) up to a constant

    Means of parts of a batch do not add up: pool p̄ and the counts over the whole batch first.

    Args:
        retain_mean, forget_mean: (..., C) mean softmax vectors.
        n_retain, n_forget: (...) samples behind them, numbers or tensors; with none on a side its mean is ignored.

    Returns:
        (...) nats, 0 where a side is empty.

    Raises:
        ValueError: fewer than two classes, or means of different shapes.
    """
    if retain_mean.shape != forget_mean.shape:
        raise ValueError(
            f"`retain_mean` {tuple(retain_mean.shape)} and `forget_mean` {tuple(forget_mean.shape)} differ in shape: both "
            "are (..., C), of the same classes."
        )
    sides = torch.stack([_precise(retain_mean), _precise(forget_mean)], -2)
    sizes = [torch.as_tensor(n, dtype=sides.dtype, device=sides.device) for n in (n_retain, n_forget)]
    counts = torch.stack(sizes, -1)
    sides = torch.where(counts[..., None] > 0, sides, 0.0)
    union = _mix(sides, _shares(counts))
    drawn_from = torch.stack([counts.sum(-1), counts[..., 0]], -1)
    return group_information(torch.stack([union, sides[..., 0, :]], -2), drawn_from)


def disjoint_information(n_retain: Any, n_forget: Any) -> Tensor:
    """The greatest value of `marginal_information`, () nats in fp64: forget and retain outputs share no class.

    H(π) − (1 − π_0 ρ) ln 2 [derived]. Dividing by it makes the weight γ of the term comparable across batch ratios. 0 where
    a side is empty: there is nothing to tell apart, and nothing to divide by.
    """
    n_retain, n_forget = (torch.as_tensor(n, dtype=torch.float64) for n in (n_retain, n_forget))
    apart = torch.eye(2, dtype=torch.float64, device=n_retain.device)
    return marginal_information(apart[0], apart[1], n_retain, n_forget)


def conditional_information(means: Tensor, counts: Any) -> Tensor:
    """Σ_y π_y Î(Ŷ;Z|Y=y): what the output tells on the group beyond the label (equalised odds). [derived]

    Args:
        means: (..., Y, K, C) mean softmax vectors by label and group.
        counts: (..., Y, K) samples; empty cells are ignored, and a label with one group adds 0.

    Returns:
        (...) nats.

    Raises:
        ValueError: as `group_information`.
    """
    values = group_information(means, counts)
    by_label = torch.as_tensor(counts, dtype=values.dtype, device=values.device).sum(-1)
    return (_shares(by_label) * values).sum(-1)


# --- bounds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """What an information value means for someone who sees one output Ŷ (a class, not the probabilities) and guesses Z.

    Bounds on population quantities of the pooled output [derived]; they say nothing about one sample, and on estimates they
    are estimates.

    Attributes:
        information: I, nats.
        total_variation: TV(m_0, m_1), the greatest difference in the probability of any set of classes.
        total_variation_bound: sqrt(I / (2 π_0 π_1)), at most 1; TV never exceeds it.
        attacker_accuracy: of the best guess, Σ_c max_z π_z m_z(c).
        attacker_bound: max(π) + sqrt(I/2), at most 1; the accuracy never exceeds it.
        epsilon: max_c |log m_0(c)/m_1(c)|, nats; None where a class has probability 0 in one group only.
        information_bound: 2 π_0 π_1 ε tanh(ε/2), nats; I never exceeds it. None with `epsilon`.
    """

    information: float
    total_variation: float
    total_variation_bound: float
    attacker_accuracy: float
    attacker_bound: float
    epsilon: float | None
    information_bound: float | None


def information_bounds(m0: Tensor, m1: Tensor, pi0: float) -> Bounds:
    """`Bounds` of two groups with mean outputs `m0`, `m1` (C,) and shares `pi0`, 1 − `pi0`; in fp64.

    Raises:
        ValueError: not two probability vectors of the same two or more classes, or `pi0` outside (0, 1).
    """
    if not 0 < pi0 < 1:
        raise ValueError(
            f"`pi0` must lie strictly between 0 and 1, got {pi0}: with one group there is nothing to guess."
        )
    if m0.shape != m1.shape or m0.ndim != 1:
        raise ValueError(f"`m0` {tuple(m0.shape)} and `m1` {tuple(m1.shape)} must both be (C,), of the same classes.")
    a, b = _probabilities(m0[None], "`m0`")[0], _probabilities(m1[None], "`m1`")[0]
    pi1 = 1 - pi0
    information = max(0.0, group_information(torch.stack([a, b]), [pi0, pi1]).item())
    seen = (a > 0) | (b > 0)
    epsilon = (a[seen].log() - b[seen].log()).abs().max().item()
    finite = math.isfinite(epsilon)
    return Bounds(
        information=information,
        total_variation=0.5 * (a - b).abs().sum().item(),
        total_variation_bound=min(1.0, math.sqrt(information / (2 * pi0 * pi1))),
        attacker_accuracy=torch.maximum(pi0 * a, pi1 * b).sum().item(),
        attacker_bound=min(1.0, max(pi0, pi1) + math.sqrt(information / 2)),
        epsilon=epsilon if finite else None,
        information_bound=2 * pi0 * pi1 * epsilon * math.tanh(epsilon / 2) if finite else None,
    )


# --- audit ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InformationAudit:
    """An estimate of I(Ŷ;Z) from samples: an audit, not a certificate.

    The plug-in estimate lies above the truth, by about (K−1)(C−1)/2n nats at worst: `null` is its mean where the groups were
    permuted and nothing is left to find, `null_high` the upper end there. A `value` under `null_high` is not told apart from
    zero. The interval takes the bias off: a resample estimates on a sample, so the draws carry the bias twice, and the
    quantiles are moved down by twice what the draws' mean exceeds `value` by [derived; covers the truth in 94 to 100 % of
    300 trials at n = 200 and 2,000 where plain quantiles never cover 0]. `high` can lie below `value`.

    Attributes:
        value: Î, nats; with labels Î(Ŷ;Z|Y).
        low, high: ends of the interval of confidence `level`, nats, not below 0.
        null, null_high: mean and `level` quantile under permuted groups (within each label, where labels are given), nats.
        normalised: value / its greatest: H(Z), H(Z|Y), or `disjoint_information`. 0 is nothing, 1 tells the group for certain.
        counts: samples of each group.
        bounds: for two groups without labels, else None.
        conditional: whether labels were given.
        level, resamples, seed: of the bootstrap.
    """

    value: float
    low: float
    high: float
    null: float
    null_high: float
    normalised: float
    counts: dict[str, int]
    bounds: Bounds | None
    conditional: bool
    level: float
    resamples: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def audit(
    probabilities: Tensor,
    groups: Sequence[Any] | Tensor,
    labels: Sequence[Any] | Tensor | None = None,
    *,
    marginal: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> InformationAudit:
    """Estimate how much a model's outputs tell about a group, with a bootstrap over samples; see `InformationAudit`.

    With `marginal` the groups are `retain` and `forget`, and the estimate is of `marginal_information`: whether an output was
    drawn from both sets together or from the retain set alone.

    Args:
        probabilities: (n, C) softmax outputs.
        groups: (n,) values of Z, of any kind: an attribute, or which data set a row comes from.
        labels: (n,) true labels, for the information beyond the label.
        resamples: bootstrap draws of n samples each.
        seed: of the bootstrap and the permutations.
        level: confidence, in (0, 1).

    Raises:
        ValueError: fewer than two classes, groups or samples, NaN, rows that do not sum to 1, missing values, lengths that do
            not fit, or too few `resamples` for `level`.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
    if resamples < 2 / (1 - level):
        raise ValueError(
            f"`resamples={resamples}` has no {level:.0%} interval. Give at least {math.ceil(2 / (1 - level))}."
        )
    p = _probabilities(probabilities, "`probabilities`").cpu()
    n, classes = p.shape
    names, group = _codes(groups, n, "groups")
    _at_least_two(len(names), "`groups`", "groups")
    if marginal and (names != ["forget", "retain"] or labels is not None):
        raise ValueError("`marginal=True` needs `groups` of 'retain' and 'forget' only, and no `labels`.")
    _, label = _codes([0] * n if labels is None else labels, n, "labels")
    n_labels = int(label.max()) + 1

    # Sorted by label and group, so that every cell is a slice.
    cell = label * len(names) + group
    order = cell.argsort(stable=True)
    p, label = p[order], label[order]
    sizes = cell.bincount(minlength=n_labels * len(names)).tolist()
    counts = torch.tensor(sizes, dtype=p.dtype).view(n_labels, len(names))

    def information(sums: Tensor, counts: Tensor) -> Tensor:
        """Of sums (r, cells, C) and counts (r, cells): (r,)."""
        means = (sums / counts[..., None].clamp_min(1)).view(-1, n_labels, len(names), classes)
        if marginal:
            return marginal_information(means[:, 0, 1], means[:, 0, 0], counts[:, 1], counts[:, 0]).clamp_min(0)
        return conditional_information(means, counts.view(-1, n_labels, len(names))).clamp_min(0)

    def sums_of(rows: Tensor) -> Tensor:
        return torch.stack([part.sum(0) for part in rows.split(sizes)])[None]

    generator = torch.Generator().manual_seed(seed)
    value = information(sums_of(p), counts.view(1, -1)).item()
    draws = []
    for start in range(0, resamples, rows := max(1, CHUNK // n)):
        r = min(rows, resamples - start)
        drawn = torch.randint(n, (r, n), generator=generator) + n * torch.arange(r)[:, None]
        times = drawn.view(-1).bincount(minlength=r * n).view(r, n).to(p.dtype).split(sizes, 1)
        sums = torch.stack([t @ part for t, part in zip(times, p.split(sizes), strict=True)], 1)
        draws.append(information(sums, torch.stack([t.sum(1) for t in times], 1)))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=p.dtype)
    drawn_values = torch.cat(draws)
    bias = drawn_values.mean() - value
    low, high = (drawn_values.quantile(tails) - 2 * bias).clamp_min(0).tolist()

    # A label's rows in random order, cut into the same cells.
    shuffles = (
        (label + torch.rand(n, generator=generator, dtype=torch.float64)).argsort() for _ in range(PERMUTATIONS)
    )
    null = torch.cat([information(sums_of(p[shuffle]), counts.view(1, -1)) for shuffle in shuffles])

    in_labels = _shares(counts.sum(-1))
    ceiling = (in_labels * entropy(_shares(counts))).sum().item()  # H(Z|Y)
    bounds = None
    if marginal:
        forgotten, retained = sizes
        ceiling = disjoint_information(retained, forgotten).item()
        bounds = information_bounds(p.mean(0), p.split(sizes)[1].mean(0), n / (n + retained))
    elif labels is None and len(names) == 2:
        m0, m1 = (part.mean(0) for part in p.split(sizes))
        bounds = information_bounds(m0, m1, sizes[0] / n)
    per_group = counts.sum(0).long().tolist()
    return InformationAudit(
        value=value,
        low=low,
        high=high,
        null=null.mean().item(),
        null_high=null.quantile(level).item(),
        normalised=value / ceiling if ceiling > 0 else 0.0,
        counts=dict(zip(map(str, names), per_group, strict=True)),
        bounds=bounds,
        conditional=labels is not None,
        level=level,
        resamples=resamples,
        seed=seed,
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shares(counts: Tensor) -> Tensor:
    """counts (..., K) / their sum; zeros where there is no sample at all."""
    return counts / counts.sum(-1, keepdim=True).clamp_min(torch.finfo(counts.dtype).tiny)


def _mix(means: Tensor, shares: Tensor) -> Tensor:
    """Σ_k shares_k means_k, (..., K, C) -> (..., C). Not a matrix product, which autocast would take to half precision."""
    return (shares[..., None] * means).sum(-2)


def _at_least_two(found: int, argument: str, kind: str) -> None:
    if found < 2:
        raise ValueError(
            f"{argument} has {found} {kind}: with fewer than two the information is 0 whatever the model does. Check what "
            "was passed."
        )


def _probabilities(p: Tensor, argument: str) -> Tensor:
    """`p` (n, C) checked, in fp64, with rows that sum to 1 exactly."""
    p = torch.as_tensor(p).detach().double()
    if p.ndim != 2 or len(p) == 0:
        raise ValueError(f"{argument} must have shape (samples, classes) and hold samples, got {tuple(p.shape)}.")
    _at_least_two(p.shape[1], argument, "classes")
    if not torch.isfinite(p).all():
        raise ValueError(f"{argument} holds NaN or infinite values: the model's outputs are broken. Repair it first.")
    total = p.sum(-1, keepdim=True)
    if (p < 0).any() or ((total - 1).abs() > 0.02).any():  # 0.02: the rounding of bfloat16 outputs
        raise ValueError(f"{argument} must be non-negative and sum to 1. For logits, pass `logits.softmax(-1)`.")
    return p / total


def _codes(values: Any, n: int, argument: str) -> tuple[list[Any], Tensor]:
    """The distinct values, and the position (n,) of each sample's value among them."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(listed) != n:
        raise ValueError(f"`{argument}` has {len(listed)} values for {n} samples. Give one per row of `probabilities`.")
    if any(v is None or v != v for v in listed):
        raise ValueError(f"`{argument}` holds missing values (None or NaN). Drop those rows, or give them a group.")
    names = sorted(set(listed), key=str)
    position = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([position[v] for v in listed])
