"""Feature unlearning in closed form: move every group's features onto their Wasserstein barycenter."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..processing import Processor, eval_mode, model_inputs, unwrap
from ..scope import find_head
from ..wasserstein import StreamingMoments, affine_maps
from .base import Paper, UnlearningMethod, setting

logger = logging.getLogger(__name__)

MAX_GROUPS = 32
CLASSIFIER_ROWS = 10_000
SCHEMA = 1
TENSORS, RECORD = "barycenter.safetensors", "barycenter.json"


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
        method = WassersteinBarycenter(attribute="gender")
        barycenter = method.apply(model, train, Processor(model, tokenizer))
        with barycenter.groups(["f", "m"]):  # or predicted
            model(**batch)
        model.save_pretrained(folder)
        save_barycenter(model, folder)
        model = WassersteinBarycenter.from_pretrained(folder)
        ```
    """

    name: ClassVar[str] = "barycenter"
    paper: ClassVar[Paper | None] = Paper("Machine Unlearning via Information Theoretic Regularization", "2502.05684")
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True

    attribute: str | None = setting(None, "Column whose value the outputs must not depend on. Required.")
    strength: float = setting(1.0, "t in (1−t) x + t x̂: 0 leaves the features as they are, 1 removes the attribute.")
    ridge: float = setting(
        1e-6, "Added to the covariances where one is singular, in units of the features' mean variance."
    )
    predict_group: bool = setting(
        True, "Fit a classifier of the group, for rows whose group is not given at inference; its argmax is taken."
    )

    def __post_init__(self) -> None:
        if not self.attribute:
            raise ValueError("`attribute` is missing: name the column whose influence is to be removed.")
        _check_settings(self.strength, self.ridge)

    def apply(self, model: nn.Module, dataset: Any, processor: Processor) -> Barycenter:
        """Fit on `dataset` and attach to `model`; see `fit_barycenter` and `attach`."""
        assert self.attribute is not None
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
        import transformers

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


# --- the module -------------------------------------------------------------------------------------------------------


