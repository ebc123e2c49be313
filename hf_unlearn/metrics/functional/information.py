"""Mutual information between a model's outputs and a group, and its bounds.

One quantity answers two questions (Xu and Strohmer, "Machine Unlearning via Information Theoretic Regularization",
arXiv 2502.05684). For data points: does an output tell whether the forgotten rows were in the pool
(`marginal_information`)? For features: does an output tell an attribute (`group_information`)? Ŷ is a class drawn from
the softmax, so only the mean softmax vector of each group enters. All values are in nats. The computation is in fp32,
or in fp64 if the input is.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """Return the entropy (...) in nats of probability vectors `p` (..., C), with 0 log 0 = 0.

    The gradient at p = 0 is large but finite, so that a softmax that underflowed passes on 0 and not NaN.
    """
    p = _precise(p)
    return -torch.xlogy(p, p.clamp_min(torch.finfo(p.dtype).tiny)).sum(-1)


def group_information(means: Tensor, counts: Any) -> Tensor:
    """Return Î(Ŷ;Z) = H(p̄) − Σ_k π_k H(p̄_k), (...) nats: the information that the output holds about the group.

    The plug-in estimator [derived] of feature unlearning in arXiv 2502.05684. It is at most min(H(π), ln C), and
    differentiable in `means`. NaN in a group with samples stays NaN, so that a training loop sees it in its loss.

    Args:
        means: The mean softmax vectors p̄_k (..., K, C) of the groups.
        counts: The numbers of samples n_k (..., K); π_k = n_k / Σ n. Groups without samples are ignored, whatever their
            mean.

    Raises:
        ValueError: There are fewer than two groups or classes, or the shapes do not fit.
    """
    means = _precise(means)
    counts = torch.as_tensor(counts, dtype=means.dtype, device=means.device)
    if means.ndim < 2 or counts.shape != means.shape[:-1]:
        raise ValueError(
            f"`counts` of shape {tuple(counts.shape)} does not fit `means` of shape {tuple(means.shape)}: give one count per "
            "group, (..., K), and one vector per group, (..., K, C)."
        )
    check_at_least_two(means.shape[-1], "`means`", "classes")
    check_at_least_two(means.shape[-2], "`means`", "groups")
    shares = shares_of(counts)
    means = torch.where(counts[..., None] > 0, means, 0.0)
    return entropy(_mix(means, shares)) - (shares * entropy(means)).sum(-1)


def marginal_information(retain_mean: Tensor, forget_mean: Tensor, n_retain: Any, n_forget: Any) -> Tensor:
    """Return Î(Ŷ;Z), (...) nats, where Z tells the union D_r ∪ D_f (Z=0) from the retain set D_r alone (Z=1).

    The closed form [derived] of the estimator of data-point unlearning in arXiv 2502.05684, differentiable in the means.
    With N = 2 n_r + n_f, π = (n_r + n_f, n_r) / N, ρ = n_f / (n_r + n_f), m_1 = p̄_r and m_0 = (1−ρ) p̄_r + ρ p̄_f,

        Î = H(π_0 m_0 + π_1 m_1) − π_0 H(m_0) − π_1 H(m_1),     ∂Î/∂p̄_f = (n_f/N) log(m_0/m) up to a constant

    Means of parts of a batch do not add up: pool p̄ and the counts over the whole batch first.

    Args:
        retain_mean: The mean softmax vector p̄_r (..., C) of the retain samples.
        forget_mean: The mean softmax vector p̄_f (..., C) of the forget samples.
        n_retain, n_forget: The numbers of samples (...) behind them. If one is 0, its mean is ignored; the result is 0.

    Raises:
        ValueError: There are fewer than two classes, or the means differ in shape.
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
    union = _mix(sides, shares_of(counts))
    drawn_from = torch.stack([counts.sum(-1), counts[..., 0]], -1)
    return group_information(torch.stack([union, sides[..., 0, :]], -2), drawn_from)


def disjoint_information(n_retain: Any, n_forget: Any) -> Tensor:
    """Return the greatest value of `marginal_information`, in nats, fp64: forget and retain outputs share no class.

    The value is H(π) − (1 − π_0 ρ) ln 2 [derived], and 0 if a number is 0. Dividing by it makes the weight γ of the
    term comparable across batch ratios.
    """
    n_retain, n_forget = (torch.as_tensor(n, dtype=torch.float64) for n in (n_retain, n_forget))
    apart = torch.eye(2, dtype=torch.float64, device=n_retain.device)
    return marginal_information(apart[0], apart[1], n_retain, n_forget)


