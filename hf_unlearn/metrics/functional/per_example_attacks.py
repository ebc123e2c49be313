"""Attacks per example: what a row's score would be with and without it in training, from shadow models.

Every function works on one number per model and row, the logit-scaled confidence of `confidence_scores`; arrays are
(models, rows). Members score high. What matters is the distance to retrained models, in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

CHUNK = 2**16  # rows at a time, so that fp64 temporaries stay small whatever the number of rows
FEW_MODELS = 64  # under which one variance for all rows serves LiRA better than each row's own
FLOOR = 1e-6  # least standard deviation of a score: rows on which all models agree
PLENTY = 500.0  # a logit whose odds no attack can tell from greater ones, and that fp64 can exponentiate


def confidence_scores(logits: Any, labels: Any) -> np.ndarray:
    """log(p_y / (1 − p_y)) of every row, (rows,) fp32: z_y − log Σ_{c≠y} exp z_c, which never saturates.

    Carlini et al. 2022 (arXiv 2112.03570), section VI-A; the margin of KLoM.

    Args:
        logits: (rows, classes).
        labels: (rows,) true class ids.

    Raises:
        ValueError: other shapes, fewer than two classes, labels outside the classes, NaN or infinite logits.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"`logits` must have shape (rows, classes), two classes or more, got {logits.shape}.")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"`labels` has shape {labels.shape}, `logits` has {len(logits)} rows: give one label per row.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        raise ValueError(f"`labels` must lie in 0..{logits.shape[1] - 1}, the classes of `logits`: map them first.")
    out = np.empty(len(logits), np.float32)
    for part in row_chunks(len(logits)):
        z, right = logits[part].astype(np.float32), labels[part, None]
        own = np.take_along_axis(z, right, 1)[:, 0]
        np.put_along_axis(z, right, -np.inf, 1)
        top = z.max(1)
        out[part] = own - (top + np.log(np.exp(z - top[:, None]).sum(1)))
    return _scores(out, "logits", 1)


def lira(
    target: Any, shadows: Any, members: Any | None = None, *, online: bool = True, fixed_variance: bool | None = None
) -> np.ndarray:
    """Likelihood ratio attack on one model, (rows,): the higher, the surer a member. Carlini et al. 2022 (arXiv 2112.03570).

    Online, log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²) in nats (Algorithm 1); offline, the z-score (φ − μ_out) / σ_out,
    of which the paper's Λ = Pr[N(μ_out, σ_out²) ≤ φ] (equation 4) is a monotone function that saturates. Centres are medians, as
    in the published code; whose offline attack ranks by the density instead, and so takes a φ far below μ_out for a member's too.

    Args:
        target: (rows,) scores φ of the attacked model.
        shadows: (models, rows) scores of shadow models.
        members: (models, rows), whether a shadow was trained on a row. Offline, None says that none was.
        online: also use the shadows that were trained on a row.
        fixed_variance: one σ for all rows and both sides; by default with fewer than 64 shadows.

    Raises:
        ValueError: other shapes, NaN, or a row with too few shadows: two on each side that is used, one with a fixed variance.
    """
    target, shadows = _scores(target, "target", 1), _scores(shadows, "shadows", 2)
    if members is None and online:
        raise ValueError(
            "`members` is missing: online, say which shadow was trained on which row. Or pass online=False."
        )
    members = _members(members, shadows)
    _same_rows(target, shadows, "target", "shadows")
    fixed = len(shadows) < FEW_MODELS if fixed_variance is None else fixed_variance
    sides = [_fit(shadows, ~members, fixed, "trained without")]
    if online:
        sides.append(_fit(shadows, members, fixed, "trained on"))
    if fixed:
        freedom = sum((count - 1).sum() for _, _, count in sides)
        if freedom == 0:
            raise ValueError(
                "`shadows` holds one model per row and side, which has no variance. Train more shadow models."
            )
        pooled = _deviation(sum(squares.sum() for _, squares, _ in sides) / freedom)
        fits = [(centre, pooled) for centre, _, _ in sides]
    else:
        fits = [(centre, _deviation(squares / count)) for centre, squares, count in sides]
    if not online:
        return (target - fits[0][0]) / fits[0][1]
    return _log_normal(target, *fits[1]) - _log_normal(target, *fits[0])


