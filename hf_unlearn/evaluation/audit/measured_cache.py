"""What an audit measured of the original and of retrained models, kept so that the next candidate costs one measurement.

An entry is one safetensors file, whose name is a digest of all that the figures depend on: weights, configurations, rows in their
order, seed, and versions. It holds features of the rows, the forgotten ones among them. So nothing is kept unless the user names a
folder, only its owner can read it, and it has to be deleted with the rows. The judged model is never looked up.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...models.forward import unwrap
from ...models.private_digests import digest_of_inputs, read_secret, settings_of
from ...models.processor import Processor
from ...models.snapshot import fingerprints, joint_digest
from ...utils import VERSION
from ...utils.files import write_atomically
from .model_outputs import Measured, Outputs

logger = logging.getLogger(__name__)

SCHEMA = "hf_unlearn/measured/1"
LIBRARIES = ("transformers.", "peft.", "hf_unlearn.")  # whose models are all that their weights and configuration say
TOLD = ("unchanged", "weights", "unsteady", "network")  # numbers and texts of `Measured`, as they are
CURVES = ("curves", "hidden_curves")
ROUNDED, WITHOUT_ADAPTERS, SAMPLE = "rounded/", "without_adapters", "sample"


class MeasuredCache:
    """A folder with what was measured of models that are compared with `original`.

    Args:
        folder: the folder; it is made if it is missing.
        original: the model that learned everything.

    Attributes:
        seed: seed of the audits of `original`. Nobody can know it without the folder or an audit that records it.

    Raises:
        ValueError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, original: nn.Module) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self._secret = read_secret(self.folder)
        except OSError as error:
            raise ValueError(f"`audit_cache={str(folder)!r}` cannot be used: {error}.") from error
        self._original = _described(original)
        self.seed = int(self._named("seed", self._original)[:8], 16)

    def digests(self, sets: Mapping[str, PreparedRows], processor: Processor) -> dict[str, str]:
        """Return a digest of the rows of each set, in their order."""
        return {name: digest_of_inputs(rows, processor, self._secret) for name, rows in sets.items()}

    def file(self, model: nn.Module, settings: Mapping[str, Any]) -> Path | None:
        """Return the file for `model`, measured with `settings`; None if weights and configuration do not say all of it."""
        kind = type(unwrap(model))
        if not kind.__module__.startswith(LIBRARIES):
            logger.warning(
                "`audit_cache` does not keep a %s: its code may change while its weights do not.", kind.__name__
            )
            return None
        versions = [torch.__version__, transformers.__version__, np.__version__, VERSION]
        name = self._named(SCHEMA, self._original, _described(model), dict(settings), versions)
        return self.folder / f"{name}.safetensors"

    def _named(self, *parts: Any) -> str:
        return hmac.new(self._secret, json.dumps(parts, sort_keys=True).encode(), "sha256").hexdigest()

    def load(self, file: Path, name: str) -> Measured | None:
        """Return what `file` holds, under the name `name`; None if it is missing, or damaged, which is said."""
        if not file.is_file():
            return None
        try:
            return _read(file, name)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            logger.warning("%s in `audit_cache` is passed over, and measured again: %s", file.name, error)
            return None

    def store(self, file: Path, found: Measured) -> None:
        """Write what was measured. Warn if it cannot be written."""
        try:
            write_atomically(file, _written(found), mode=0o600)
        except OSError as error:
            logger.warning("What was measured of `%s` is not kept in `audit_cache`: %s", found.name, error)


def _described(model: nn.Module) -> list[Any]:
    bare: Any = unwrap(model)
    adapters = {name: adapter.to_dict() for name, adapter in getattr(bare, "peft_config", {}).items()}
    told = json.dumps(
        [settings_of(bare.config), adapters],
        sort_keys=True,
        default=lambda x: sorted(x) if isinstance(x, set) else str(x),
    )
    digest = hashlib.sha256(told.encode()).hexdigest()
    return [type(bare).__name__, digest, joint_digest(fingerprints(model))]


def _written(found: Measured) -> bytes:
    """Return `found` as a file: tensors as they are, all else as JSON. Probes are fitted anew from the features."""
    tensors: dict[str, Tensor] = {f"{ROUNDED}{k}": v for k, v in found.rounded.items()}
    outputs = {
        **found.outputs,
        **({} if found.without_adapters is None else {WITHOUT_ADAPTERS: found.without_adapters}),
    }
    for name, rows in outputs.items():
        tensors |= {f"{name}/{k}": getattr(rows, k) for k in ("logits", "features", "labels")}
        tensors |= {f"{name}/blocks/{i}": block for i, block in enumerate(rows.blocks)}
    if found.sample is not None:
        tensors[SAMPLE] = found.sample
    told = {name: getattr(found, name) for name in TOLD} | {name: getattr(found, name) for name in CURVES}
    return save({k: v.contiguous() for k, v in tensors.items()}, {"told": json.dumps(told)})


def _read(file: Path, name: str) -> Measured:
    with safe_open(file, "pt") as saved:
        told: dict[str, Any] = json.loads(saved.metadata()["told"])
        tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118  it is no dictionary
    sets = {key.removesuffix("/logits") for key in tensors if key.endswith("/logits")}
    outputs = {key: _outputs(tensors, key) for key in sets}
    curves: dict[str, Any]
    curves = {name: [[(int(step), float(share)) for step, share in c] for c in told.pop(name)] for name in CURVES}
    return Measured(
        name=name,
        outputs={key: rows for key, rows in outputs.items() if key != WITHOUT_ADAPTERS},
        rounded={k.removeprefix(ROUNDED): v for k, v in tensors.items() if k.startswith(ROUNDED)},
        **curves,
        without_adapters=outputs.get(WITHOUT_ADAPTERS),
        sample=tensors.get(SAMPLE),
        **told,
    )


def _outputs(tensors: Mapping[str, Tensor], name: str) -> Outputs:
    count = sum(key.startswith(f"{name}/blocks/") for key in tensors)
    blocks = tuple(tensors[f"{name}/blocks/{i}"] for i in range(count))
    return Outputs(tensors[f"{name}/logits"], tensors[f"{name}/features"], tensors[f"{name}/labels"], blocks)
