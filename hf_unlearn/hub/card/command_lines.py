"""What a card tells its reader to type: to load the model, to make it again, to audit it. Capitals stand for their folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ...utils.safe_text import shown

ORIGINAL, DATA, OUT = "ORIGINAL", "DATA", "OUT"
# What the card does not show, by the key of the recipe, as its owner gives it again.
HIDDEN = {
    "model": f"--model {ORIGINAL}",
    "dataset": f"--dataset {DATA}",
    "model_config": "--model_config CONFIG",
    "forget_class": "--forget_class CLASSES",
    "forget_values": "--forget_values VALUES",
    "forget_ids_file": "--forget_ids_file FILE",
    "forget_seed": "--forget_seed SEED",
    "bias_labels": "--bias_labels VALUE=LABEL",
}


def snippet(run: Mapping[str, Any], repo_id: str | None) -> str:
    """Python that loads the model; from the folder `model` beside the card where it is not on the Hub."""
    where, text = _quoted(repo_id or "model"), run.get("task") == "text-classification"
    kind, auto = ("SequenceClassification", "Tokenizer") if text else ("ImageClassification", "ImageProcessor")
    module, _, name = run.get("about", {}).get("loads_with", "").removesuffix(".from_pretrained").rpartition(".")
    if name:
        return "\n".join(
            (
                f"from {module} import {name}",
                f"from transformers import Auto{auto}",
                "",
                f"model, processor = {name}.from_pretrained({where}), Auto{auto}.from_pretrained({where})",
            )
        )
    if run.get("adapter"):
        stacked = bool((run.get("patch") or {}).get("stacked_on"))  # of which PEFT alone loads the first
        load, source = (
            ("load_patches", "hf_unlearn.models.adapters") if stacked else ("PeftModel.from_pretrained", "peft")
        )
        base = _quoted((run.get("original") or {}).get("id") or ORIGINAL)
        return "\n".join(
            (
                f"from {source} import {load.partition('.')[0]}",
                f"from transformers import AutoModelFor{kind}",
                "",
                f"model = {load}(AutoModelFor{kind}.from_pretrained({base}), {where})",
            )
        )
    own = (
        ["from hf_unlearn.models import pixel_mlp  # makes its architecture known"]
        if run.get("model_type") == "pixel_mlp"
        else []
    )
    lines = (
        "from transformers import pipeline",
        *own,
        "",
        f"classify = pipeline({_quoted(run.get('task'))}, model={where})",
        f"print(classify({_quoted('A sentence.' if text else 'picture.png')}))",
    )
    return "\n".join(lines)


def run_command(run: Mapping[str, Any]) -> str | None:
    """The command of a run whose recipe is recorded."""
    if "recipe" not in run:
        return None
    given = [words for key, words in HIDDEN.items() if key in run.get("left_out", ())]
    return " \\\n    ".join(["hf-unlearn run --config recipe.yaml", *given, f"--output_dir {OUT}"])


def audit_command(run: Mapping[str, Any]) -> str | None:
    """The command of an audit of this model; None for an attribute, which no audit is made for."""
    recipe, splits = run.get("recipe", {}), run.get("splits", {})
    if run.get("attribute"):
        return None
    data = _word((run.get("dataset") or {}).get("id") or DATA)
    asked = {key for key in (*recipe, *run.get("left_out", ())) if key.startswith("forget_") and key != "forget_kind"}
    rows = f"--forget {data}:{_word(splits.get('train', 'train'))}"
    if "train_rows" in recipe or not recipe:
        rows = ""
    elif asked == {"forget_class"} and "forget_class" in recipe:
        rows += f" --forget_class {' '.join(map(_word, recipe['forget_class']))}"
    elif asked == {"forget_column", "forget_values"} and "forget_column" in recipe:
        rows += f" --forget_column {_word(recipe['forget_column'])} --forget_values VALUES"
    else:
        rows = ""
    test = f"{data}:{_word(splits['test'])}" if "test" in splits else "TEST_ROWS"
    parts = [
        f"hf-unlearn audit --original {_word(recipe.get('model', ORIGINAL))} --unlearned {OUT}/model",
        f"--retrained {OUT}/retrained" if recipe.get("retrain") else "",
        rows or "--forget FORGET_ROWS --retain RETAIN_ROWS",
        f"--test {test}",
        *(f"--{key} {_word(recipe[key])}" for key in ("image_column", "text_column", "label_column") if key in recipe),
        f"--output_dir {OUT}",
    ]
    return " \\\n    ".join(part for part in parts if part)


def _word(value: Any) -> str:
    return shlex.quote(shown(value, 200))


def _quoted(value: Any) -> str:
    return json.dumps(shown(value, 200), ensure_ascii=False)
