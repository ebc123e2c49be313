"""Measure five requests in a row: each forgets one user's rows, and starts from the model that the last one left.

    python recipes/benchmarks/stream.py --base-folder BASES --data-folder DATA --tasks trec
    python recipes/benchmarks/stream.py --table

The original, the data and their cache are those of `real_models.py`, whose options these are. Each run gets the rows that are left:
its retain set has no row of an earlier request. Two models retrained without the rows of all five say what is to be reached. Every
finished run is a line in `--out`, and its model stays in the cache, so a killed benchmark continues.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from real_models import BASED, Lab, append, lab_parser, passes_of, run_job, whole_folder

USERS = ("u1", "u2", "u3", "u4", "u5")  # each has about a twentieth of the rows
SEEDS = (1, 2)  # of the retrained models


def without(rows: Any, users: tuple[str, ...]) -> Any:
    return rows.filter(lambda owner: owner not in users, input_columns="owner")


def rows_left(lab: Lab, users: tuple[str, ...]) -> Path:
    """Return the folder of the data without the rows of some users."""
    if not users:
        return lab.data
    folder = lab.cache / "streams" / lab.key / f"data-{len(users)}"
    if not folder.exists():
        with whole_folder(folder) as partial:
            for name, rows in lab.sets.items():
                kept = without(rows, users) if name == "train" else rows
                kept.to_parquet(partial / f"{name}.parquet")
    return folder


def retrained(lab: Lab, seed: int) -> Path:
    """Return the folder of a model that was fine-tuned without the rows of all users."""
    folder = lab.cache / "streams" / lab.key / f"retrained-{seed}"
    if not folder.exists():
        with whole_folder(folder) as partial:
            job = {"do": "train", "task": lab.name, "data": str(rows_left(lab, USERS)), "base": str(lab.base)}
            code, cost, said = run_job({**job, "request": None, "seed": seed, "folder": str(partial)})
            if code:
                raise RuntimeError(f"A training ended with code {code}: {said}")
            (partial / "cost.json").write_text(json.dumps(cost))
    return folder


def accuracies(lab: Lab, model: Path) -> dict[str, float]:
    """Return the accuracy in points on test rows, on the rows of each user, and on the rows that stay."""
    from hf_unlearn.data.pairs import PreparedRows
    from hf_unlearn.models.prediction import predict
    from hf_unlearn.models.pretrained import load_classifier, load_processing_class
    from hf_unlearn.models.processor import Processor

    train = lab.sets["train"]
    loaded = load_classifier(str(model), train).eval()
    processor = Processor(loaded, load_processing_class(str(model), train))
    sets = {user: train.filter(lambda owner, user=user: owner == user, input_columns="owner") for user in USERS}
    sets |= {"test": lab.sets["test"], "kept": without(train, USERS).select(range(400))}
    found = {}
    for name, rows in sets.items():
        logits, labels = predict(loaded, PreparedRows(rows, processor, name), processor)
        assert labels is not None
        found[name] = round(100 * (logits.argmax(-1) == labels).double().mean().item(), 2)
    return found


def measured(lab: Lab, method: str, out: Path) -> None:
    """Run the requests of one task that have no line in `out`."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["task"], line["method"], line["step"]) for line in lines}
    for name, model in [("original", lab.trained()), *((f"retrained {s}", retrained(lab, s)) for s in SEEDS)]:
        if (lab.name, "", name) not in done:
            cost = json.loads((model / "cost.json").read_text())
            append(out, {"task": lab.name, "method": "", "step": name, **accuracies(lab, model), "cost": cost})
    model = lab.trained()
    for number, user in enumerate(USERS):
        folder = lab.cache / "streams" / lab.key / f"{method}-{number}"
        if not folder.exists():
            with whole_folder(folder) as partial:
                words = [
                    "--model",
                    model,
                    "--dataset",
                    rows_left(lab, USERS[:number]),
                    "--validation_split",
                    "validation",
                ]
                words += [
                    "--method",
                    method,
                    "--forget_column",
                    "owner",
                    "--forget_values",
                    user,
                    "--disable_tqdm",
                    "true",
                ]
                words += ["--use_cpu", "true", *(["--base_model", lab.base] if method in BASED else [])]
                job = {"do": "unlearn", "words": list(map(str, words)), "output_dir": str(partial)}
                code, told, said = run_job(job)
                if not told:
                    raise RuntimeError(f"Request {number + 1} ended with code {code}: {said}")
                (partial / "cost.json").write_text(json.dumps({**told, "exit_code": code}))
        model = folder / "model"
        if (lab.name, method, user) not in done:
            cost = json.loads((folder / "cost.json").read_text())
            append(out, {"task": lab.name, "method": method, "step": user, **accuracies(lab, model), "cost": cost})
        print(f"{lab.name}, {method}: {user} is forgotten", flush=True)


def table(out: Path) -> None:
    """Print accuracies after each request, and its cost as a share of a retraining's."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        trainings = [line["cost"] for line in own if line["step"].startswith("retrained")]
        print(
            f"\n| {task} | test | rows that stay | {' | '.join(f'rows of {u}' for u in USERS)} | exit | passes, % | CPU, % |"
        )
        print("|---|" + "---|" * (len(USERS) + 5))
        for line in own:
            cells = [f"{line[name]:.1f}" for name in ("test", "kept", *USERS)]
            if line["method"]:
                cost = line["cost"]
                shares = (
                    100 * of(cost) / statistics.mean(map(of, trainings))
                    for of in (passes_of, lambda c: c["cpu_seconds"])
                )
                cells += [str(cost["exit_code"]), *(f"{share:.0f}" for share in shares)]
            else:
                cells += ["", "", ""]
            print(f"| {line['method'] or 'model'}: {line['step']} | {' | '.join(cells)} |")


def main() -> None:
    parser = lab_parser(__doc__, "streams.jsonl", ("trec",))
    parser.add_argument("--method", default="surrogate_distillation")
    options = parser.parse_args()
    if options.table:
        table(options.out)
        return
    if options.base_folder is None or options.data_folder is None:
        parser.error("--base-folder and --data-folder are needed to measure.")
    for name in options.tasks:
        measured(Lab(name, options), options.method, options.out)


if __name__ == "__main__":
    main()
