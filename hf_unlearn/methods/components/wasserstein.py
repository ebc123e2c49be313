"""Wasserstein-2 barycenters of Gaussians, in closed form from streamed moments.

Sources: Álvarez-Esteban et al. (2016) for the fixed point; Xu and Strohmer (arXiv 2502.05684) for its use in unlearning.
"""

from itertools import pairwise

import torch
from torch import Tensor


class StreamingMoments:
    """Count, mean and covariance of each group from batches, in fp64, with one (d, d) matrix in memory per group.

    Chan, Golub and LeVeque's update loses no digits if means are far from zero. A new group may appear in any batch.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self._scatter: list[Tensor] = []

    def update(self, x: Tensor, group: Tensor) -> None:
        """Add features `x` (n, d) of groups `group` (n,), numbered from 0."""
        x, group = x.detach().cpu().double(), group.cpu()
        if not torch.isfinite(x).all():
            raise ValueError("`x` holds NaN or infinite features: the model is broken. Repair it first.")
        for k in group.unique().tolist():
            while len(self.counts) <= k:
                self.counts.append(0)
                self.means.append(x.new_zeros(self.features))
                self._scatter.append(x.new_zeros(self.features, self.features))
            rows = x[group == k]
            n, new = self.counts[k], len(rows)
            mean = rows.mean(0)
            shift = mean - self.means[k]
            # The shift of the mean is one more row, so that a batch is one matrix product.
            rows = torch.cat([rows - mean, shift[None] * (n * new / (n + new)) ** 0.5])
            self._scatter[k].addmm_(rows.mT, rows)
            self.means[k] = self.means[k] + shift * (new / (n + new))
            self.counts[k] = n + new

    def covariances(self) -> Tensor:
        """Return the covariances (K, d, d), with n − 1 in the denominator.

        Raises:
            ValueError: a group has fewer than two samples.
        """
        if few := [k for k, n in enumerate(self.counts) if n < 2]:
            raise ValueError(f"group {few[0]} has {self.counts[few[0]]} samples: a covariance needs two at least.")
        return torch.stack([s / (n - 1) for s, n in zip(self._scatter, self.counts, strict=True)])


def gaussian_barycenter(covariances: Tensor, weights: Tensor, tol: float = 1e-10, max_iter: int = 200) -> Tensor:
    """Return the covariance (d, d), in fp64, of the Wasserstein-2 barycenter of centered Gaussians.

    It is the fixed point of B ← B^{-1/2} (Σ_k π_k (B^{1/2} S_k B^{1/2})^{1/2})² B^{-1/2} (Álvarez-Esteban et al. 2016). The
    iteration runs on a factor, B = X Xᵀ, as the equivalent X ← Σ_k π_k S_k^{1/2} polar(S_k^{1/2} X) [derived], which inverts
    nothing and so takes covariances of condition 1e12. It starts at Σ_k π_k S_k^{1/2}, the answer if the S_k commute.

    Args:
        covariances: (K, d, d), symmetric and positive definite.
        weights: (K,), not negative; normalized here.
        tol: relative change of X, in Frobenius norm, at which the iteration stops.
        max_iter: largest number of iterations.

    Raises:
        ValueError: a covariance is not positive definite, or shapes or weights do not fit.
        ArithmeticError: the iteration did not converge.
    """
    factor = _factor(_roots(covariances), _normalised(weights, covariances), tol, max_iter)
    return factor @ factor.mT


def affine_maps(means: Tensor, covariances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the optimal maps x̂ = A_k x + b_k of Gaussian groups onto their barycenter: A (K, d, d) and b (K, d), in fp64.

    Args:
        means: (K, d).
        covariances, weights: as in `gaussian_barycenter`, which raises the same errors.
    """
    roots, weights = _roots(covariances), _normalised(weights, covariances)
    factor = _factor(roots, weights)
    # With Xᵀ S^{1/2} = U Σ Vᵀ the map S^{-1/2} (S^{1/2} B S^{1/2})^{1/2} S^{-1/2} is X U Σ^{-1} Uᵀ Xᵀ.
    left, scale, _ = torch.linalg.svd(factor.mT @ roots)
    left = factor @ left
    scale = scale.clamp_min(torch.finfo(scale.dtype).eps * scale[:, :1])
    maps = (left / scale[:, None, :]) @ left.mT
    means = means.double()
    return maps, (weights[:, None] * means).sum(0) - (maps @ means[..., None])[..., 0]


def _factor(roots: Tensor, weights: Tensor, tol: float = 1e-10, max_iter: int = 200, memory: int = 5) -> Tensor:
    """Return X (d, d) with X Xᵀ the barycenter, from the roots (K, d, d), by fixed-point steps with Anderson acceleration."""
    x = _mean(roots, weights)
    points: list[Tensor] = []
    residuals: list[Tensor] = []
    change = 0.0
    for _ in range(max_iter):
        left, _, right = torch.linalg.svd(roots @ x)
        residual = _mean(roots @ (left @ right), weights) - x
        change = (torch.linalg.matrix_norm(residual) / torch.linalg.matrix_norm(x)).item()
        if change <= tol:
            return x
        points, residuals = [*points, x][-memory - 1 :], [*residuals, residual][-memory - 1 :]
        x = x + residual
        if len(points) > 1:
            moves, bends = _differences(points), _differences(residuals)
            best = torch.linalg.lstsq(bends, residual.reshape(-1, 1)).solution
            x = x - ((moves + bends) @ best).view_as(x)
    raise ArithmeticError(
        f"the barycenter did not converge in `max_iter={max_iter}` iterations: the last one changed it by {change:.1e}, more "
        f"than `tol={tol:.1e}`. Raise `max_iter`; if the covariances are nearly singular, their `ridge`."
    )


def _differences(matrices: list[Tensor]) -> Tensor:
    """Return the differences of successive matrices as columns (d·d, number − 1)."""
    return torch.stack([(b - a).reshape(-1) for a, b in pairwise(matrices)], 1)


def _roots(covariances: Tensor) -> Tensor:
    """Return the symmetric roots (K, d, d) in fp64, or raise ValueError if a covariance is not positive definite."""
    covariances = covariances.double()
    if covariances.ndim != 3 or covariances.shape[1] != covariances.shape[2]:
        raise ValueError(f"`covariances` must have shape (K, d, d), got {tuple(covariances.shape)}.")
    covariances = 0.5 * (covariances + covariances.mT)
    if not torch.isfinite(covariances).all() or torch.linalg.cholesky_ex(covariances).info.any():
        raise ValueError("`covariances` must be positive definite. Add a small multiple of the identity (`ridge`).")
    values, vectors = torch.linalg.eigh(covariances)
    return (vectors * values.clamp_min(0).sqrt()[:, None, :]) @ vectors.mT


def _normalised(weights: Tensor, covariances: Tensor) -> Tensor:
    weights = torch.as_tensor(weights).double()
    if weights.shape != covariances.shape[:1]:
        raise ValueError(f"`weights` {tuple(weights.shape)} does not fit {len(covariances)} `covariances`.")
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError("`weights` must not be negative and must not all be 0: they are the groups' shares.")
    return weights / weights.sum()


def _mean(matrices: Tensor, weights: Tensor) -> Tensor:
    return (weights[:, None, None] * matrices).sum(0)