def conditional_information(means: Tensor, counts: Any) -> Tensor:
    """Return Σ_y π_y Î(Ŷ;Z|Y=y), (...) nats: what the output tells about the group beyond the label [derived].

    Args:
        means: The mean softmax vectors (..., Y, K, C) by label and group.
        counts: The numbers of samples (..., Y, K). Empty cells are ignored, and a label with one group adds 0.

    Raises:
        ValueError: There are fewer than two groups or classes, or the shapes do not fit.
    """
    values = group_information(means, counts)
    by_label = torch.as_tensor(counts, dtype=values.dtype, device=values.device).sum(-1)
    return (shares_of(by_label) * values).sum(-1)


@dataclass(frozen=True)
class Bounds:
    """What an information value means for someone who sees one output Ŷ (a class, not the probabilities) and guesses Z.

    The bounds hold for population quantities of the pooled output [derived]. They say nothing about one sample, and
    computed from estimates they are estimates.

    Attributes:
        information: I, in nats.
        total_variation: TV(m_0, m_1), the greatest difference in the probability of any set of classes.
        total_variation_bound: sqrt(I / (2 π_0 π_1)), at most 1; TV never exceeds it.
        attacker_accuracy: The accuracy of the best guess, Σ_c max_z π_z m_z(c).
        attacker_bound: max(π) + sqrt(I/2), at most 1; the accuracy never exceeds it.
        epsilon: max_c |log m_0(c)/m_1(c)|, in nats; None if a class has probability 0 in one group only.
        information_bound: 2 π_0 π_1 ε tanh(ε/2), in nats; I never exceeds it. None if `epsilon` is None.
    """

    information: float
    total_variation: float
    total_variation_bound: float
    attacker_accuracy: float
    attacker_bound: float
    epsilon: float | None
    information_bound: float | None


def information_bounds(m0: Tensor, m1: Tensor, pi0: float) -> Bounds:
    """Return the `Bounds` of two groups with mean outputs `m0`, `m1` (C,) and shares `pi0`, 1 − `pi0`, in fp64.

    Raises:
        ValueError: `m0` and `m1` are not probability vectors of the same two or more classes, or `pi0` is outside (0,
            1).
    """
    if not 0 < pi0 < 1:
        raise ValueError(
            f"`pi0` must lie strictly between 0 and 1, got {pi0}: with one group there is nothing to guess."
        )
    if m0.shape != m1.shape or m0.ndim != 1:
        raise ValueError(f"`m0` {tuple(m0.shape)} and `m1` {tuple(m1.shape)} must both be (C,), of the same classes.")
    a, b = checked_probabilities(m0[None], "`m0`")[0], checked_probabilities(m1[None], "`m1`")[0]
    pi1 = 1 - pi0
    information = max(0.0, group_information(torch.stack([a, b]), [pi0, pi1]).item())
    possible = (a > 0) | (b > 0)
    epsilon = (a[possible].log() - b[possible].log()).abs().max().item()
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


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shares_of(counts: Tensor) -> Tensor:
    """Return counts (..., K) / their sum, and zeros if there is no sample at all."""
    return counts / counts.sum(-1, keepdim=True).clamp_min(torch.finfo(counts.dtype).tiny)


def _mix(means: Tensor, shares: Tensor) -> Tensor:
    """Return Σ_k shares_k means_k, (..., C). A matrix product would fall to half precision under autocast."""
    return (shares[..., None] * means).sum(-2)


def check_at_least_two(found: int, argument: str, kind: str) -> None:
    """Raise ValueError if there are fewer than two groups or classes."""
    if found < 2:
        raise ValueError(
            f"{argument} has {found} {kind}: with fewer than two the information is 0 whatever the model does. Check what "
            "was passed."
        )


def checked_probabilities(p: Tensor, argument: str) -> Tensor:
    """Return `p` (n, C) in fp64 with rows that sum to 1 exactly. Raises ValueError if a row is no probability vector."""
    p = torch.as_tensor(p).detach().double()
    if p.ndim != 2 or len(p) == 0:
        raise ValueError(f"{argument} must have shape (samples, classes) and hold samples, got {tuple(p.shape)}.")
    check_at_least_two(p.shape[1], argument, "classes")
    if not torch.isfinite(p).all():
        raise ValueError(f"{argument} holds NaN or infinite values: the model's outputs are broken. Repair it first.")
    total = p.sum(-1, keepdim=True)
    if (p < 0).any() or ((total - 1).abs() > 0.02).any():  # 0.02: the rounding of bfloat16 outputs
        raise ValueError(f"{argument} must be non-negative and sum to 1. For logits, pass `logits.softmax(-1)`.")
    return p / total
