"""The front matter of a card: the metadata that the Hub reads (https://huggingface.co/docs/hub/model-cards)."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ...utils.hub_names import HUB_ID
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
    """Return what is known of a model as the Hub's metadata. Unknown fields are left out.

    Args:
        run: `run` of a report, or the known parts of it for a model without a report.
        measures: the report's measures of the unlearned model. None (default): no results are given.
        repo_id: where the model will be on the Hub. None (default): the results are named after the kind of model.
        fields: fields that replace those found. `tags` are added to the card's own, `model_name` names the results.
    """
    original, data, original_card = (run.get(key) or {} for key in ("original", "dataset", "original_card"))
    given = {key: value for key, value in (fields or {}).items() if value is not None}
    tags, name = given.pop("tags", None) or (), given.pop("model_name", None)
    base, method = (
        given.get("base_model") or original.get("id") or _public_base(run),
        run.get("method", {}).get("method"),
    )
    results = list(_results(run, measures or {}))
    # The Hub shows the library's own snippet: `hf_unlearn` where transformers would load another model.
    library = "peft" if run.get("adapter") else "transformers"
    found: dict[str, Any] = {
        "license": original_card.get("license"),
        "language": original_card.get("language"),
        "library_name": OURS if run.get("about", {}).get("loads_with") else library,
        "pipeline_tag": run.get("task"),
        "base_model": base,
        # An adapter does not replace its base: whoever uses it has to load the base too.
        "base_model_relation": ("adapter" if run.get("adapter") else "finetune") if base else None,
        "datasets": [data["id"]] if data.get("id") else None,
        "metrics": list(METRICS) if results else None,
        "tags": [TAG, OURS, *([shown(method)] if method else []), *([tags] if isinstance(tags, str) else tags)],
        **({"model_name": name or model_name(run, repo_id), "eval_results": results} if results else {}),
    }
    # YAML has no tuples: the client library would write them as `!!python/tuple`, which no other reader takes.
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in (found | given).items()}
    return ModelCardData(**{key: value or None for key, value in plain.items()})  # type: ignore[arg-type]


def _public_base(run: Mapping[str, Any]) -> str | None:
    """Return the Hub id of the base that an original which is not on the Hub was fine-tuned from, if the run knows it."""
    base = (run.get("retraining") or {}).get("base")
    name = str(base.get("id") or "") if isinstance(base, Mapping) else ""
    return name if HUB_ID.fullmatch(name) and not run.get("adapter") else None


def model_name(run: Mapping[str, Any], repo_id: str | None) -> str:
    """Return the model's name on the Hub, or a name made from the kind of model if it has none there."""
    return repo_id.split("/")[-1] if repo_id else shown(f"unlearned-{run.get('model_type') or 'classifier'}")


def _results(run: Mapping[str, Any], measures: Mapping[str, float]) -> Iterator[EvalResult]:
    """Results for the `model-index`. The sets differ in `dataset_split`: the Hub does not tell results apart by name."""
    data, task = run.get("dataset") or {}, str(run.get("task"))
    config, revision = (shown(value) if value else None for value in (run.get("dataset_config"), data.get("revision")))
    for split, where in SETS.items():
        for metric, name in METRICS.items():
            value = measures.get(f"{split}_{metric}")
            if value is not None and math.isfinite(value):
                yield EvalResult(
                    task_type=task,
                    task_name=task.replace("-", " ").capitalize(),
                    dataset_type=shown(data.get("id") or "unknown"),
                    dataset_name=shown(data.get("id") or run.get("dataset_name") or "local data"),
                    dataset_config=config,
                    dataset_split=split,
                    dataset_revision=revision,
                    metric_type=metric,
                    metric_name=f"{name} on {where}",
                    metric_value=value,
                )
