"""A layer in front of a model's last layer whose maps bring the features of groups together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers.utils import cached_file

from ..utils.files import write_atomically
from .structure import find_last_layer

SCHEMA = 1
TENSORS, RECORD = "barycenter.safetensors", "barycenter.json"


class Barycenter(nn.Module):
    """Maps features x to (1 − t) x + t (A x + b), with the affine map (A, b) of the row's group.

    Its buffers are not in `state_dict`, so that the model's own files stay those of its class. They stay in fp32 when
    the model is cast to half precision, because rounded maps would leave the groups apart.

    Args:
        maps: A of each group, (K, d, d).
        offsets: b of each group, (K, d).
        names: the attribute's value of each group.
        attribute: the column of the attribute.
        strength: t in [0, 1]; default 1.
        classifier: weight (K, d) and bias (K,) of the group classifier on unmapped features; default None.
        record: what else is known of the fit (`counts`, `group_accuracy`), which is saved too; default none.
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
        # Follow the model to its device, but not to its precision.
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)

    @contextmanager
    def groups(self, values: Sequence[Any] | Tensor) -> Iterator[None]:
        """Inside, `values` are the attribute's values of the rows of every batch, in order."""
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        unknown = [v for v in listed if v not in self.names]
        if unknown:
            known = ", ".join(map(repr, self.names))
            raise ValueError(f"`values`: {unknown[0]!r} is not a value of '{self.attribute}' in the fit ({known}).")
        former, self._given = self._given, torch.tensor([self.names.index(v) for v in listed])
        try:
            yield
        finally:
            self._given = former

    def predict(self, features: Tensor) -> Tensor:
        """Return the most probable group (...) of features (..., d)."""
        if self.weight is None or self.bias is None:
            raise ValueError(
                "the group of these rows is not known, and the barycenter was fitted with `predict_group=False`. Give "
                f"groups: `with barycenter.groups(values_of_{self.attribute}): model(...)`."
            )
        return nn.functional.linear(features.to(self.weight), self.weight, self.bias).argmax(-1)

    def forward(self, features: Tensor, group: Tensor | None = None) -> Tensor:
        """Return mapped `features` (B, ..., d) in their dtype.

        `group` are numbers of groups, (B,) or (B, ...); by default those of `groups`, and outside of it predicted ones.
        """
        group = self._given if group is None else group
        # Autocast would run the products in half precision.
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.maps)
            if group is None:
                group = self.predict(x)
            if len(group) != len(x):
                raise ValueError(f"`group`: {len(group)} groups were given for a batch of {len(x)} rows, not one each.")
            group = group.to(x.device).view(*group.shape, *[1] * (x.ndim - 1 - group.ndim)).expand(x.shape[:-1])
            # Every group's map acts on every row: there are few groups, and no shape depends on the data.
            mapped = torch.einsum("...d,ked->...ke", x, self.maps) + self.offsets
            index = group[..., None, None].expand(*group.shape, 1, x.shape[-1])
            mapped = mapped.gather(-2, index)[..., 0, :]
            return torch.lerp(x, mapped, self.strength).to(features.dtype)

    def save(self, folder: str | Path) -> None:
        """Write `barycenter.safetensors`, and then `barycenter.json` with its digest, to `folder`."""
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
            write_atomically(folder / name, content)

    @classmethod
    def load(cls, source: str | Path, **hub: Any) -> Barycenter:
        """Return the barycenter that `save` wrote to a folder or a repository on the Hub.

        `hub` are `revision`, `token` and `cache_dir` for the Hub.
        """
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


def _map_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook. It asks the layer for its barycenter, so that a deep copy of the model uses its own."""
    return (layer.barycenter(args[0]), *args[1:])  # type: ignore[operator]


def attached(model: nn.Module) -> Barycenter | None:
    """Return the barycenter that `model` carries, or None."""
    return getattr(find_last_layer(model), "barycenter", None)


def attach(model: nn.Module, barycenter: Barycenter) -> None:
    """Put `barycenter` in front of the last linear layer of `model`. It then moves and copies with the model."""
    layer = find_last_layer(model)
    if attached(model) is not None:
        raise ValueError("`model` carries a barycenter already. Take it off first: `detach(model)`.")
    width = barycenter.maps.shape[-1]
    if width != layer.in_features:
        raise ValueError(
            f"`barycenter` was fitted on another model: it maps {width} features, this layer reads {layer.in_features}."
        )
    layer.barycenter = barycenter.to(layer.weight.device)
    layer.register_forward_pre_hook(_map_input)


def detach(model: nn.Module) -> Barycenter:
    """Take the barycenter off `model` and return it."""
    barycenter, layer = _carried(model), find_last_layer(model)
    del layer.barycenter
    # The hook is found by its function: a deep copy of the model would not share a handle.
    for key in [k for k, hook in layer._forward_pre_hooks.items() if hook is _map_input]:
        del layer._forward_pre_hooks[key]
    return barycenter


def save_barycenter(model: nn.Module, folder: str | Path) -> None:
    """Write the barycenter that `model` carries to the folder of `model.save_pretrained(folder)`."""
    _carried(model).save(folder)


def _carried(model: nn.Module) -> Barycenter:
    barycenter = attached(model)
    if barycenter is None:
        raise ValueError("`model` carries no barycenter.")
    return barycenter
