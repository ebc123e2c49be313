"""What the tests of cards share: rules of the Hub's metadata, and readers of runs."""

import json
import re

import yaml

LICENSES = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0
epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other"""


PIPELINES = ("image-classification", "text-classification")  # of all those that a classifier of ours can be


RELATIONS = ("adapter", "finetune", "merge", "quantized")


KEYS = """license language library_name pipeline_tag base_model base_model_relation datasets metrics tags model-index"""


REPO = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"


def problems(data):
    """List what the Hub would refuse or not understand in the metadata of a card."""

    def texts(value):
        return isinstance(value, list) and all(isinstance(v, str) and v for v in value)

    out = [f"unknown key {key}" for key in data if key not in KEYS.split()]
    checks = {
        "license": lambda v: v in LICENSES.split(),
        "language": lambda v: all(re.fullmatch("[a-z]{2,3}", x) for x in (v if isinstance(v, list) else [v])),
        "library_name": lambda v: v in ("transformers", "peft", "hf_unlearn"),
        "pipeline_tag": lambda v: v in PIPELINES,
        "base_model": lambda v: isinstance(v, str) and re.fullmatch(REPO, v),
        "base_model_relation": lambda v: v in RELATIONS and "base_model" in data,
        "datasets": lambda v: texts(v) and all(re.fullmatch(REPO, x) for x in v),
        "metrics": texts,
        "tags": lambda v: texts(v) and len(set(v)) == len(v),
        "model-index": lambda v: isinstance(v, list) and len(v) == 1,
    }
    out += [f"bad {key}" for key, right in checks.items() if key in data and not right(data[key])]
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str) or not model["name"]:
            out.append("model-index without a name")
        for result in model.get("results", []):
            if result.get("task", {}).get("type") not in PIPELINES:
                out.append("a task without a type")
            if not all(isinstance(result.get("dataset", {}).get(k), str) for k in ("type", "name", "split")):
                out.append("a dataset without type, name or split")
            for metric in result.get("metrics") or [{}]:
                numbers = isinstance(metric.get("value"), int | float) and abs(metric["value"]) < float("inf")
                if not isinstance(metric.get("type"), str) or not numbers:
                    out.append("a metric without a type or a number")
    return out


def head(text):
    """The front matter of a card."""
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def json_of(report):
    return json.loads(json.dumps(report.as_dict(), allow_nan=False))


def report_of(run):
    return json.loads((run.folder / "report.json").read_text())


def figures_of(folder):
    return sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir())
