"""The front matter of a card: the metadata that the Hub reads (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...utils.safe_text import shown

SETS = {"forget": "the forget set", "retain": "the retain set", "test": "the test set"}
METRICS = {"accuracy": "accuracy", "f1": "macro F1"}  # of the Hub -> as it is called here


def metadata(
    run: Mapping[str, Any],
    measures: Mapping[str, float],
    repo_id: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Keys and values in the order of the card, without those that are not known.

    Args:
        run, measures: `run` of a report, and its measures of the unlearned model.
        repo_id: where the model will be on the Hub.
        fields: that win over those found; `tags` are added, `model_name` is that of the results.
    """
    original, data, known = (run.get(key) or {} for key in ("original", "dataset", "original_card"))
    given = {key: value for key, value in (fields or {}).items() if value is not None}
    tags, named = given.pop("tags", None) or (), given.pop("model_name", None)
    base = given.get("base_model") or original.get("id")
    task, method = run.get("task"), run.get("method", {}).get("method")
    found: dict[str, Any] = {
        "license": known.get("license"),
        "language": known.get("language"),
        "library_name": library(run),
        "pipeline_tag": task,
        "base_model": base,
        # A patch of the weights is none of what was made from it: the base has to be loaded too.
        "base_model_relation": ("adapter" if run.get("adapter") else "finetune") if base else None,
        "datasets": [data["id"]] if data.get("id") else None,
        "metrics": list(METRICS),
        "tags": ["machine-unlearning", "hf_unlearn", *([shown(method)] if method else [])],
        "model-index": task and [{"name": named or model_name(run, repo_id), "results": results(run, measures)}],
    }
    found["tags"] = list(dict.fromkeys([*found["tags"], *([tags] if isinstance(tags, str) else tags)]))
    return {key: value for key, value in (found | given).items() if value}


def library(run: Mapping[str, Any]) -> str:
    """What loads the model; named, so that the Hub shows no other way where transformers alone would load another model."""
    if run.get("about", {}).get("loads_with"):
        return "hf_unlearn"
    return "peft" if run.get("adapter") else "transformers"


def model_name(run: Mapping[str, Any], repo_id: str | None) -> str:
    """The name on the Hub, or one from the kind of model."""
    return repo_id.split("/")[-1] if repo_id else shown(f"unlearned-{run.get('model_type') or 'classifier'}")


def results(run: Mapping[str, Any], measures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Entries of the `model-index`, one for each set: the Hub tells results apart by `split`, not by name."""
    data, task = run.get("dataset") or {}, str(run.get("task"))
    name = shown(data.get("id") or run.get("dataset_name") or "local data")
    source = {"name": name, "type": shown(data.get("id") or "unknown")}
    source |= {"config": shown(run["dataset_config"])} if run.get("dataset_config") else {}
    source |= {"revision": shown(data["revision"])} if data.get("revision") else {}
    out: list[dict[str, Any]] = []
    for split, where in SETS.items():
        values = {metric: measures.get(f"{split}_{metric}") for metric in METRICS}
        metrics = [
            {"type": metric, "value": value, "name": f"{METRICS[metric]} on {where}"}
            for metric, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        if metrics:
            named = {"type": task, "name": task.replace("-", " ").capitalize()}
            out.append({"task": named, "dataset": source | {"split": split}, "metrics": metrics})
    return out
