"""A map in front of a model's last layer that brings groups together: the module, how it is attached, saved and loaded."""

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
        """Read what `save` wrote, from a folder or a repository on the Hub (`hub`: `revision`, `token`, `cache_dir`).

        Raises:
            OSError: files are missing.
            ValueError: they are of another version, or do not belong together.
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
