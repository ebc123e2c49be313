"""What a report says of the run itself: all that a card needs, and nothing that names a row, a value, a user or a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from ...models.adapters import is_adapted
from ...models.snapshot import weights_digest
from ...training.protocols import FinishedRun
from ...utils.files import front_matter
from ...utils.hub_names import snapshots
from ...utils.safe_text import shown

SHOWN_ARGUMENTS = (
    "update", "trust_region", "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "seed",
)  # fmt: skip
COMMIT = re.compile("[0-9a-f]{40}")


def describe_run(run: FinishedRun, retain: Any | None, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What any trainer knows. `sizes`: rows of each set that were measured."""
    sets: dict[str, Any] = {"forget": run.forget_dataset, "retain": retain}
    labels, classes = class_names(run.model.config), run.reference.forgotten_classes
    return {
        "task": "text-classification" if run.processor.text else "image-classification",
        "method": run.method.describe(),
        "about": run.method.about(),
        "kind": run.args.forget_kind,
        "arguments": {n: getattr(run.args, n) for n in SHOWN_ARGUMENTS},
        "model_type": getattr(run.model.config, "model_type", ""),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "adapter": is_adapted(run.model),
        **({} if run.patch is None else {"patch": run.patch.describe()}),
        **origin(run.model),
        **data_source(run.forget_dataset if run.forget_dataset is not None else retain),
        "sets": {name: len(data) for name, data in sets.items() if hasattr(data, "__len__")},
        "rows": dict(sizes),
        "forgotten_classes": list(classes),
        "forgotten_labels": [shown(labels[c]) for c in classes if c < len(labels)],
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "device": run.args.device.type,
        "weights": weights_digest(run.model),
    }


def class_names(config: Any) -> list[str]:
    """The model's labels, in the order of their ids."""
    names = getattr(config, "id2label", None) or {}
    return [str(name) for _, name in sorted((int(i), name) for i, name in names.items())]


def origin(model: Any, revision: str | None = None, fetch: bool = False) -> dict[str, Any]:
    """`original`: Hub id and commit of what `model` was loaded from, None for a folder; `original_card`: its licence and language.

    Args:
        revision: what was loaded; without it the commit is known where only one is in the cache.
        fetch: ask the Hub for a card that is not in the cache.
    """
    adapters = getattr(model, "peft_config", None)
    adapter = next(iter(adapters.values())) if adapters else None
    name = adapter.base_model_name_or_path if adapter else getattr(model.config, "_name_or_path", "")
    local = bool(name) and Path(name).is_dir()
    folder = Path(name) if local else _snapshot(name or "", adapter.revision if adapter else revision)
    if folder is None:  # no proof that it is a name on the Hub and not of a folder that is gone
        return {"original": None, "original_card": {}}
    commit = folder.name if COMMIT.fullmatch(folder.name) and not local else None
    if fetch and commit and not (folder / "README.md").is_file():
        _download(name, commit)
    card = _card_fields(folder / "README.md")
    return {"original": None if local else {"id": name, "revision": commit}, "original_card": card}


def _snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a model in the Hub's cache: that of `revision`, or the only one; with several, what they are in."""
    folder = snapshots(name)
    held = list(folder.iterdir()) if folder.is_dir() else []
    if not held:
        return None
    if revision is None:
        return held[0] if len(held) == 1 else folder
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else folder


def _download(name: str, revision: str) -> None:
    """The card of a model on the Hub into the cache, where it can be had."""
    try:
        hf_hub_download(name, "README.md", revision=revision)
    except (HfHubHTTPError, OSError):  # no card, or no network: its licence stays unknown
        return


def _card_fields(path: Path) -> dict[str, Any]:
    """`license` and `language` of a model card, where it has them in the form that the Hub documents."""
    known, out = front_matter(path), {}
    for key in ("license", "language"):
        values = known.get(key)
        values = values if isinstance(values, list) else [values]
        if all(isinstance(v, str) and re.fullmatch(r"[a-zA-Z0-9.+-]{2,40}", v) for v in values):
            out[key] = values[0] if len(values) == 1 else values
    return out


def data_source(dataset: Any) -> dict[str, Any]:
    """`dataset`: Hub id and commit of a `datasets.Dataset`, else None, read off its place in the cache; `dataset_config`.

    The place is `…/user___name/config/version/commit/file`.
    """
    found = set()
    for file in getattr(dataset, "cache_files", None) or ():
        *_, name, config, _version, commit, _file = ("", "", "", "", *Path(file["filename"]).parts)
        found.add((name.replace("___", "/"), commit, config))
    name, commit, config = found.pop() if len(found) == 1 else ("", "", "")
    if not COMMIT.fullmatch(commit):
        return {"dataset": None, "dataset_config": None}
    return {
        "dataset": {"id": name, "revision": commit},
        "dataset_config": None if config.startswith("default") else config,
    }
