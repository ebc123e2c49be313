"""Attacks on single rows: the score that a row would have with and without it in training, from shadow models.

A score is one number per model and row, the logit-scaled confidence of `confidence_scores`, which is high for members.
Arrays of several models have shape (models, rows). The distance to retrained models counts, in either direction.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

CHUNK = 2**16  # rows at a time, so that fp64 temporaries stay small for any number of rows
FEW_MODELS = 64  # with fewer shadows LiRA works better with one variance for all rows than with one per row
FLOOR = 1e-6  # least standard deviation of a score, for rows on which all models agree
ONE_VARIANCE = ", or set `fixed_variance=True`"
MAX_LOGIT = 500.0  # no attack can tell the odds of greater logits apart, and fp64 can still exponentiate this one


def confidence_scores(logits: Any, labels: Any) -> np.ndarray:
    """Return log(p_y / (1 − p_y)) of every row, (rows,) fp32, as z_y − log Σ_{c≠y} exp z_c, which never saturates.

    This is the score of Carlini et al. 2022 (arXiv 2112.03570), section VI-A, and the margin of KLoM.

    Args:
        logits: The logits (rows, classes) of one model.
        labels: The true class ids (rows,).

    Raises:
        ValueError: A shape is wrong, there is only one class, a label is not a class, or a logit is not finite.
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
    """Return the likelihood ratio attack of Carlini et al. 2022 (arXiv 2112.03570), (rows,), high for members.

    Online, the result is log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²) in nats (Algorithm 1). Offline, it is the
    z-score (φ − μ_out) / σ_out. The paper's Λ = Pr[N(μ_out, σ_out²) ≤ φ] (equation 4) is a monotone function of the
    z-score, but saturates. Centers are medians, as in the published code. The offline attack of that code ranks by the
    density instead, so it also takes a φ far below μ_out for that of a member.

    Args:
        target: The scores φ (rows,) of the attacked model.
        shadows: The scores (models, rows) of shadow models.
        members: Booleans (models, rows): was the shadow trained on the row? Offline, None means that none was.
        online: Also use the shadows that were trained on a row. True by default.
        fixed_variance: Use one σ for all rows and both sides. By default True with fewer than 64 shadows.

    Raises:
        ValueError: A shape is wrong, a score is NaN, or a row has too few shadows (two, one with a fixed variance).
    """
    target, shadows = _target_and_shadows(target, shadows, "target", "shadows")
    members = _members(members, shadows, online)
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
        fits = [(center, pooled) for center, _, _ in sides]
    else:
        fits = [(center, _deviation(squares / count)) for center, squares, count in sides]
    if not online:
        return (target - fits[0][0]) / fits[0][1]
    return _log_normal(target, *fits[1]) - _log_normal(target, *fits[0])


