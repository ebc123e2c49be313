"""kill -9 at random moments, also while a checkpoint, a model or a report is being written; then the run goes on to the same end.

Every run is a whole one (unlearn, save, retrain, report, save) in processes of its own. It is killed and resumed again and again, with `resume=True` from the first start on, as a queue would do it. `HF_UNLEARN_KILLS` sets the number of kills for each method
(20 for a thorough look).
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from hf_unlearn import METHODS, ForgetRequest
from hf_unlearn.cli import main
from hf_unlearn.pipeline.job import Job
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.unlearn import unlearn
from hf_unlearn.training.resuming import save_finished
from tests.support.data import class_split, data_for, processing_class
from tests.support.fresh_processes import DEADLINE, exit_codes, start, start_together, until
from tests.support.methods import few_anchors
from tests.support.models import trained
from tests.support.recipes import run_options, save_model_and_data
from tests.support.runs import arguments

KILLS = int(os.environ.get("HF_UNLEARN_KILLS", "2"))
pytestmark = pytest.mark.slow

ADAMW = {"trust_region": 0.0, "learning_rate": 2e-3}
LANDING = {"forget_target": 0.6, "max_steps": 60, "check_steps": 2, "trust_region": 0.004}
UIB = {"samples": 16, "refresh": 4}
# name -> architecture, method, its settings, training arguments
RUNS = {
    "jit": ("vit", "jit", {"num_perturbations": 2}, {"weight_average": 0.5}),
    "jit in two processes": ("vit", "jit", {"num_perturbations": 2}, {"save_total_limit": 2}),
    "gradient_ascent to its target": ("vit", "gradient_ascent", {}, LANDING),
    "counterfactual_distillation": ("bert", "counterfactual_distillation", {}, {"save_total_limit": 1}),
    "marginal_information": ("vit", "marginal_information", {"memory": 0.5}, ADAMW),
    "feature_information": ("vit", "feature_information", {"attribute": "group", "memory": 0.5}, {}),
    "uib": ("bert", "uib", UIB, {}),
    "uib over gradient_ascent": ("vit", "uib", {"base": "gradient_ascent", **UIB}, {"save_total_limit": 2}),
    "gradient_difference": ("resnet", "gradient_difference", {"anchors": True}, ADAMW),
    "surrogate_distillation": ("resnet", "surrogate_distillation", {}, {"max_steps": 12}),
    "fine_tune with dropout": ("vit", "fine_tune", {}, {**ADAMW, "weight_average": 0.9}),
}


def job(name, folder):
    """The whole run, its data in memory, and its method."""
    arch, key, settings, changes = RUNS[name]
    method = METHODS[key](**settings)
    single = key in ("marginal_information", "gradient_ascent")
    run = RunArguments(
        model="-",
        dataset="-",
        retrain=not method.needs_column,
        relearning=key == "counterfactual_distillation",
        resume=True,
        train_epochs=1,
        train_batch_size=16,
        forget_fraction=0.2 if single else None,
        forget_class=None if single else ["1"],
    )
    settings = {
        "update": "all",
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 1,
        "check_steps": 4,
        **changes,
    }
    args = arguments(folder, forget_kind="samples" if single else "class", **settings)
    train, test = data_for(arch, 64), data_for(arch, 32, seed=9)
    split = ForgetRequest(fraction=0.2).split(train) if single else class_split(arch)
    model = trained(arch, 0.1 if "dropout" in name else 0.0)
    return Job(run, args, train, test, model, processing_class(arch), None if method.needs_column else split), method


def complete(name, folder):
    """As `hf-unlearn run` does it."""
    parts, method = job(name, folder)
    with few_anchors():
        trainer, report = unlearn(
            parts, method, keep=lambda t: save_finished(t, parts.processing_class, folder / "model")
        )
    if trainer.is_world_process_zero():
        report.save(folder, figures=False)


def log_of(folder):
    return folder.with_suffix(".log")


def launch(name, folder):
    """Start the processes of a run; the first says what it says to the log."""
    if "two processes" in name:
        return start_together(complete, name, folder, log=log_of(folder))
    return [start(complete, name, folder, log=log_of(folder))]


def finish(name, folder):
    """Seconds that the run takes, uninterrupted."""
    started = time.monotonic()
    assert not any(exit_codes(launch(name, folder))), log_of(folder).read_text()[-3000:]
    return time.monotonic() - started


def writing(folder, since=0.0):
    """What is being written at this moment, or was, since then, when it was killed."""
    found = (*folder.glob("_partial/checkpoint-*"), *folder.glob(".*"))
    times = {}
    for path in found:
        with contextlib.suppress(FileNotFoundError):  # it is in its place
            times[path] = path.stat().st_mtime
    return sorted({p.name.split("-")[0].split(".partial")[0] for p, at in times.items() if at >= since})


def kill(name, folder, delay, aim):
    """Start or go on, and kill after `delay` seconds; with `aim`, at the next moment when something is being written.

    Returns None if the run was complete before, or else what was being written.
    """
    started = time.time()
    children = launch(name, folder)
    while time.time() - started < delay or (aim and not writing(folder, started)):
        if children[0].exitcode is not None:
            assert exit_codes(children)[0] == 0, log_of(folder).read_text()[-3000:]
            return None
        assert time.time() - started < DEADLINE, log_of(folder).read_text()[-3000:]
        time.sleep(0.0005)
    for child in random.sample(children, len(children)):
        child.kill()
    exit_codes(children)
    return writing(folder, started)


def left_by(folder):
    """Everything that a run leaves for its user, but the seconds and what is drawn from them."""
    report = json.loads((folder / "report.json").read_text())
    del report["seconds"]
    weights = {p: p.read_bytes() for n in ("model", "retrained") for p in (folder / n).glob("*.safetensors")}
    return report, {str(p.relative_to(folder)): content for p, content in weights.items()}


def steps_taken(folder):
    """Steps of unlearning, in all starts together."""
    return log_of(folder).read_text().count("'loss':")


def check(folder, kills, whole):
    """The run is complete: it ended where the uninterrupted one did, and no step was taken twice but the last before a kill."""
    (report, weights), expected = left_by(folder), left_by(whole)
    assert weights == expected[1]
    assert report == expected[0]
    assert not writing(folder), "leftovers"
    assert steps_taken(whole) <= steps_taken(folder) <= steps_taken(whole) + kills


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Where a run is left that nothing disturbs, and the seconds that it takes."""
    root, done = tmp_path_factory.mktemp("whole"), {}
    finish(
        "feature_information", root / "warm-up"
    )  # the first run is slower: the server starts, and imports come from the disk

    def find(name):
        if name not in done:
            job(name, root)  # trains the original, for all processes
            done[name] = root / name.replace(" ", "-"), finish(name, root / name.replace(" ", "-"))
        return done[name]

    return find


