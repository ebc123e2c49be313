"""The benchmark on fine-tuned bases: what it counts, keeps and prints, and one run over a tiny base."""

import argparse
import json
import subprocess

import datasets
import numpy as np
import pytest
import real_models

from tests.support.data import WORDS, processing_class
from tests.support.fresh_processes import exit_codes, start
from tests.support.models import build

CELL = {"task": "trec", "request": "LOC", "method": "jit", "seed": 0, "options": []}


def test_one_owner_has_a_twentieth_of_the_rows_and_mostly_two_classes():
    labels = np.random.default_rng(1).choice(4, 2000, p=[0.1, 0.3, 0.2, 0.4])
    found = np.array(real_models.owners(labels))
    assert (found == "u0").sum() == 100
    assert np.isin(labels[found == "u0"], [1, 3]).mean() > 0.85
    assert np.isin(labels[found != "u0"], [1, 3]).mean() < 0.75
    assert len(set(found)) == real_models.OWNERS
    assert found.tolist() == real_models.owners(labels)


@pytest.mark.parametrize(("request_", "rows"), [("b", 10), ("random", 4), ("user", 3)])
def test_a_request_selects_the_rows_that_it_names(request_, rows):
    labels = datasets.ClassLabel(names=list("abcd"))
    data = datasets.Dataset.from_dict(
        {"text": [str(i) for i in range(40)], "label": [i % 4 for i in range(40)], "owner": ["u0"] * 3 + ["u1"] * 37},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": labels, "owner": datasets.Value("string")}
        ),
    )
    sides = real_models.split(data, request_)
    assert (len(sides.forget), len(sides.retain)) == (rows, 40 - rows)
    if request_ == "b":
        assert set(sides.forget["label"]) == {1}


def test_half_a_line_of_a_killed_process_is_replaced_and_the_last_line_of_a_cell_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    real_models.append(file, {**CELL, "error": "gone"})
    with file.open("a") as lines:
        lines.write('{"task": "tr')
    assert len(real_models.read(file)) == 1
    real_models.append(file, {**CELL, "verdict": "x"})
    real_models.append(file, {**CELL, "seed": 1, "options": ["--rewind", "0.5"]})
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 3
    found = real_models.read(file)
    assert found["trec", "LOC", "jit", 0]["verdict"] == "x"
    assert found.keys() == {("trec", "LOC", "jit", 0), ("trec", "LOC", "jit", 1, "--rewind", "0.5")}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(NotADirectoryError), real_models.whole_folder(folder) as partial:
        [(partial / name).write_text("half") for name in ("a", "a/b")]
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):  # a process that was slower keeps what it finds
        with real_models.whole_folder(folder) as partial:
            (partial / "a").write_text(text)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (folder / "a").read_text() == "first"


def test_results_name_no_folder_of_the_machine():
    text = "ValueError: `model='/home/me/x y'` is no folder; see /tmp/out/model, or 1/2 of org/name."
    assert real_models.without_paths(text) == "ValueError: `model='PATH y'` is no folder; see PATH, or 1/2 of org/name."


def test_a_row_that_is_only_read_is_a_third_of_a_pass():
    assert real_models.passes_of({"trained": 3, "read": 6}) == 5


def measured(forgotten, kept, *, gap=0.0):
    return {"forgotten": forgotten, "kept": kept, **dict.fromkeys(real_models.MEASURES, 50 + gap)}


