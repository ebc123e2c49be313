"""Feature unlearning in closed form: move every group's features onto their Wasserstein barycenter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from ..models.barycenter_layer import Barycenter, attach, attached, detach, save_barycenter
from ..models.prediction import answers
from ..models.processor import Processor
from ..models.structure import find_last_layer
from .base import Paper, UnlearningMethod, setting
from .components.wasserstein import StreamingMoments, affine_maps
from .pooled_information import IT_REG
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

MAX_GROUPS = 32
CLASSIFIER_ROWS = 10_000


@dataclass(kw_only=True)
class WassersteinBarycenter(UnlearningMethod):
    """Make the outcome independent of an attribute z, without training (Xu and Strohmer, arXiv 2502.05684).

    Under Ŷ ⟂ Z the best features are the Wasserstein-2 barycenter of their laws given z. Its affine form [source: the authors'
    fair_data_representation], with group means m_k, covariances S_k and shares π_k of the features in front of the last
    linear layer, and B the covariance of the barycenter (`gaussian_barycenter`):

        x̂ = m̄ + T_k (x − m_k),   T_k = S_k^{-1/2} (S_k^{1/2} B S_k^{1/2})^{1/2} S_k^{-1/2},   m̄ = Σ_k π_k m_k

    After it all groups have mean m̄ and covariance B: what a linear layer could use to tell them apart is gone, what lies in
    higher moments is not. No parameter changes; the map sits in front of the last layer (`attach`), is saved beside the model
    and needs each row's group: given by the caller (`with barycenter.groups(z)`) or predicted from the features.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"),
                                    method=WassersteinBarycenter(attribute="gender"), retain_dataset=train)
        trainer.train()
        trainer.save_model("fair")
        model = WassersteinBarycenter.from_pretrained("fair")
        with attached(model).groups(["f", "m"]):  # or predicted
            model(**batch)
        ```
    """

    name: ClassVar[str] = "wasserstein_barycenter"
    paper: ClassVar[Paper | None] = IT_REG
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    needs_column: ClassVar[bool] = True
    one_shot: ClassVar[bool] = True
    loads_with: ClassVar[str] = "hf_unlearn.WassersteinBarycenter.from_pretrained"
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp", "fsdp"})
    reasons: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"deepspeed": "it trains nothing, and without training DeepSpeed evaluates nothing"}
    )

    attribute: str | None = setting(None, "Column whose value the outputs must not depend on.")
    strength: float = setting(1.0, "t in (1−t) x + t x̂: 0 leaves the features as they are, 1 removes the attribute.")
    ridge: float = setting(
        1e-6, "Added to the covariances where one is singular, in units of the features' mean variance."
    )
    predict_group: bool = setting(
        True, "Fit a classifier of the group, for rows whose group is not given at inference; its argmax is taken."
    )

    def __post_init__(self) -> None:
        _check_settings(self.strength, self.ridge)

    def reads_labels(self, side: str) -> bool:
        return False

    def setup(self, run: UnlearningRun) -> None:
        self.apply(run.model, run.retain_dataset, run.processor)

    def apply(self, model: nn.Module, dataset: Any, processor: Processor) -> Barycenter:
        """Fit on `dataset` and attach to `model`; see `fit_barycenter` and `attach`."""
        if self.attribute is None:
            raise ValueError("`attribute` is missing: the column whose values are the groups, such as 'gender'.")
        barycenter = fit_barycenter(
            model,
            dataset,
            processor,
            self.attribute,
            strength=self.strength,
            ridge=self.ridge,
            predict_group=self.predict_group,
        )
        attach(model, barycenter)
        return barycenter

    @contextmanager
    def undone(self, model: nn.Module) -> Iterator[None]:
        barycenter = detach(model)
        try:
            yield
        finally:
            attach(model, barycenter)

    def save(self, model: nn.Module, folder: str | Path) -> None:
        save_barycenter(model, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, model_class: Any | None = None, **kwargs: Any) -> Any:
        """A saved model with its barycenter in place.

        Args:
            source: folder, or repository on the Hub.
            model_class: class or auto class; by default the architecture in the model's configuration.
            kwargs: for the model's `from_pretrained`; `revision`, `token` and `cache_dir` also find the barycenter.

        Raises:
            OSError: files are missing.
            ValueError: they are not of a barycenter for this model.
        """
        hub = {k: kwargs[k] for k in ("revision", "token", "cache_dir") if k in kwargs}
        if model_class is None:
            config = transformers.AutoConfig.from_pretrained(str(source), **hub)
            model_class = getattr(transformers, (config.architectures or [""])[0], None)
            if model_class is None:
                raise ValueError(
                    f"`model_class` is missing: the configuration in {source} names no known architecture."
                )
        model = model_class.from_pretrained(str(source), **kwargs)
        attach(model, Barycenter.load(source, **hub))
        return model


# --- fit --------------------------------------------------------------------------------------------------------------


def fit_barycenter(
    model: nn.Module,
    dataset: Any,
    processor: Processor,
    attribute: str,
    *,
    strength: float = 1.0,
    ridge: float = 1e-6,
    predict_group: bool = True,
    batch_size: int = 128,
    seed: int = 0,
) -> Barycenter:
    """Fit the maps on one pass over `dataset`, in eval mode; nothing is attached.

    Args:
        model: the trained classifier.
        dataset: rows (dicts) with the model's input and the column `attribute`, raw; a stream will do.
        processor: turns rows into batches.
        attribute: the column; at most 32 distinct values.
        strength, ridge, predict_group: see `WassersteinBarycenter`.
        batch_size: of the forward passes.
        seed: of the draw of at most 10,000 rows for the group classifier.

    Raises:
        ValueError: the column is missing, has missing values, one value, continuous or too many ones, or a group with fewer
            than two rows; or the features do not vary.
        ArithmeticError: the barycenter did not converge.
    """
    _check_settings(strength, ridge)
    layer = find_last_layer(model)
    if attached(model) is not None:
        raise ValueError("`model` carries a barycenter already. Take it off first: `detach(model)`.")
    number: dict[Any, int] = {}
    moments, sample = StreamingMoments(layer.in_features), _RowSample(CLASSIFIER_ROWS, seed)
    for answer in answers(model, dataset, processor.collate, batch_size, features=True):
        values = [_value(row, attribute) for row in answer.rows]
        group = torch.tensor([number.setdefault(v, len(number)) for v in values])
        if len(number) > MAX_GROUPS:
            raise ValueError(
                f"`attribute={attribute!r}` has more than {MAX_GROUPS} distinct values"
                + (", and they are continuous" if any(isinstance(v, float) for v in values) else "")
                + ": each needs many rows of its own. Bin it, for example into quartiles, in a new column."
            )
        features: Tensor = answer.features  # type: ignore[assignment]
        moments.update(features, group)
        if predict_group:
            sample.add(features, group)
    names = list(number)
    if len(names) < 2:
        raise ValueError(
            f"`attribute={attribute!r}` has {len(names)} distinct value in `dataset`: there are no groups to bring together."
        )
    for name, n in zip(names, moments.counts, strict=True):
        if n < 2:
            raise ValueError(f"`attribute={attribute!r}`: the group {name!r} has {n} row, and a covariance needs two.")
    covariances = _regularised(moments, ridge, names)
    weights = torch.tensor(moments.counts, dtype=torch.float64)
    maps, offsets = affine_maps(torch.stack(moments.means), covariances, weights)
    if few := _few(moments, names):
        logger.warning(
            "`attribute=%r`: group %s has fewer rows than the %d features, so that its covariance is singular and `ridge` "
            "stands in for it; the maps stretch by up to %.0f. Fit on more rows, or raise `ridge`.",
            attribute,
            ", ".join(few),
            layer.in_features,
            torch.linalg.eigvalsh(maps).amax().item(),
        )
    record: dict[str, Any] = {"counts": moments.counts, "ridge": ridge, "group_accuracy": None}
    classifier = None
    if predict_group:
        classifier, record["group_accuracy"] = _fit_group_classifier(sample.x, sample.group, len(names))
    return Barycenter(maps, offsets, names, attribute, strength, classifier, record)


def _check_settings(strength: float, ridge: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must lie in [0, 1], got {strength}: it goes from the features to the barycenter.")
    if not ridge >= 0:
        raise ValueError(f"`ridge` must not be negative, got {ridge}.")


def _value(row: Any, attribute: str) -> Any:
    """The attribute of a row, as a plain Python value that JSON can hold."""
    if attribute not in row:
        raise ValueError(f"`attribute={attribute!r}` is not in `dataset`, which has {', '.join(row)}.")
    value = row[attribute]
    value = value.item() if hasattr(value, "item") else value
    if value is None or value != value:
        raise ValueError(
            f"`attribute={attribute!r}` is missing (None or NaN) in some rows. Drop them, or give them a value of their own."
        )
    if not isinstance(value, str | int | float):
        raise ValueError(f"`attribute={attribute!r}` holds a {type(value).__name__}: it must be a string or a number.")
    return value


class _RowSample:
    """A uniform sample of a stream's rows: those with the smallest random keys."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.generator = size, torch.Generator().manual_seed(seed)
        self.keys, self.x, self.group = torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.long)

    def add(self, x: Tensor, group: Tensor) -> None:
        x = x.cpu().float()
        self.keys = torch.cat([self.keys, torch.rand(len(x), generator=self.generator)])
        self.x = torch.cat([self.x.view(-1, x.shape[1]), x])
        self.group = torch.cat([self.group, group])
        if len(self.keys) > self.size:
            best = self.keys.topk(self.size, largest=False).indices
            self.keys, self.x, self.group = self.keys[best], self.x[best], self.group[best]


def _few(moments: StreamingMoments, names: Sequence[Any]) -> list[str]:
    return [f"{name!r} ({n})" for name, n in zip(names, moments.counts, strict=True) if n <= moments.features]


def _regularised(moments: StreamingMoments, ridge: float, names: Sequence[Any]) -> Tensor:
    """The covariances; if one is singular, all with the same ridge, so that groups that are alike stay alike."""
    covariances = moments.covariances()
    values = torch.linalg.eigvalsh(covariances)
    if not _few(moments, names) and (values[:, 0] > 1e-10 * values[:, -1]).all():
        return covariances
    variance = covariances.diagonal(dim1=-2, dim2=-1).mean()
    if not ridge * variance > 0:
        raise ValueError(
            "`ridge=0` leaves a singular covariance. Give a positive value, such as 1e-6."
            if variance > 0
            else "`dataset`: its features do not vary at all. Check the rows and the model."
        )
    return covariances + ridge * variance * torch.eye(moments.features, dtype=covariances.dtype)


def _fit_group_classifier(x: Tensor, group: Tensor, groups: int) -> tuple[tuple[Tensor, Tensor] | None, float | None]:
    """Weight (K, d) and bias (K,) of a logistic regression, and its accuracy on every fifth row, which it did not see."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    held_out = torch.arange(len(x)) % 5 == 4
    if len(group[~held_out].unique()) < groups:  # tiny sets: better a classifier without a test than none
        held_out[:] = False
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    seen, known = ((x - mean) / std)[~held_out].numpy(), group[~held_out].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few hundred steps are enough for an argmax
        fitted = LogisticRegression(max_iter=300).fit(seen, known)
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if groups == 2:  # one row stands for the second group
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    weight = weight / std
    bias = bias - weight @ mean
    if not held_out.any():
        return (weight, bias), None
    predicted = (x[held_out] @ weight.mT + bias).argmax(-1)
    return (weight, bias), (predicted == group[held_out]).float().mean().item()