@pytest.mark.xdist_group("killed runs")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(tmp_path, uninterrupted, name):
    (whole, seconds), rng = uninterrupted(name), random.Random(name)
    moments, run, kills = [], 0, 0
    while len(moments) < KILLS:
        folder = tmp_path / f"killed-{run}"
        struck = kill(name, folder, rng.uniform(0, seconds), aim=len(moments) % 2 == 1)
        if struck is None:
            check(folder, kills, whole)
            run, kills = run + 1, 0
        else:
            moments.append("+".join(struck) or "between")
            kills += 1
    if kills:
        finish(name, folder)
        check(folder, kills, whole)
    print(f"{name}: {steps_taken(whole)} steps in {seconds:.1f} s, killed while writing: {', '.join(moments)}")


@pytest.mark.xdist_group("killed runs")
def test_all_processes_stop_after_the_same_step_when_one_is_asked_to(tmp_path, uninterrupted):
    name, folder = "jit in two processes", tmp_path / "stopped"
    whole, _ = uninterrupted(name)
    children = launch(name, folder)
    until((folder / "checkpoint-2").exists, *children)
    children[1].terminate()
    assert exit_codes(children) == [1, 1]
    assert "Interrupted: Resume from the checkpoint in" in log_of(folder).read_text()
    finish(name, folder)
    check(folder, 0, whole)


