"""What a report says about the run: all that a card needs, and nothing that names a row, a value, a user or a path."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from ...data.class_names import is_numbering
from ...models.adapters import configurations, is_adapted
from ...models.base import lies_on
from ...models.snapshot import weights_digest
from ...models.structure import find_heads, prefixes
from ...training.protocols import FinishedRun
from ...utils.files import front_matter
from ...utils.hub_names import COMMIT, snapshots
from ...utils.safe_text import shown

SHOWN_ARGUMENTS = (
    "update", "trust_region", "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "seed",
)  # fmt: skip


def describe_run(run: FinishedRun, retain: Any | None, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return what any trainer knows about its run. `sizes`: set -> number of rows that were measured."""
    sets: dict[str, Any] = {"forget": run.forget_dataset, "retain": retain}
    config, classes = run.model.config, run.reference.forgotten_classes
    labels = class_names(config)
    return {
        "task": "text-classification" if run.processor.text else "image-classification",
        "method": run.method.describe(),
        "about": run.method.about(),
        "kind": run.args.forget_kind,
        "arguments": {n: getattr(run.args, n) for n in SHOWN_ARGUMENTS},
        "model_type": getattr(run.model.config, "model_type", ""),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "adapter": is_adapted(run.model),
        **(
            {"adapter_of_base": True, "num_labels": config.num_labels}
            if run.patch is None and len(configurations(run.model)) == 1 and lies_on(run.model, run.base_model)
            else {}
        ),
        "head_only": _is_head_only(run),
        **_pair_of_texts(run),
        **({} if run.patch is None else {"patch": run.patch.describe()}),
        **origin(run.model),
        **data_source(run.forget_dataset if run.forget_dataset is not None else retain),
        "sets": {name: len(data) for name, data in sets.items() if hasattr(data, "__len__")},
        "rows": dict(sizes),
        **({} if is_numbering(enumerate(labels)) else {"classes": list(map(shown, labels))}),
        "forgotten_classes": list(classes),
        "forgotten_labels": [shown(labels[c]) for c in classes if c < len(labels)],
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "device": run.args.device.type,
        "weights": weights_digest(run.model),
    }


def class_names(config: Any) -> list[str]:
    """Return the names of the model's labels, in the order of their ids.

    The names that only the data set has are never taken: they may be those of persons, and reports and cards are published.
    """
    names = getattr(config, "id2label", None) or {}
    return [str(name) for _, name in sorted((int(i), name) for i, name in names.items())]


def _is_head_only(run: FinishedRun) -> bool:
    """Return True if parameters in front of the head were not allowed to change."""
    try:
        heads = prefixes(find_heads(run.model))
    except ValueError:  # no head is known
        return False
    return all(name.startswith(heads) for name in run.updated)


def _pair_of_texts(run: FinishedRun) -> dict[str, bool]:
    """Return `text_pair` if the model was given pairs of texts."""
    texts, rows = run.processor.texts, run.forget_dataset if run.forget_dataset is not None else run.retain_dataset
    if texts is None or rows is None:
        return {}
    names = getattr(rows, "column_names", None) or next(iter(rows))
    return {"text_pair": True} if len(texts.columns(names)) == 2 else {}


def origin(model: Any, revision: str | None = None, fetch: bool = False) -> dict[str, Any]:
    """Return `original`, the Hub id and commit that `model` was loaded from, and `original_card`, its license and language.

    `original` is None if the model was loaded from a folder.

    Args:
        revision: the revision that was loaded. Default: None; the commit is then known if the cache holds only one.
        fetch: ask the Hub for the card if it is not in the cache. Default: False.
    """
    adapters = getattr(model, "peft_config", None)
    adapter = next(iter(adapters.values())) if adapters else None
    name = adapter.base_model_name_or_path if adapter else getattr(model.config, "_name_or_path", "")
    local = bool(name) and Path(name).is_dir()
    folder = Path(name) if local else _snapshot(name or "", adapter.revision if adapter else revision)
    if folder is None:  # the name may be that of a folder which was deleted
        return {"original": None, "original_card": {}}
    commit = folder.name if COMMIT.fullmatch(folder.name) and not local else None
    if fetch and commit and not (folder / "README.md").is_file():
        with suppress(HfHubHTTPError, OSError):  # without a card or a network the license stays unknown
            hf_hub_download(name, "README.md", revision=commit)
    card = _card_fields(folder / "README.md")
    return {"original": None if local else {"id": name, "revision": commit}, "original_card": card}


def _snapshot(name: str, revision: str | None) -> Path | None:
    """Return the folder in the Hub's cache of `revision`, or of the only commit. If it is not known which, return its parent."""
    folder = snapshots(name)
    held = list(folder.iterdir()) if folder.is_dir() else []
    if not held:
        return None
    if revision is None:
        return held[0] if len(held) == 1 else folder
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else folder


def _card_fields(path: Path) -> dict[str, Any]:
    """Return `license` and `language` of a model card, if they have the form that the Hub documents."""
    known, out = front_matter(path), {}
    for key in ("license", "language"):
        values = known.get(key)
        values = values if isinstance(values, list) else [values]
        if all(isinstance(v, str) and re.fullmatch(r"[a-zA-Z0-9.+-]{2,40}", v) for v in values):
            out[key] = values[0] if len(values) == 1 else values
    return out


def data_source(dataset: Any) -> dict[str, Any]:
    """Return `dataset`, the Hub id and commit of a `datasets.Dataset`, and `dataset_config`; None if they are not known.

    They are read from its path in the cache, `…/user___name/config/version/commit/file`.
    """
    found = set()
    for file in getattr(dataset, "cache_files", None) or ():
        *_, name, config, _version, commit, _file = ("", "", "", "", *Path(file["filename"]).parts)
        found.add((name.replace("___", "/"), commit, config))
    name, commit, config = found.pop() if len(found) == 1 else ("", "", "")
    if not COMMIT.fullmatch(commit):
        return {"dataset": None, "dataset_config": None}
    config_name = None if config.startswith("default") else config
    return {"dataset": {"id": name, "revision": commit}, "dataset_config": config_name}
