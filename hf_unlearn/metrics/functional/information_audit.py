"""An estimate, with its interval, of what a model's outputs tell about a group."""

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

PERMUTATIONS = 200  # relabelings behind the null level
CHUNK = 4_000_000  # resampled rows held at once: about 100 MB


@dataclass(frozen=True)
class InformationAudit:
    """An estimate of I(Ŷ;Z) from samples: an audit, not a certificate.

    The plug-in estimate lies above the truth, by about (K−1)(C−1)/2n nats at worst. A `value` under `null_high` is not
    told apart from zero. The interval removes the bias. A resample estimates on a sample, so the draws carry the bias
    twice, and the quantiles move down by twice what the draws' mean exceeds `value` by [derived; covers the truth in 94
    to 100 % of 300 trials at n = 200 and 2,000, where plain quantiles never cover 0]. So `high` can lie below `value`.

    Attributes:
        value: Î in nats; with labels Î(Ŷ;Z|Y).
        low, high: The ends of the interval of confidence `level`, in nats, not below 0.
        null, null_high: Mean and `level` quantile for permuted groups, where nothing is left to find, in nats. With
            labels the groups are permuted within each label.
        normalised: `value` over its greatest value: H(Z), H(Z|Y), or `disjoint_information`. 1 tells the group for
            certain.
        counts: The number of samples of each group.
        bounds: The bounds, for two groups without labels; otherwise None.
        conditional: True if labels were given.
        level, resamples, seed: The settings of the bootstrap.
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
        """Return the fields, ready for JSON."""
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

    Args:
        probabilities: The softmax outputs (n, C).
        groups: The values (n,) of Z, of any kind: an attribute, or the data set that a row comes from.
        labels: The true labels (n,), for the information beyond the label. By default labels do not matter.
        marginal: Estimate `marginal_information`: was an output drawn from both sets together or from the retain set
            alone? The groups are then 'retain' and 'forget'. False by default.
        resamples: The number of bootstrap draws of n samples each, by default 1000.
        seed: The seed of the bootstrap and of the permutations, by default 0.
        level: The confidence of the interval, in (0, 1), by default 0.95.

    Raises:
        ValueError: There are fewer than two classes or groups, or no sample; a row is no probability vector; a value is
            missing; lengths differ; or `resamples` are too few for `level`.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
    if resamples < 2 / (1 - level):
        raise ValueError(
            f"`resamples={resamples}` has no {level:.0%} interval. Give at least {math.ceil(2 / (1 - level))}."
        )
    p = checked_probabilities(probabilities, "`probabilities`").cpu()
    n, classes = p.shape
    names, codes = group_codes(groups, "groups", n)
    check_at_least_two(len(names), "`groups`", "groups")
    if marginal and (names != ["forget", "retain"] or labels is not None):
        raise ValueError("`marginal=True` needs `groups` of 'retain' and 'forget' only, and no `labels`.")
    label = torch.from_numpy(group_codes([0] * n if labels is None else labels, "labels", n)[1])
    n_labels = int(label.max()) + 1

    # Sort by label and group, so that every cell is a slice.
    cell = label * len(names) + torch.from_numpy(codes)
    order = cell.argsort(stable=True)
    p, label = p[order], label[order]
    sizes = cell.bincount(minlength=n_labels * len(names)).tolist()
    counts = torch.tensor(sizes, dtype=p.dtype).view(n_labels, len(names))

    def information(sums: Tensor, counts: Tensor) -> Tensor:
        """Return the estimates (r,) for the sums (r, cells, C) and counts (r, cells) of r resamples."""
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

    # Put the rows of each label in random order, and cut them into the same cells.
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
