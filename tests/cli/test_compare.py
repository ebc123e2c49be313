"""`hf-unlearn compare`: what is refused before anything runs, and a whole comparison that goes on after a kill."""

import json
import math
import re
import subprocess
import sys

import pytest

from hf_unlearn import METHODS
from hf_unlearn.cli import main
from hf_unlearn.cli.compare import plans_of, read_arguments, suiting, weights_of, words
from hf_unlearn.evaluation.comparison.cells import lines_of, read
from hf_unlearn.utils.files import read_object
from tests.cli.support import ROOT, environment, wait_until

OPTIONS = {"use_cpu": True, "train_epochs": 15, "train_batch_size": 8, "train_learning_rate": 3e-3, "max_steps": 3}


def command(folders, out, *more, scenarios=None, options=None):
    scenarios = {"a class": {"forget_class": 1}} if scenarios is None else scenarios
    return [
        "--model", str(folders / "original"), "--dataset", str(folders / "data"), "--output_dir", str(out), "--retrain", "2",
        "--base_model", "none", "--scenarios", json.dumps(scenarios), "--options", json.dumps(options or OPTIONS), *more,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_UNLEARN_RETRAINED_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.xdist_group("compare")
def test_a_killed_comparison_goes_on_and_runs_no_cell_twice(folders, tmp_path, capsys):
    out = tmp_path / "out"
    settings = json.dumps({"masked": {"method": "salun", "saliency": 0.5}})
    given = command(
        folders, out, "--methods", "jit", "masked", "fine_tune", "--seeds", "0", "1", "--settings", settings
    )
    child = subprocess.Popen([sys.executable, "-m", "hf_unlearn.cli", "compare", *given], env=environment(), cwd=ROOT)
    try:
        wait_until(lambda: len(read(out / "cells.jsonl")) >= 2 or child.poll() is not None, 240)
        assert child.poll() is None, "the comparison ended before it could be killed"
    finally:
        child.kill()
        child.wait(timeout=30)
    before = (out / "cells.jsonl").read_bytes()
    kept = len(read(out / "cells.jsonl"))
    assert main(["compare", *given]) == 0
    told = capsys.readouterr().out
    assert f"{kept} of 6 cells are there from an earlier run." in told
    assert (out / "cells.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    cells = list(read(out / "cells.jsonl").values())
    assert [(c.method, c.seed) for c in cells] == [(m, s) for m in ("jit", "masked", "fine_tune") for s in (0, 1)]
    assert not any(c.error for c in cells)
    assert all(c.verdict and c.kind == "class" and len(c.retrained) == 2 for c in cells)
    assert cells[2].settings["saliency"] == 0.5
    assert cells[2].settings["method"] == "salun"
    assert all(c.cost["passes"] > 0 and c.cost["retraining_passes"] > 0 for c in cells)
    first = cells[0].cost["retraining_seconds"]
    assert all(c.cost["retraining_seconds"] == pytest.approx(first, rel=0.5) for c in cells)
    assert "| masked | 2 |" in (out / "comparison.md").read_text()
    # A smaller comparison in the same folder shows its own cells, and none of them is run again.
    fewer = command(folders, out, "--methods", "jit", "masked", "--seeds", "0", "--settings", settings)
    assert main(["compare", *fewer]) == 0
    assert "2 of 2 cells are there" in capsys.readouterr().out
    assert len(read_object(out / "comparison.json")["cells"]) == 2


@pytest.mark.slow
@pytest.mark.xdist_group("compare")
def test_a_cell_that_fails_is_a_row_and_the_others_go_on(folders, tmp_path, capsys):
    out = tmp_path / "out"
    # Distillation of a struck-out class cannot forget single rows, and says so only when it sees the rows.
    asked = {"some rows": {"forget_fraction": 0.2}}
    given = command(folders, out, "--methods", "counterfactual_distillation", "delete", "--seeds", "3", scenarios=asked)
    assert main(["compare", *given]) == 1
    failed, other = read(out / "cells.jsonl").values()
    assert "forgets whole classes" in failed.error
    assert other.kind == "samples"
    assert "## Without a result" in (out / "comparison.md").read_text()
    assert "counterfactual_distillation, seed 3" in capsys.readouterr().out
    assert main(["compare", *given]) == 1  # what failed is tried again, and nothing else
    told = capsys.readouterr().out
    assert "1 of 2 cells are there from an earlier run." in told
    assert "delete, seed 3" not in told


@pytest.mark.slow
@pytest.mark.xdist_group("compare")
def test_settings_are_tuned_on_another_request_and_each_trial_is_run_once(folders, tmp_path, capsys):
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    options = {k: v for k, v in OPTIONS.items() if k != "max_steps"}
    given = command(folders, out, "--methods", "neggrad_plus", "delete", "--seeds", "0", options=options)
    given += ["--trials", "3", "--passes", "0.5", "--tune", '{"forget_class": 2}']
    assert main(["compare", *given]) == 0
    told = capsys.readouterr().out
    trials = lines_of(out / "trials.jsonl")
    assert [t["method"] for t in trials] == ["neggrad_plus"] * 3 + ["delete"] * 3
    assert set(trials[0]["settings"]) == {"rate", "retain_share"}
    assert set(trials[3]["settings"]) == {"rate"}
    for cell in read(out / "cells.jsonl").values():
        best = min((t for t in trials if t["method"] == cell.method), key=lambda t: t["gap"])["settings"]
        assert {name: cell.settings[name] for name in best} == best
    rows = 72  # to keep, and a step of `neggrad_plus` trains on 4 + 16 rows, one of `delete` on 16
    steps = {c.method: c.steps for c in read(out / "cells.jsonl").values()}
    assert steps == {"neggrad_plus": math.ceil(0.5 * rows / 20), "delete": math.ceil(0.5 * rows / 16)}
    assert "neggrad_plus, trial 3 of 3: Avg. Gap" in told
    assert main(["compare", *given]) == 0
    assert "trial" not in capsys.readouterr().out.partition("# Unlearning")[0]
    assert len(lines_of(out / "trials.jsonl")) == 6


@pytest.mark.slow
def test_every_method_and_three_seeds_by_default(folders, tmp_path):
    asked = {"a class": {"forget_class": 1}, "some": {"forget_fraction": 0.1}}
    plans = plans_of(read_arguments(command(folders, tmp_path / "out", scenarios=asked)))
    assert len(plans) == 3 * (2 * len(suiting()) - 2)
    assert {p.method for p in plans} == set(suiting())
    assert [p.scenario for p in plans if p.method == "regun"] == ["some"] * 3
    assert [p.scenario for p in plans if p.method == "counterfactual_distillation"] == ["a class"] * 3
    assert "retrain" not in suiting()
    assert "feature_information" not in suiting()
    run, args, method = plans[-1].parts()
    assert run.forget_fraction == 0.1
    assert (args.seed, args.max_steps, method.name) == (2, 3, plans[-1].method)


def test_settings_belong_to_one_method(folders, tmp_path):
    given = ["--settings", '{"salun": {"saliency": 0.5}, "slow": {"method": "salun", "rate": 0.01}}']
    arguments = read_arguments(command(folders, tmp_path, *given, "--methods", "salun", "slow", "msg"))
    assert arguments.entries() == {
        "salun": ("salun", {"saliency": 0.5}), "slow": ("salun", {"rate": 0.01}), "msg": ("msg", {}),
    }  # fmt: skip
    line = words(arguments, {"forget_class": 1}, "salun", {"saliency": 0.5}, 4)
    assert {"--saliency=0.5", "--seed=4", "--forget_class=1", "--method=salun"} <= set(line)


def test_a_file_gives_the_options(folders, tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text(
        f"model: {folders / 'original'}\ndataset: {folders / 'data'}\noutput_dir: {tmp_path / 'out'}\n"
        'scenarios:\n  one: {forget_class: "1"}\nmethods: [jit]\nseeds: [5]\n'
    )
    (plan,) = plans_of(read_arguments(["--config", str(file)]))
    assert (plan.scenario, plan.method, plan.seed) == ("one", "jit", 5)
    file.write_text(file.read_text() + "method: jit\n")
    with pytest.raises(
        SystemExit, match=r"`method` in the file is no option of `hf-unlearn compare`.* Did you mean `methods`"
    ):
        read_arguments(["--config", str(file)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--methods", "salunn"], "`methods`: 'salunn' is no method that forgets rows. .*Did you mean `salun`"),
        (["--methods", "retrain"], "'retrain' is no method that forgets rows"),
        (["--retrain", "1"], "at least 2 retrained models"),
        (["--seeds", "1", "1"], "holds a seed twice"),
        (["--settings", '{"salun": 3}', "--methods", "salun"], "`settings`: 'salun' must be a mapping"),
        (["--settings", '{"scrub": {}}', "--methods", "salun"], "`settings`: 'scrub' is not among `methods`"),
        (["--settings", '{"salun": {"saliensy": 1}}', "--methods", "salun"], "saliensy"),
        (["--settings", '{"salun": {"saliency": 2}}', "--methods", "salun"], "`saliency` is a share"),
        (["--scenarios", "{}"], "`scenarios` is empty"),
        (
            ["--scenarios", '{"a": {"forget_clas": 1}}'],
            "'a': `forget_clas` is no `forget_.*Did you mean `forget_class`",
        ),
        (["--scenarios", '{"a": 1}'], "'a' must be a mapping"),
        (["--trials", "3"], "`trials` and `tune` belong together"),
        (["--trials", "3", "--tune", '{"forget_class": 1}'], "settings must be tuned on other rows"),
        (["--trials", "3", "--tune", '{"class": 1}'], "`tune`: `class` is no `forget_"),
        (["--trials", "3", "--tune", '{"forget_class": 2}', "--passes", "0"], "`passes` must be above 0"),
        (["--scenarios", "class 1"], "`scenarios` must be a mapping as JSON"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(folders, tmp_path, capsys, more, told):
    out = tmp_path / "out"
    assert main(["compare", *command(folders, out), *more]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert not (out / "cells.jsonl").exists()


def test_rows_to_measure_on_are_needed(folders, tmp_path, capsys):
    given = command(folders, tmp_path / "out", "--methods", "jit", options={**OPTIONS, "test_split": "none"})
    assert main(["compare", *given]) == 2
    assert "measures every model on a test split" in capsys.readouterr().err


def test_other_weights_are_another_original(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    first, second, third = (weights_of(str(tmp_path / name)) for name in "abc")
    assert first == third != second
    assert weights_of("org/name") is None
    assert weights_of(str(tmp_path)) is None


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "compare").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_of_comparisons_are_read(recipe):
    found = read_arguments(["--config", str(recipe)])
    assert found.requests
    assert set(found.entries()) <= {*METHODS}
    config = found.mappings["options"].get("model_config")
    assert config is None or (ROOT / config).is_file()
