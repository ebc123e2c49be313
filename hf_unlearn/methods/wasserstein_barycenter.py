"""Feature unlearning in closed form: every group's features move onto their Wasserstein barycenter."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
CLASSIFIER_ROWS = 10_000  # that the group classifier is fitted on at most


@dataclass(kw_only=True)
class WassersteinBarycenter(UnlearningMethod):
    """Make the features independent of an attribute z without training (IT-reg for features, Xu and Strohmer).

    With group means m_k, covariances S_k and shares π_k of the features in front of the last linear layer, and B the covariance
    of their Wasserstein-2 barycenter (`gaussian_barycenter`), a row of group k gets the features

        x̂ = m̄ + T_k (x − m_k),   T_k = S_k^{-1/2} (S_k^{1/2} B S_k^{1/2})^{1/2} S_k^{-1/2},   m̄ = Σ_k π_k m_k

    | forget set | retain set | forward passes | extra memory |
    |---|---|---|---|
    | not read | inputs, a column of groups; a stream will do | one over the retain set | two d × d matrices a group |

    The barycenter of the laws given z is the best choice of features under Ŷ ⟂ Z (arXiv 2502.05684). Its affine form is that of
    the authors' code fair_data_representation [source]. Afterwards all groups have mean m̄ and covariance B: a linear layer
    cannot tell them apart, but higher moments may. No parameter changes. The map sits in front of the last layer (`attach`), is
    saved beside the model, and needs each row's group, given by the caller (`with barycenter.groups(z)`) or predicted.

    Use it to edit a finished model in seconds. Do not use it if groups have fewer rows than there are features, or if the
    group is neither known nor predictable when the model is used.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"),
                                    method=WassersteinBarycenter(attribute="gender"), retain_dataset=train)
        trainer.train()
        trainer.save_model("fair")
        model = WassersteinBarycenter.from_pretrained("fair")
        with attached(model).groups(["f", "m"]):  # without this the groups are predicted
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
    reasons: ClassVar[Mapping[str, str]] = {
        "deepspeed": "it trains nothing, and without training DeepSpeed evaluates nothing"
    }

    attribute: str | None = setting(None, "Column of the retain set whose value the outputs must not depend on.")
    strength: float = setting(1.0, "Share t in (1−t) x + t x̂. 0 changes nothing, and 1 removes the attribute.")
    ridge: float = setting(1e-6, "Share of the mean variance that is added to covariances if one is singular.")
    predict_group: bool = setting(True, "Fit a classifier for rows whose group is not given at inference.")

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"`strength` is the share of the mapped features, in [0, 1], got {self.strength}.")
        if not self.ridge >= 0:
            raise ValueError(f"`ridge` must not be negative, got {self.ridge}.")

    def reads_labels(self, side: str) -> bool:
        return False

    def setup(self, run: UnlearningRun) -> None:
        self.apply(run.model, run.retain_dataset, run.processor)

    def apply(self, model: nn.Module, dataset: Any, processor: Processor) -> Barycenter:
        """Fit on `dataset` and attach to `model`; see `fit_barycenter` and `attach`."""
        if self.attribute is None:
            raise ValueError("`attribute` is missing: the column whose values are the groups, such as 'gender'.")
        settings = {"strength": self.strength, "ridge": self.ridge, "predict_group": self.predict_group}
        barycenter = fit_barycenter(model, dataset, processor, self.attribute, **settings)  # type: ignore[arg-type]
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
        """Load a saved model and put its barycenter in place.

        Args:
            source: folder, or repository on the Hub.
            model_class: class or auto class; None means the architecture in the model's configuration.
            kwargs: arguments of the model's `from_pretrained`; `revision`, `token` and `cache_dir` also find the barycenter.

        Raises:
            OSError: files are missing.
            ValueError: the files are not those of a barycenter for this model.
        """
        hub = {k: kwargs[k] for k in ("revision", "token", "cache_dir") if k in kwargs}
        if model_class is None:
            config = transformers.AutoConfig.from_pretrained(str(source), **hub)
            model_class = getattr(transformers, (config.architectures or [""])[0], None)
            if model_class is None:
                raise ValueError(f"`model_class` is missing: the config in {source} names no known architecture.")
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
    """Fit the maps in one pass over `dataset`, in eval mode, without attaching them to the model.

    Args:
        model: the trained classifier.
        dataset: raw rows (dicts) with the model's input and the column `attribute`; a stream will do.
        processor: turns rows into batches.
        attribute: the column of the groups, with at most 32 distinct values.
        strength, ridge, predict_group: see `WassersteinBarycenter`.
        batch_size: rows in one forward pass.
        seed: seed of the draw of at most 10,000 rows for the group classifier.

    Raises:
        ValueError: the column is missing, has missing values, one value, too many values, or a group with fewer than two
            rows; or the features do not vary.
        ArithmeticError: the barycenter did not converge.
    """
    WassersteinBarycenter(strength=strength, ridge=ridge)  # raises ValueError if a setting is out of range
    layer = find_last_layer(model)
    if attached(model) is not None:
        raise ValueError("`model` carries a barycenter already. Take it off first: `detach(model)`.")
    number: dict[Any, int] = {}
    moments, sample = StreamingMoments(layer.in_features), _RowSample(CLASSIFIER_ROWS, seed)
    for answer in answers(model, dataset, processor.collate, batch_size, features=True):
        values = [_value(row, attribute) for row in answer.rows]
        group = torch.tensor([number.setdefault(v, len(number)) for v in values])
        if len(number) > MAX_GROUPS:
            continuous = ", and they are continuous" if any(isinstance(v, float) for v in values) else ""
            raise ValueError(
                f"`attribute={attribute!r}` has more than {MAX_GROUPS} distinct values{continuous}: each needs many rows of its "
                "own. Bin it, for example into quartiles, in a new column."
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
    weights = torch.tensor(moments.counts, dtype=torch.float64)
    maps, offsets = affine_maps(torch.stack(moments.means), _regularised(moments, ridge), weights)
    few = [f"{name!r} ({n})" for name, n in zip(names, moments.counts, strict=True) if n <= layer.in_features]
    if few:
        logger.warning(
            "`attribute=%r`: group %s has fewer rows than the %d features, so that its covariance is singular and `ridge` "
            "stands in for it; the maps stretch by up to %.0f. Fit on more rows, or raise `ridge`.",
            attribute,
            ", ".join(few),
            layer.in_features,
            torch.linalg.eigvalsh(maps).amax().item(),
        )
    classifier, accuracy = _fit_group_classifier(sample.x, sample.group, len(names)) if predict_group else (None, None)
    record = {"counts": moments.counts, "ridge": ridge, "group_accuracy": accuracy}
    return Barycenter(maps, offsets, names, attribute, strength, classifier, record)


def _value(row: Any, attribute: str) -> Any:
    """Return the attribute of a row, as a plain Python value that JSON can hold."""
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
    """A uniform sample of a stream's rows: the rows with the smallest random keys."""

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


def _regularised(moments: StreamingMoments, ridge: float) -> Tensor:
    """Return the covariances. If one is singular, all get the same ridge, so that groups that are alike stay alike."""
    covariances = moments.covariances()
    values = torch.linalg.eigvalsh(covariances)
    if min(moments.counts) > moments.features and (values[:, 0] > 1e-10 * values[:, -1]).all():
        return covariances
    variance = covariances.diagonal(dim1=-2, dim2=-1).mean()
    if not variance > 0:
        raise ValueError("`dataset`: its features do not vary at all. Check the rows and the model.")
    if not ridge > 0:
        raise ValueError("`ridge=0` leaves a singular covariance. Give a positive value, such as 1e-6.")
    return covariances + ridge * variance * torch.eye(moments.features, dtype=covariances.dtype)


def _fit_group_classifier(x: Tensor, group: Tensor, groups: int) -> tuple[tuple[Tensor, Tensor] | None, float | None]:
    """Return weight (K, d) and bias (K,) of a logistic regression, and its accuracy on every fifth row, which it did not see."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    held_out = torch.arange(len(x)) % 5 == 4
    if len(group[~held_out].unique()) < groups:  # in a tiny set a classifier without a test is better than none
        held_out[:] = False
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    seen, known = ((x - mean) / std)[~held_out].numpy(), group[~held_out].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few hundred steps are enough for an argmax
        fitted = LogisticRegression(max_iter=300).fit(seen, known)
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if groups == 2:  # scikit-learn gives one row, for the second group
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    weight = weight / std
    bias = bias - weight @ mean
    if not held_out.any():
        return (weight, bias), None
    predicted = (x[held_out] @ weight.mT + bias).argmax(-1)
    return (weight, bias), (predicted == group[held_out]).float().mean().item()