class Barycenter(nn.Module):
    """The map that sits in front of a model's last linear layer: (1−t) x + t x̂ with the group's affine map.

    Its buffers are not in `state_dict`, so that the model's own files stay those of its class, and stay fp32 in a model that
    is cast to half precision.

    Args:
        maps: (K, d, d), at full strength.
        offsets: (K, d), at full strength.
        names: the attribute's value of each group.
        attribute: its column.
        strength: t.
        classifier: weight (K, d) and bias (K,) of the group classifier on the unmapped features, or None.
        record: what else is known of the fit (`counts`, `group_accuracy`), saved with it.
    """

    maps: Tensor
    offsets: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        maps: Tensor,
        offsets: Tensor,
        names: Sequence[Any],
        attribute: str,
        strength: float = 1.0,
        classifier: tuple[Tensor, Tensor] | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.attribute, self.strength = list(names), attribute, strength
        self.record = dict(record or {})
        self._given: Tensor | None = None
        weight, bias = classifier or (None, None)
        for name, tensor in {"maps": maps, "offsets": offsets, "weight": weight, "bias": bias}.items():
            self.register_buffer(name, None if tensor is None else tensor.float().contiguous(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Barycenter:
        # Follow the model to its device, not to its precision: rounded maps would leave the groups apart.
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)

    def extra_repr(self) -> str:
        return f"attribute={self.attribute!r}, groups={len(self.names)}, strength={self.strength}"

    @contextmanager
    def groups(self, values: Sequence[Any] | Tensor) -> Iterator[None]:
        """Inside, the rows of every batch have these values of the attribute, in order.

        Raises:
            ValueError: a value that no row of the fit had.
        """
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        unknown = [v for v in listed if v not in self.names]
        if unknown:
            raise ValueError(
                f"`values`: {unknown[0]!r} is not a value of '{self.attribute}' that the barycenter was fitted on "
                f"({', '.join(map(repr, self.names))})."
            )
        former, self._given = self._given, torch.tensor([self.names.index(v) for v in listed])
        try:
            yield
        finally:
            self._given = former

    def predict(self, features: Tensor) -> Tensor:
        """The most probable group (...) of features (..., d)."""
        if self.weight is None or self.bias is None:
            raise ValueError(
                f"the group of these rows is not known, and the barycenter was fitted with `predict_group=False`. Give it: "
                f"`with barycenter.groups(values_of_{self.attribute}): model(...)`."
            )
        return nn.functional.linear(features.to(self.weight), self.weight, self.bias).argmax(-1)

    def forward(self, features: Tensor, group: Tensor | None = None) -> Tensor:
        """Mapped features (..., d), in the dtype that came in.

        Args:
            features: (B, ..., d).
            group: (B,) or (B, ...) numbers of the groups; else those of `groups`, else predicted.
        """
        group = self._given if group is None else group
        # Autocast would run the products in half precision.
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.maps)
            group = self.predict(x) if group is None else _broadcast(group.to(x.device), x)
            # Every group's map on every row: few groups, and no shape depends on the data.
            mapped = torch.einsum("...d,ked->...ke", x, self.maps) + self.offsets
            index = group[..., None, None].expand(*group.shape, 1, x.shape[-1])
            mapped = mapped.gather(-2, index)[..., 0, :]
            return torch.lerp(x, mapped, self.strength).to(features.dtype)

    def save(self, folder: str | Path) -> None:
        """Write `barycenter.safetensors` and then `barycenter.json`, which names the former's digest, into `folder`."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = save({name: buffer.cpu().contiguous() for name, buffer in self.named_buffers()})
        record = {
            "schema": SCHEMA,
            "attribute": self.attribute,
            "strength": self.strength,
            "groups": self.names,
            **self.record,
            "sha256": hashlib.sha256(tensors).hexdigest(),
        }
        for name, content in ((TENSORS, tensors), (RECORD, json.dumps(record, indent=2).encode())):
            partial = folder / f".{name}.partial"
            partial.write_bytes(content)
            os.replace(partial, folder / name)

    @classmethod
    def load(cls, source: str | Path, **hub: Any) -> Barycenter:
        """Read what `save` wrote, from a folder or a repository on the Hub (`hub`: `revision`, `token`, `cache_dir`).

        Raises:
            OSError: files are missing.
            ValueError: they are of another version, or do not belong together.
        """
        from safetensors.torch import load
        from transformers.utils import cached_file

        record = json.loads(Path(cached_file(str(source), RECORD, **hub)).read_text())
        if record.pop("schema", None) != SCHEMA:
            raise ValueError(f"{RECORD} in {source} is not of schema {SCHEMA}. Save it again with this version.")
        content = Path(cached_file(str(source), TENSORS, **hub)).read_bytes()
        if hashlib.sha256(content).hexdigest() != record.pop("sha256", None):
            raise ValueError(f"{TENSORS} and {RECORD} in {source} are not from the same save. Save both again.")
        tensors = load(content)
        classifier = (tensors["weight"], tensors["bias"]) if "weight" in tensors else None
        names, attribute, strength = (record.pop(k) for k in ("groups", "attribute", "strength"))
        return cls(tensors["maps"], tensors["offsets"], names, attribute, strength, classifier, record)


def _broadcast(group: Tensor, x: Tensor) -> Tensor:
    """(B,) or (B, ...) to the shape of `x` (B, ..., d) without its last dimension."""
    if group.shape[0] != x.shape[0]:
        raise ValueError(
            f"`group`: {group.shape[0]} groups were given for a batch of {x.shape[0]} rows. Give one per row."
        )
    return group.view(*group.shape, *[1] * (x.ndim - 1 - group.ndim)).expand(x.shape[:-1])


def _map_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook. It looks the module up, so that a deep copy of the model uses its own."""
    return (layer.barycenter(args[0]), *args[1:])  # type: ignore[operator]


