"""Measure whether the audit keeps its power on fine-tuned public bases: which models it accepts, and by which lines.

    python recipes/benchmarks/audit_real_models.py --base-folder BASES --data-folder DATA --tasks trec --requests NUM
    python recipes/benchmarks/audit_real_models.py --table

Originals, retrained models and their cache are those of `real_models.py`, whose options these are. Each retrained model is audited
as if it were an unlearned one, against one and against all of the others, and so is every cheap pretender of `pretenders.py`
against all retrained models. Finished requests are lines in `--out`, so a killed benchmark continues.

Beside the audit stand three certificates that are usual elsewhere, and that need no more than outputs (`certificates`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_models import Lab, Request, lab_parser

# Those that take few steps: a pretender that trains for hundreds of steps costs more than a retraining here.
CHEAP = (
    "original", "masked", "biased", "struck", "barely_distilled", "biased_and_cooled", "biased_and_noisy", "cooled", "noisy",
    "fine_tuned", "rewound",
)  # fmt: skip


def audited(lab: Lab, name: str, pretenders: Sequence[str] = CHEAP) -> dict[str, Any]:
    """Audit the retrained models of one request, and `pretenders`."""
    import torch
    from pretenders import PRETENDERS, Scene

    from hf_unlearn.evaluation.audit.model_outputs import run_model
    from hf_unlearn.evaluation.audit.verdicts import SAME
    from hf_unlearn.models.adapters import base_classifier
    from hf_unlearn.models.base import Base

    request = Request(lab, name)
    auditor, retrained = request.auditor, request.retrained
    forget, retain, test = (auditor.sets[key] for key in ("forget", "retain", "test"))
    start = Base(str(lab.base)).load(auditor.original_model)  # without the adapter of one that has an adapter
    scene = Scene(auditor.original_model, auditor.processor, forget, retain, test, auditor.classes, start=start)
    torch.manual_seed(0)
    classifier = base_classifier(auditor.original_model)
    untrained = type(classifier)(classifier.config).eval()
    answers = run_model(untrained, {"forget": forget}, auditor.processor, name="untrained")["forget"].logits
    cases = []

    def judged(key: str, right: list[str], model: Any, given: list[Any]) -> None:
        case = told(key, right, auditor.audit(model, given))
        cases.append(case | {"certificates": certificates(model, auditor.original, answers)})

    for i, candidate in enumerate(retrained):
        others = [model for j, model in enumerate(retrained) if j != i]
        for given in ([others[0]], [others[1]], others):
            judged("retrained", [SAME], candidate, given)
    for key in pretenders:
        if request.kind in PRETENDERS[key].kinds:
            # Under this name nothing is kept: a wrapper has the weights of what it wraps.
            model = auditor.measure(PRETENDERS[key].make(scene), "unlearned")
            judged(key, list(PRETENDERS[key].verdicts), model, retrained)
    return {"task": lab.name, "request": name, "cases": cases}


def certificates(model: Any, original: Any, untrained: Any) -> dict[str, bool]:
    """Say which of three usual certificates a measured model gets.

    - accuracy: it answers forget rows right no more often than by chance.
    - membership: the machine of SalUn (arXiv 2310.12508) takes at least nine in ten forget rows for rows that were not trained on.
    - randomness: by ZRF (arXiv 2205.08096) its answers on forget rows are nearer to an untrained model's than the original's are.
    """
    from hf_unlearn.metrics.functional.distance import zero_retrain_forgetting
    from hf_unlearn.metrics.functional.membership import mia_efficacy

    forget, retain, test = ((model.outputs[k].logits, model.outputs[k].labels) for k in ("forget", "retain", "test"))
    classes = forget[0].shape[1]
    return {
        "accuracy": bool(model.outputs["forget"].right.double().mean() <= 1 / classes),
        "membership": mia_efficacy(retain, test, forget) >= 0.9,
        "randomness": zero_retrain_forgetting(forget[0], untrained)
        > zero_retrain_forgetting(original.outputs["forget"].logits, untrained),
    }


def told(model: str, right: list[str], audit: Any) -> dict[str, Any]:
    from hf_unlearn.evaluation.audit.verdicts import SPECS, remaining

    return {
        "model": model, "right": right, "verdict": audit.verdict, "because": audit.because,
        "yardsticks": audit.run["retrained"], "left_out": [s for s in audit.limits if "is no yardstick" in s],
        "telling": [x.key for x in audit.lines if x.telling], "deep": [x.key for x in audit.lines if x.telling and SPECS[x.key].deep],
        "remaining": remaining(audit.lines),
    }  # fmt: skip


def table(out: Path) -> None:
    """Print how often models are accepted, and which lines tell the original from retrained models."""
    found = [json.loads(line) for line in out.read_text().splitlines()]
    print(
        "| task, request | retrained accepted (2 yardsticks) | (1 yardstick) | pretenders accepted | right reason | telling lines behind the outputs |"
    )
    print("|---|---|---|---|---|---|")
    for entry in found:
        cases, same = entry["cases"], entry["cases"][0]["right"][0]
        honest = {
            k: [c["verdict"] for c in cases if c["model"] == "retrained" and c["yardsticks"] == k] for k in (1, 2)
        }
        cheats = [c for c in cases if c["model"] != "retrained"]
        cells = [f"{Counter(verdicts)[same]} of {len(verdicts)}" for verdicts in (honest[2], honest[1])]
        cells += [
            f"{sum(c['verdict'] == same for c in cheats)} of {len(cheats)}",
            f"{sum(c['verdict'] in c['right'] for c in cheats)}",
        ]
        print(
            f"| {entry['task']}, {entry['request']} | {' | '.join(cells)} | {', '.join((cheats or cases[2:])[0]['deep'])} |"
        )
    every = [case for entry in found for case in entry["cases"]]
    honest = [c for c in every if c["model"] == "retrained" and c["yardsticks"] == 2]
    cheats = [c for c in every if c["model"] != "retrained"]
    same = honest[0]["right"][0]
    print("\n| certificate | retrained models that get it | pretenders that get it |\n|---|---|---|")
    for name, gets in {
        **{key: lambda c, key=key: c["certificates"][key] for key in honest[0]["certificates"]},
        "this audit": lambda c: c["verdict"] == same,
    }.items():
        print(f"| {name} | {sum(map(gets, honest))} of {len(honest)} | {sum(map(gets, cheats))} of {len(cheats)} |")


def main() -> None:
    parser = lab_parser(__doc__, "audits.jsonl", ("trec", "emotion", "cifar10"))
    parser.add_argument("--requests", nargs="+", help="classes, `random` or `user`; default: the classes of each task")
    parser.add_argument(
        "--pretenders", nargs="*", default=CHEAP, help="default: those that take few steps; none named: none"
    )
    options = parser.parse_args()
    if options.table:
        table(options.out)
        return
    if options.base_folder is None or options.data_folder is None:
        parser.error("--base-folder and --data-folder are needed to measure.")
    done = (
        {(e["task"], e["request"]) for e in map(json.loads, options.out.read_text().splitlines())}
        if options.out.exists()
        else set()
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        lab = Lab(name, options)
        for request in options.requests or lab.task.requests:
            if (name, request) not in done:
                with options.out.open("a") as file:
                    file.write(json.dumps(audited(lab, request, options.pretenders)) + "\n")
                print(f"{name} {request}: done", flush=True)


if __name__ == "__main__":
    main()