def test_the_table_has_medians_and_counts():
    share = {"steps": 0.1, "passes": 0.2, "cpu": 0.3, "peak": 1.1}
    common = {"share": share, "exit_code": 0, "handed_back": False, "retrained": [measured(0, 90), measured(2, 92)]}
    cells = []
    for seed, kept in enumerate((88, 90, 95)):
        cell = {"original": measured(99, 93), "unlearned": measured(3, kept), "verdict": "v" if seed else "w"}
        apart = {"original": [0.8, 0.8], "unlearned": [0.2, 0.4], "among": [0.2]}
        cells.append({**CELL, "seed": seed, **common, **cell, "divergence": apart})
    cells.append({**CELL, "seed": 3, "exit_code": 2, "error": "no"})
    cells.append(
        {
            **CELL,
            **common,
            "request": "random",
            "verdict": "v",
            "original": measured(9, 9, gap=6),
            "unlearned": measured(9, 9, gap=2),
        }
    )
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in real_models.table(cells).splitlines() if line]
    classes, samples = (dict(zip(lines[i], lines[i + 2], strict=True)) for i in (0, 3))
    assert classes["runs"] == "4"
    assert (classes["forgotten − retrained"], classes["kept − retrained"]) == ("2.0", "-1.0")
    assert (classes["divergence over that among retrained, original"], classes["the same, unlearned"]) == ("4.0", "1.5")
    assert (classes["passes, % of retraining's"], classes["peak, % of retraining's"]) == ("20.0", "110.0")
    assert (classes["verdicts"], classes["exit codes"]) == ("2 v, 1 w, 1 failed", "3 × 0, 1 × 2")
    assert (samples["gap to retrained, original"], samples["gap, unlearned"]) == ("6.0", "2.0")


@pytest.mark.slow
def test_a_tiny_base_is_trained_unlearned_measured_and_not_measured_twice(tmp_path, monkeypatch, capsys):
    build("bert").bert.save_pretrained(tmp_path / "bases" / "minilm")
    processing_class("bert").save_pretrained(tmp_path / "bases" / "minilm")
    rng, names = np.random.default_rng(0), datasets.ClassLabel(names=list("abcd"))
    for name, n in (("train", 120), ("test", 60)):
        labels = rng.integers(0, 4, n)
        texts = [" ".join(rng.choice(WORDS[6 * y : 6 * y + 6], 8)) for y in labels]
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        rows = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
        rows.to_parquet(tmp_path / "data" / "trec" / f"{name}.parquet")
    done = []

    def forked(command, **_):
        """Run the job of a command in a process that has its imports already."""
        job, log = json.loads(command[-1]), tmp_path / f"{len(done)}.log"
        (code,) = exit_codes([start(real_models.do_job, json.loads(command[-1]), log=log)])
        done.append((job["do"], code))
        return subprocess.CompletedProcess(command, code, "", log.read_text())

    monkeypatch.setattr(real_models.subprocess, "run", forked)
    options = argparse.Namespace(
        base_folder=tmp_path / "bases", data_folder=tmp_path / "data", cache=tmp_path / "cache", out=tmp_path / "out.jsonl",
        tasks=["trec"], methods=["jit", "feature_information"], requests=["b", "HUM"], seeds=[0], rows=60, options=[],
        retry_failed=False, export=None,
    )  # fmt: skip
    real_models.run(options)
    assert [work for work, _ in done] == ["train"] * 4 + ["unlearn"] * 2
    jit, refused = real_models.read(options.out).values()
    assert jit["exit_code"] in (0, 1)
    assert len(jit["retrained"]) == 3
    assert len(jit["divergence"]["among"]) == 3
    assert all(jit["share"][name] > 0 for name in ("steps", "passes", "cpu", "peak"))
    assert jit["verdict"]
    assert jit["unlearned"] == jit["original"] or not jit["handed_back"]
    assert refused["exit_code"] == 2
    assert "attribute" in refused["error"]
    assert str(tmp_path) not in options.out.read_text()
    before = len(done)
    real_models.run(options)
    assert len(done) == before
    assert capsys.readouterr().out.count("jit, seed 0") == 1
    options.export = tmp_path / "recipe"
    real_models.run(options)
    assert len(done) == before
    assert (options.export / "data" / "train.parquet").is_file()
    assert (options.export / "original" / "model.safetensors").is_file()
