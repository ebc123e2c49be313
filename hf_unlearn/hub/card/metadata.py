"""The front matter of a card: the metadata that the Hub reads (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ...utils.safe_text import shown
from ..layout import OURS, TAG

SETS = {"forget": "the forget set", "retain": "the retain set", "test": "the test set"}
METRICS = {"accuracy": "accuracy", "f1": "macro F1"}  # the Hub's name of a metric -> its name in a sentence


def metadata(
    run: Mapping[str, Any],
    measures: Mapping[str, float] | None = None,
    repo_id: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> ModelCardData:
    """What is known of a model, as the Hub's metadata. What is not known is left out.

    Args:
        run: `run` of a report, or of a model without a report the parts of it that are known.
        measures: the report's measures of the unlearned model.
        repo_id: where the model will be on the Hub.
        fields: that win over those found; `tags` are added, `model_name` is that of the results.
    """
    original, data, known = (run.get(key) or {} for key in ("original", "dataset", "original_card"))
    given = {key: value for key, value in (fields or {}).items() if value is not None}
    tags, name = given.pop("tags", None) or (), given.pop("model_name", None)
    base = given.get("base_model") or original.get("id")
    task, method = run.get("task"), run.get("method", {}).get("method")
    results = list(_results(run, measures or {}))
    found: dict[str, Any] = {
        "license": known.get("license"),
        "language": known.get("language"),
        "library_name": library(run),
        "pipeline_tag": task,
        "base_model": base,
        # An adapter does not stand in the place of its base: whoever uses it has to load the base too.
        "base_model_relation": ("adapter" if run.get("adapter") else "finetune") if base else None,
        "datasets": [data["id"]] if data.get("id") else None,
        "metrics": list(METRICS) if results else None,
        "tags": [TAG, OURS, *([shown(method)] if method else []), *([tags] if isinstance(tags, str) else tags)],
        **({"model_name": name or model_name(run, repo_id), "eval_results": results} if results else {}),
    }
    kept = {key: value or None for key, value in (found | given).items()}
    return ModelCardData(**kept)  # type: ignore[arg-type]  # fields of any type


def library(run: Mapping[str, Any]) -> str:
    """The library that loads the model. The Hub shows its snippet, so this is ours where transformers would load another model."""
    if run.get("about", {}).get("loads_with"):
        return "hf_unlearn"
    return "peft" if run.get("adapter") else "transformers"


def model_name(run: Mapping[str, Any], repo_id: str | None) -> str:
    """The name on the Hub, or one from the kind of model."""
    return repo_id.split("/")[-1] if repo_id else shown(f"unlearned-{run.get('model_type') or 'classifier'}")


def _results(run: Mapping[str, Any], measures: Mapping[str, float]) -> Iterator[EvalResult]:
    """Results for the `model-index`. The sets differ in `dataset_split`: the Hub does not tell results apart by name."""
    data, task = run.get("dataset") or {}, str(run.get("task"))
    for split, where in SETS.items():
        for metric, name in METRICS.items():
            value = measures.get(f"{split}_{metric}")
            if value is not None and math.isfinite(value):
                yield EvalResult(
                    task_type=task,
                    task_name=task.replace("-", " ").capitalize(),
                    dataset_type=shown(data.get("id") or "unknown"),
                    dataset_name=shown(data.get("id") or run.get("dataset_name") or "local data"),
                    dataset_config=shown(run["dataset_config"]) if run.get("dataset_config") else None,
                    dataset_split=split,
                    dataset_revision=shown(data["revision"]) if data.get("revision") else None,
                    metric_type=metric,
                    metric_name=f"{name} on {where}",
                    metric_value=value,
                )
