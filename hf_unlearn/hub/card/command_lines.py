"""The lines that a card gives its reader: to load the model, to repeat the run, to audit it, to cite it. CAPITALS stand for folders."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ...evaluation.report.report_data import retrained_names
from ...utils.safe_text import shown

TITLE = "hf_unlearn: machine unlearning for Hugging Face classifiers"
ORIGINAL, DATA, OUT = "ORIGINAL", "DATA", "OUT"
# For each key of a recipe that the card does not show: the words with which the owner of the run gives it again.
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
    """Return Python that loads the model from `repo_id`, or from the folder `model` beside the card if that is None."""
    place, is_text = _quoted(repo_id or "model"), run.get("task") == "text-classification"
    kind, auto = ("SequenceClassification", "Tokenizer") if is_text else ("ImageClassification", "ImageProcessor")
    module, _, name = run.get("about", {}).get("loads_with", "").removesuffix(".from_pretrained").rpartition(".")
    if name:
        imports = [f"from {module} import {name}", f"from transformers import Auto{auto}"]
        use = [f"model, processor = {name}.from_pretrained({place}), Auto{auto}.from_pretrained({place})"]
    elif run.get("adapter"):
        # PEFT alone would load only the first of several stacked patches.
        is_stacked = bool((run.get("patch") or {}).get("stacked_on"))
        module, name = ("hf_unlearn.models.adapters", "load_patches") if is_stacked else ("peft", "PeftModel")
        load = name if is_stacked else f"{name}.from_pretrained"
        base = _quoted((run.get("original") or {}).get("id") or ORIGINAL)
        if run.get("adapter_of_base"):  # the head is in the adapter, and the base knows nothing of its classes
            base += f", num_labels={int(run['num_labels'])}"
        imports = [f"from {module} import {name}", f"from transformers import AutoModelFor{kind}"]
        use = [f"model = {load}(AutoModelFor{kind}.from_pretrained({base}), {place})"]
    else:
        imports = ["from transformers import pipeline"]
        if run.get("model_type") == "pixel_mlp":
            imports.append("from hf_unlearn.models import pixel_mlp  # makes its architecture known")
        example = _quoted("A sentence." if is_text else "picture.png")
        if run.get("text_pair"):
            example = json.dumps({"text": "The first text.", "text_pair": "The second text."})
        use = [f"classify = pipeline({_quoted(run.get('task'))}, model={place})", f"print(classify({example}))"]
    return "\n".join([*imports, "", *use])


def run_command(run: Mapping[str, Any]) -> str | None:
    """Return the command that repeats the run, or None if the report holds no recipe."""
    if "recipe" not in run:
        return None
    given = [words for key, words in HIDDEN.items() if key in run.get("left_out", ())]
    return " \\\n    ".join(["hf-unlearn run --config recipe.yaml", *given, f"--output_dir {OUT}"])


def audit_command(run: Mapping[str, Any]) -> str | None:
    """Return the command that audits this model, or None if an attribute was unlearned, which no audit covers."""
    recipe, splits = run.get("recipe", {}), run.get("splits", {})
    if run.get("attribute"):
        return None
    data = _word((run.get("dataset") or {}).get("id") or DATA)
    asked = {key for key in (*recipe, *run.get("left_out", ())) if key.startswith("forget_") and key != "forget_kind"}
    train, rows = f"--forget {data}:{_word(splits.get('train', 'train'))}", "--forget FORGET_ROWS --retain RETAIN_ROWS"
    if "train_rows" not in recipe:
        if asked == {"forget_class"} and "forget_class" in recipe:
            rows = f"{train} --forget_class {' '.join(map(_word, recipe['forget_class']))}"
        elif asked == {"forget_column", "forget_values"} and "forget_column" in recipe:
            rows = f"{train} --forget_column {_word(recipe['forget_column'])} --forget_values VALUES"
    retrained = retrained_names(recipe.get("retrain", 0))
    test = f"{data}:{_word(splits['test'])}" if "test" in splits else "TEST_ROWS"
    parts = [
        f"hf-unlearn audit --original {_word(recipe.get('model', ORIGINAL))} --unlearned {OUT}/model",
        *([f"--retrained {' '.join(f'{OUT}/{name}' for name in retrained)}"] if retrained else []),
        rows,
        f"--test {test}",
        *(f"--{key} {_word(recipe[key])}" for key in ("image_column", "text_column", "label_column") if key in recipe),
        f"--output_dir {OUT}",
    ]
    return " \\\n    ".join(parts)


def citation(run: Mapping[str, Any]) -> str:
    """Return BibTeX of the paper of the method, if it has one, and of this library."""
    paper = (run.get("about") or {}).get("paper") or {}
    number = re.fullmatch(r"https://arxiv\.org/abs/(\d{4}\.\d{4,5})", str(paper.get("url")), re.ASCII)
    entries = (
        []
        if number is None
        else [_entry("method", paper.get("title"), f"eprint = {{{number[1]}}}, archivePrefix = {{arXiv}}")]
    )
    return "\n".join([*entries, _entry("hf_unlearn", TITLE, "note = {Software}")])


def _entry(key: str, title: Any, more: str) -> str:
    plain_title = re.sub(r"[{}\\%]", "", shown(title, 200))
    return f"@misc{{{key}, title = {{{plain_title}}}, {more}}}"


def _word(value: Any) -> str:
    return shlex.quote(shown(value, 200))


def _quoted(value: Any) -> str:
    return json.dumps(shown(value, 200), ensure_ascii=False)