def u_lira(unlearned: Any, retrained: Any, *, fixed_variance: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Per-example attack on unlearning: log-likelihood ratios in nats of unlearned against retrained, (models, rows) fp32 each.

    Hayes et al. 2024 (arXiv 2403.01218), Algorithm 1: Gaussians of a row's score over unlearned and over retrained models;
    above 0 the attack says unlearned. Every model in turn is the attacked one, and pair i is then left out of both fits: it
    shares its training rows, and fits of unequal size would tilt the ratio. `roc` of the two results is the attack's; at chance
    no model can be told from a retrained one. It does not tell the direction: `score_shift` does.

    Args:
        unlearned, retrained: (models, rows) scores on rows of the forget set; model i of both from the same training rows.
        fixed_variance: as in `lira`.

    Raises:
        ValueError: other or different shapes, NaN, fewer than three models (two with a fixed variance).
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    models, rows = unlearned.shape
    fixed = 2 * models < FEW_MODELS if fixed_variance is None else fixed_variance
    check_count(models, 2 if fixed else 3, "unlearned", "the attacked one and those its Gaussians are fitted to")
    pooled = None
    if fixed:
        squares = sum(s[:, p].var(0, dtype=np.float64).sum() for s in (unlearned, retrained) for p in row_chunks(rows))
        pooled = _deviation(squares / (2 * rows) * models / (models - 1))
    out = np.empty((2, models, rows), np.float32)
    for part in row_chunks(rows):
        sides = [s[:, part].astype(np.float64) for s in (unlearned, retrained)]
        fits = [_leave_one_out(side) for side in sides]
        (mean_u, std_u), (mean_r, std_r) = [(m, s if pooled is None else pooled) for m, s in fits]
        for ratios, side in zip(out, sides, strict=True):
            ratios[:, part] = _log_normal(side, mean_u, std_u) - _log_normal(side, mean_r, std_r)
    return out[0], out[1]


def rmia(
    target: Any,
    shadows: Any,
    members: Any | None,
    population: Any,
    population_shadows: Any,
    *,
    online: bool = True,
    gamma: float = 1.0,
    a: float = 0.3,
) -> np.ndarray:
    """Relative attack on one model, (rows,) in [0, 1]: the higher, the surer a member. Zarifzadeh et al. 2024 (arXiv 2312.03312).

    Share of the population rows z for which [p(x|θ) / p(x)] / [p(z|θ) / p(z)] ≥ γ. Online, p(x) is the mean of the shadows'
    means with and without x; offline ((1 + a) p_out(x) + 1 − a) / 2. The pairs are counted by sorting, not one by one.

    Args:
        target, shadows, members, online: as in `lira`; one shadow on a side is enough.
        population: (m,) scores of the attacked model on rows in no training set, theirs or the shadows'.
        population_shadows: (models, m) scores of the shadows on them.
        gamma: γ, above 0; 1 as in the authors' code; at greater ones the rows of a well-fitted model tie.
        a: how far p_in follows p_out, in [0, 1]; offline only.

    Raises:
        ValueError: other shapes, NaN, a row without a shadow on a side that is used, `gamma` or `a` out of range.
    """
    target, shadows = _scores(target, "target", 1), _scores(shadows, "shadows", 2)
    population = _scores(population, "population", 1)
    population_shadows = _scores(population_shadows, "population_shadows", 2)
    if members is None and online:
        raise ValueError(
            "`members` is missing: online, say which shadow was trained on which row. Or pass online=False."
        )
    members = _members(members, shadows)
    _same_rows(target, shadows, "target", "shadows")
    _same_rows(population, population_shadows, "population", "population_shadows")
    if not gamma > 0:
        raise ValueError(
            f"`gamma` must be above 0, got {gamma}: it is a ratio of likelihoods. The authors' code takes 1."
        )
    if not 0 <= a <= 1:
        raise ValueError(f"`a` must lie in [0, 1], got {a}. The authors' code starts from 0.3.")

    def ratio(own: np.ndarray, others: np.ndarray, trained: np.ndarray, both: bool) -> np.ndarray:
        """log p(x|θ) / p(x)."""
        out = np.empty(len(own))
        for part in row_chunks(len(own)):
            phi = np.clip(own[part].astype(np.float64), -PLENTY, PLENTY)
            p = 1 / (1 + np.exp(-np.clip(others[:, part].astype(np.float64), -PLENTY, PLENTY)))
            seen = trained[:, part]
            evidence = _mean(p, ~seen, "trained without")
            if both:
                evidence = (evidence + _mean(p, seen, "trained on")) / 2
            elif not online:
                evidence = ((1 + a) * evidence + 1 - a) / 2
            out[part] = -np.logaddexp(0, -phi) - np.log(evidence)
        return out

    unseen = np.zeros(population_shadows.shape, bool)
    relative = np.sort(ratio(population, population_shadows, unseen, both=False))
    above = ratio(target, shadows, members, both=online) - np.log(gamma)
    return np.searchsorted(relative, above, side="right") / len(relative)


def score_shift(unlearned: Any, retrained: Any) -> np.ndarray:
    """How far unlearned models score above retrained ones, (rows,), in pooled standard deviations of a row's score.

    Positive: rows are still remembered. Negative: over-forgotten, known by how little the model believes in them. An attack on
    one row of shift d, Gaussian scores of equal variance, has AUC Φ(|d| / √2).

    Args:
        unlearned, retrained: (models, rows) scores.

    Raises:
        ValueError: as `u_lira`; two models or more.
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    check_count(len(unlearned), 2, "unlearned", "of which a standard deviation is taken")
    variance = (unlearned.var(0, ddof=1, dtype=np.float64) + retrained.var(0, ddof=1, dtype=np.float64)) / 2
    return (unlearned.mean(0, dtype=np.float64) - retrained.mean(0, dtype=np.float64)) / _deviation(variance)


# --- parts ------------------------------------------------------------------------------------------------------------


def row_chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))


def _fit(shadows: np.ndarray, chosen: np.ndarray, fixed: bool, how: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the chosen models of every row: median, sum of squares about the mean, and count, (rows,) each."""
    median, squares = np.empty(shadows.shape[1]), np.empty(shadows.shape[1])
    count = chosen.sum(0)
    check_count(int(count.min(initial=len(shadows))), 1 if fixed else 2, "shadows", f"{how} it", "a row with")
    for part in row_chunks(shadows.shape[1]):
        x, kept, n = shadows[:, part].astype(np.float64), chosen[:, part], count[part]
        mean = np.where(kept, x, 0).sum(0) / n
        squares[part] = np.where(kept, (x - mean) ** 2, 0).sum(0)
        ordered = np.sort(np.where(kept, x, np.inf), 0)
        middle = np.take_along_axis(ordered, np.stack([(n - 1) // 2, n // 2]), 0)
        median[part] = middle.mean(0)
    return median, squares, count


def _leave_one_out(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (models, rows) of all models but each."""
    models = len(x)
    off = x - x.mean(0)
    mean = x.mean(0) - off / (models - 1)
    squares = (off**2).sum(0) - off**2 * models / (models - 1)
    return mean, _deviation(np.maximum(squares, 0) / (models - 1))


def _deviation(variance: Any) -> Any:
    return np.maximum(np.sqrt(variance), FLOOR)


def _log_normal(x: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    """log density, up to the constant that every ratio loses."""
    return -(((x - mean) / deviation) ** 2) / 2 - np.log(deviation)


def _mean(values: np.ndarray, chosen: np.ndarray, how: str) -> np.ndarray:
    count = chosen.sum(0)
    check_count(int(count.min(initial=len(values))), 1, "shadows", f"{how} it", "a row with")
    return np.where(chosen, values, 0).sum(0) / count


def _scores(values: Any, name: str, dimensions: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    if array.ndim != dimensions or array.size == 0:
        shape = "(rows,)" if dimensions == 1 else "(models, rows)"
        raise ValueError(f"`{name}` must have shape {shape} and hold scores, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` holds NaN or infinite values: a model's outputs are broken. Repair or leave it out."
        )
    return array


def _members(members: Any | None, shadows: np.ndarray) -> np.ndarray:
    found = np.zeros(shadows.shape, bool) if members is None else np.asarray(members)
    if found.dtype != bool or found.shape != shadows.shape:
        raise ValueError(
            f"`members` must be true or false for each of `shadows` {shadows.shape}, got {found.dtype} of shape {found.shape}."
        )
    return found


def _same_rows(one: np.ndarray, many: np.ndarray, first: str, second: str) -> None:
    if len(one) != many.shape[1]:
        raise ValueError(f"`{first}` has {len(one)} rows, `{second}` has {many.shape[1]}: score the same rows.")


def checked_pair(unlearned: Any, retrained: Any) -> tuple[np.ndarray, np.ndarray]:
    unlearned, retrained = _scores(unlearned, "unlearned", 2), _scores(retrained, "retrained", 2)
    if unlearned.shape != retrained.shape:
        raise ValueError(
            f"`unlearned` {unlearned.shape} and `retrained` {retrained.shape} differ in shape: give as many models of each, "
            "on the same rows."
        )
    return unlearned, retrained


def check_count(found: int, needed: int, name: str, what: str, where: str = "only") -> None:
    if found < needed:
        raise ValueError(
            f"`{name}` holds {where} {found} models {what}, {needed} are needed. Train more shadow models, or see `fixed_variance`."
        )