# --- on a model -------------------------------------------------------------------------------------------------------


def find_last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last one inside the head with one output per class.

    Raises:
        ValueError: there is none.
    """
    model = unwrap(model)
    head = model.get_submodule(find_head(model))
    classes = model.config.num_labels  # type: ignore[union-attr]
    linear = [m for m in head.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linear:
        raise ValueError(
            f"`model`: its head ({type(head).__name__}) has no linear layer with {classes} outputs, in front of which the "
            "barycenter would sit."
        )
    return linear[-1]


def attached(model: nn.Module) -> Barycenter | None:
    """The barycenter that `model` carries."""
    return getattr(find_last_layer(model), "barycenter", None)


def attach(model: nn.Module, barycenter: Barycenter) -> None:
    """Put `barycenter` in front of the last linear layer of `model`, which then moves and copies with it.

    Raises:
        ValueError: the model carries one already, or has features of another width.
    """
    layer = find_last_layer(model)
    if attached(model) is not None:
        raise ValueError("`model` carries a barycenter already. Take it off first: `detach(model)`.")
    width = barycenter.maps.shape[-1]
    if width != layer.in_features:
        raise ValueError(
            f"`barycenter` maps {width} features and the last layer of `model` reads {layer.in_features}: it was fitted on "
            "another model."
        )
    layer.barycenter = barycenter.to(layer.weight.device)
    layer.register_forward_pre_hook(_map_input)


def detach(model: nn.Module) -> Barycenter:
    """Take the barycenter off, and return it.

    Raises:
        ValueError: there is none.
    """
    layer, barycenter = find_last_layer(model), attached(model)
    if barycenter is None:
        raise ValueError("`model` carries no barycenter.")
    del layer.barycenter
    # By function and not by handle, which a deep copy of the model would not share.
    for key in [k for k, hook in layer._forward_pre_hooks.items() if hook is _map_input]:
        del layer._forward_pre_hooks[key]
    return barycenter


def save_barycenter(model: nn.Module, folder: str | Path) -> None:
    """Write the barycenter that `model` carries beside what `model.save_pretrained(folder)` wrote.

    Raises:
        ValueError: it carries none.
    """
    barycenter = attached(model)
    if barycenter is None:
        raise ValueError("`model` carries no barycenter to save.")
    barycenter.save(folder)


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
    with eval_mode(model), torch.no_grad():
        for rows in _batches(dataset, batch_size):
            values = [_value(row, attribute) for row in rows]
            group = torch.tensor([number.setdefault(v, len(number)) for v in values])
            if len(number) > MAX_GROUPS:
                raise ValueError(
                    f"`attribute={attribute!r}` has more than {MAX_GROUPS} distinct values"
                    + (", and they are continuous" if any(isinstance(v, float) for v in values) else "")
                    + ": each needs many rows of its own. Bin it, for example into quartiles, in a new column."
                )
            x = _last_features(model, layer, processor.collate(rows))
            moments.update(x, group)
            if predict_group:
                sample.add(x, group)
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


def _batches(dataset: Any, size: int) -> Iterator[list[Any]]:
    rows: list[Any] = []
    for row in dataset:
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


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


def _last_features(model: nn.Module, layer: nn.Linear, batch: dict[str, Any]) -> Tensor:
    """What the last layer reads for a batch's logits, (B, d)."""
    device = next(model.parameters()).device
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(lambda _m, args, output: seen.append((args[0], output)))
    try:
        logits = model(**model_inputs({k: v.to(device) for k, v in batch.items()})).logits
    finally:
        handle.remove()
    features, outputs = seen[-1]
    if features.ndim == 2:
        return features
    # Decoders score every token and keep one: the token whose scores became the logits.
    features, outputs = features.flatten(1, -2), outputs.flatten(1, -2)
    kept = (outputs - logits[:, None]).abs().amax(-1).argmin(1)
    return features[torch.arange(len(kept), device=kept.device), kept]


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