# --- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A command without its output folder, and where a run of it in one go left its results."""
    root = tmp_path_factory.mktemp("words")
    save_model_and_data(root, rows=64)
    keys = {
        "update": "all", "max_steps": 12, "forget_target": -1, "logging_steps": 1, "figures": "false", "retrain": "true",
        "train_epochs": 3, "per_device_train_batch_size": 8, "resume": "true",
    }  # fmt: skip
    command = ["run", *run_options(root, **keys)]
    assert exit_codes([begin(command, root / "whole")])[0] in (0, 1)
    return command, root / "whole"


def begin(command, folder, *more, limit=None):
    """Start the command, with its output in `folder`, and files that may not grow beyond `limit` bytes."""
    return start(given, [*command, "--output_dir", str(folder), *more], limit, log=log_of(folder))


def given(words, limit):
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(words)


@pytest.mark.xdist_group("killed commands")
def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, words):
    command, whole = words
    every = ["--save_strategy", "steps", "--save_steps", "2"]
    child = begin(command, tmp_path / "out", *every)
    until((tmp_path / "out" / "checkpoint-2").exists, child)
    child.terminate()
    assert exit_codes([child]) == [143]
    assert (
        f"Interrupted. Resume from the checkpoint in {tmp_path / 'out'} with --resume true."
        in log_of(tmp_path / "out").read_text()
    )
    assert exit_codes([begin(command, tmp_path / "out", *every)])[0] in (0, 1)
    check(tmp_path / "out", 0, whole)


@pytest.mark.xdist_group("killed commands")
def test_ctrl_c_and_kills_after_the_unlearning_do_not_undo_it(tmp_path, words):
    """Without any checkpoint: in the retraining, which goes on where it was, and in the report."""
    command, whole = words
    folder, none = tmp_path / "out", ["--save_strategy", "no"]
    child = begin(command, folder, *none)
    until((folder / "model").exists, child)
    child.kill()
    exit_codes([child])
    before = log_of(folder).read_text().count("Retraining")
    child = begin(command, folder, *none)
    until(lambda: log_of(folder).read_text().count("Retraining") > before, child)
    time.sleep(0.15)
    os.kill(child.pid, signal.SIGINT)
    assert exit_codes([child])[0] in (0, 1, 130)
    child = begin(command, folder, *none)
    until((folder / "retrained.finished.json").exists, child)
    child.kill()
    exit_codes([child])
    assert exit_codes([begin(command, folder, *none)])[0] in (0, 1)
    check(folder, 0, whole)


@pytest.mark.xdist_group("killed commands")
def test_no_room_for_the_model_is_exit_code_2_and_the_run_can_be_given_again(tmp_path, words):
    """Files may not grow beyond half the model: a real error of the system, of which safetensors makes its own."""
    command, whole = words
    half = (whole / "model" / "model.safetensors").stat().st_size // 2
    folder, none = tmp_path / "out", ["--save_strategy", "no"]
    assert exit_codes([begin(command, folder, *none, limit=half)]) == [2]
    log = log_of(folder).read_text()
    assert f"Error: the model could not be written to {folder / 'model'}" in log
    assert "Make room there, and resume." in log
    assert not writing(folder)
    assert not (folder / "model").exists()
    shutil.rmtree(folder, ignore_errors=True)  # an empty one may be gone
    log_of(folder).unlink()
    assert exit_codes([begin(command, folder, *none)])[0] in (0, 1)
    check(folder, 0, whole)


@pytest.mark.xdist_group("killed commands")
@pytest.mark.parametrize("after", ["model", "retrained"])
def test_a_disk_that_fills_up_during_the_report_costs_the_report_alone(tmp_path, words, after):
    command, whole = words
    folder, strategy = tmp_path / "out", ["--save_strategy", "epoch" if after == "model" else "no"]
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        child = begin(command, folder, *strategy)
        until((folder / after / "model.safetensors").exists, child)
        with (folder / "filler").open("wb") as file:
            file.write(bytes(shutil.disk_usage(folder).free))
        assert exit_codes([child]) == [2]
        (folder / "filler").unlink()
        what = "checkpoint" if after == "model" else "the report"
        assert f"Error: {what}" in log_of(folder).read_text()
        assert exit_codes([begin(command, folder, *strategy)])[0] in (0, 1)
        check(folder, 0, whole)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
