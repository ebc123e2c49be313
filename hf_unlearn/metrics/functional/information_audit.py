"""An estimate, with its interval, of what a model's outputs tell about a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .checked_arrays import group_codes
from .information import (
    Bounds,
    check_at_least_two,
    checked_probabilities,
    conditional_information,
    disjoint_information,
    entropy,
    information_bounds,
    marginal_information,
    shares_of,
)

PERMUTATIONS = 200  # relabellings behind the null level


CHUNK = 4_000_000  # resampled rows held at once: about 100 MB


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
    p = checked_probabilities(probabilities, "`probabilities`").cpu()
    n, classes = p.shape
    names, group = _coded(groups, n, "groups")
    check_at_least_two(len(names), "`groups`", "groups")
    if marginal and (names != ["forget", "retain"] or labels is not None):
        raise ValueError("`marginal=True` needs `groups` of 'retain' and 'forget' only, and no `labels`.")
    _, label = _coded([0] * n if labels is None else labels, n, "labels")
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

    in_labels = shares_of(counts.sum(-1))
    ceiling = (in_labels * entropy(shares_of(counts))).sum().item()  # H(Z|Y)
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


def _coded(values: Any, rows: int, argument: str) -> tuple[list[Any], Tensor]:
    names, codes = group_codes(values, argument, rows)
    return names, torch.from_numpy(codes)