def u_lira(unlearned: Any, retrained: Any, *, fixed_variance: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run the attack on unlearning of Hayes et al. 2024 (arXiv 2403.01218, Algorithm 1) on every model in turn.

    The attack fits Gaussians to the score of a row over unlearned and over retrained models. Above 0 it says unlearned.
    Pair i of models is left out of both fits when one of the pair is attacked: the two share their training rows, and
    fits of unequal size would tilt the ratio. Pass the two results to `roc`; at chance no model can be told from a
    retrained one. The attack does not give the direction; `score_shift` does.

    Args:
        unlearned: The scores (models, rows) of unlearned models on rows of the forget set.
        retrained: The scores (models, rows) of retrained models, in pairs that share their training rows.
        fixed_variance: As in `lira`, for all models of both kinds.

    Returns:
        The log-likelihood ratios (models, rows) of the unlearned and of the retrained models, in nats, fp32.

    Raises:
        ValueError: The shapes differ, a score is NaN, or there are fewer than three models (two, fixed variance).
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    models, rows = unlearned.shape
    fixed = 2 * models < FEW_MODELS if fixed_variance is None else fixed_variance
    purpose, advice = "to attack one and fit Gaussians to the others", "" if fixed else ONE_VARIANCE
    check_count(models, 2 if fixed else 3, "`unlearned` holds {} models", purpose, advice)
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
    """Return the relative attack of Zarifzadeh et al. 2024 (arXiv 2312.03312), (rows,) in [0, 1], high for members.

    The result is the share of population rows z for which [p(x|θ) / p(x)] / [p(z|θ) / p(z)] ≥ γ. Online, p(x) is the
    mean of the shadows' means with and without x. Offline, it is ((1 + a) p_out(x) + 1 − a) / 2.

    Args:
        target, shadows, members, online: As in `lira`. One shadow on a side is enough.
        population: The scores (m,) of the attacked model on rows that no model was trained on.
        population_shadows: The scores (models, m) of the shadows on these rows.
        gamma: γ, above 0, by default 1 as in the authors' code. With greater ones rows of a well-fitted model tie.
        a: How far p_in follows p_out, in [0, 1], by default 0.3; offline only.

    Raises:
        ValueError: A shape is wrong, a score is NaN, a row lacks a shadow, or `gamma` or `a` is out of range.
    """
    target, shadows = _target_and_shadows(target, shadows, "target", "shadows")
    population, population_shadows = _target_and_shadows(
        population, population_shadows, "population", "population_shadows"
    )
    members = _members(members, shadows, online)
    if not gamma > 0:
        raise ValueError(
            f"`gamma` must be above 0, got {gamma}: it is a ratio of likelihoods. The authors' code takes 1."
        )
    if not 0 <= a <= 1:
        raise ValueError(f"`a` must lie in [0, 1], got {a}. The authors' code starts from 0.3.")

    def log_ratio(own: np.ndarray, others: np.ndarray, trained: np.ndarray, both: bool) -> np.ndarray:
        """Return log p(x|θ) / p(x), (rows,)."""
        out = np.empty(len(own))
        for part in row_chunks(len(own)):
            phi = np.clip(own[part].astype(np.float64), -MAX_LOGIT, MAX_LOGIT)
            p = 1 / (1 + np.exp(-np.clip(others[:, part].astype(np.float64), -MAX_LOGIT, MAX_LOGIT)))
            seen = trained[:, part]
            evidence = _mean(p, ~seen, "trained without")
            if both:
                evidence = (evidence + _mean(p, seen, "trained on")) / 2
            elif not online:
                evidence = ((1 + a) * evidence + 1 - a) / 2
            out[part] = -np.logaddexp(0, -phi) - np.log(evidence)
        return out

    unseen = np.zeros(population_shadows.shape, bool)
    relative = np.sort(log_ratio(population, population_shadows, unseen, both=False))
    above = log_ratio(target, shadows, members, both=online) - np.log(gamma)
    return np.searchsorted(relative, above, side="right") / len(relative)


def score_shift(unlearned: Any, retrained: Any) -> np.ndarray:
    """Return how far unlearned models score above retrained ones, (rows,), in pooled standard deviations of a row.

    A positive row is still remembered. A negative one is over-forgotten: the model believes in it too little. An attack
    on one row with shift d and Gaussian scores of equal variance has AUC Φ(|d| / √2).

    Args:
        unlearned: The scores (models, rows) of unlearned models.
        retrained: The scores (models, rows) of as many retrained models.

    Raises:
        ValueError: The shapes are wrong or differ, a score is NaN, or there are fewer than two models.
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    check_count(len(unlearned), 2, "`unlearned` holds {} models", "for a standard deviation")
    variance = (unlearned.var(0, ddof=1, dtype=np.float64) + retrained.var(0, ddof=1, dtype=np.float64)) / 2
    return (unlearned.mean(0, dtype=np.float64) - retrained.mean(0, dtype=np.float64)) / _deviation(variance)


def row_chunks(rows: int) -> Iterator[slice]:
    """Cut `rows` rows into slices of at most `CHUNK`."""
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))


def _fit(shadows: np.ndarray, chosen: np.ndarray, fixed: bool, how: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the median, the sum of squares about the mean, and the count (rows,) of the chosen models of every row."""
    median, squares = np.empty(shadows.shape[1]), np.empty(shadows.shape[1])
    count = chosen.sum(0)
    holds, least = f"`shadows` has a row with {{}} models {how} it", int(count.min(initial=len(shadows)))
    if fixed:
        check_count(least, 1, holds, "for a median")
    else:
        check_count(least, 2, holds, "for a variance of its own", ONE_VARIANCE)
    for part in row_chunks(shadows.shape[1]):
        x, kept, n = shadows[:, part].astype(np.float64), chosen[:, part], count[part]
        mean = np.where(kept, x, 0).sum(0) / n
        squares[part] = np.where(kept, (x - mean) ** 2, 0).sum(0)
        ordered = np.sort(np.where(kept, x, np.inf), 0)
        middle = np.take_along_axis(ordered, np.stack([(n - 1) // 2, n // 2]), 0)
        median[part] = middle.mean(0)
    return median, squares, count


def _leave_one_out(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (models, rows) of all models but one, for each model left out."""
    models = len(x)
    off = x - x.mean(0)
    mean = x.mean(0) - off / (models - 1)
    squares = (off**2).sum(0) - off**2 * models / (models - 1)
    return mean, _deviation(np.maximum(squares, 0) / (models - 1))


def _deviation(variance: Any) -> Any:
    return np.maximum(np.sqrt(variance), FLOOR)


def _log_normal(x: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    """Return the log density up to a constant, which cancels in every ratio."""
    return -(((x - mean) / deviation) ** 2) / 2 - np.log(deviation)


def _mean(values: np.ndarray, chosen: np.ndarray, how: str) -> np.ndarray:
    count = chosen.sum(0)
    holds = f"`shadows` has a row with {{}} models {how} it"
    check_count(int(count.min(initial=len(values))), 1, holds, "for a mean")
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


def _target_and_shadows(target: Any, shadows: Any, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    target, shadows = _scores(target, first, 1), _scores(shadows, second, 2)
    if len(target) != shadows.shape[1]:
        raise ValueError(f"`{first}` has {len(target)} rows, `{second}` has {shadows.shape[1]}: score the same rows.")
    return target, shadows


def _members(members: Any | None, shadows: np.ndarray, online: bool) -> np.ndarray:
    if members is None and online:
        raise ValueError(
            "`members` is missing: online, say which shadow was trained on which row. Or pass online=False."
        )
    found = np.zeros(shadows.shape, bool) if members is None else np.asarray(members)
    if found.dtype != bool or found.shape != shadows.shape:
        raise ValueError(
            f"`members` must be true or false for each of `shadows` {shadows.shape}, got {found.dtype} of shape {found.shape}."
        )
    return found


def checked_pair(unlearned: Any, retrained: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of both as arrays of one shape (models, rows)."""
    unlearned, retrained = _scores(unlearned, "unlearned", 2), _scores(retrained, "retrained", 2)
    if unlearned.shape != retrained.shape:
        raise ValueError(
            f"`unlearned` {unlearned.shape} and `retrained` {retrained.shape} differ in shape: give as many models of each, "
            "on the same rows."
        )
    return unlearned, retrained


def check_count(found: int, needed: int, holds: str, purpose: str, advice: str = "") -> None:
    """Raise ValueError if there are fewer models than needed.

    Args:
        found: The number of models.
        needed: The least number.
        holds: What holds them, as the start of a sentence with `{}` for the number.
        purpose: What they are needed for.
        advice: What helps beside more models. By default nothing does.
    """
    if found < needed:
        raise ValueError(f"{holds.format(found)}, and {needed} or more are needed {purpose}. Train more{advice}.")
