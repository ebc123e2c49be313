"""Whole runs in fresh processes: exit codes, what is written, what is left alone, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_unlearn import METHODS
from hf_unlearn.cli import COMMANDS, main
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import trained

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A trained classifier and its data set, as a user has them: two folders."""
    root = tmp_path_factory.mktemp("cli")
    trained("vit").save_pretrained(root / "original")
    image_processor().save_pretrained(root / "original")
    for split, seed in (("train", 0), ("test", 9)):
        (root / "data").mkdir(exist_ok=True)
        image_data(96, seed).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def digests(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def command(folders, out, *words, launcher=()):
    start = [*launcher, str(ROOT / "recipes" / "unlearn.py")] if launcher else ["-m", "hf_unlearn.cli", "run"]
    common = {
        "model": folders / "original", "dataset": folders / "data", "forget_class": "1", "output_dir": out,
        "use_cpu": "true", "disable_tqdm": "true",
    }  # fmt: skip
    return [sys.executable, *start, *(str(w) for k, v in common.items() for w in (f"--{k}", v)), *words]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}


def run(*words, **settings):
    return subprocess.run(
        *words, capture_output=True, text=True, timeout=300, check=False, env=environment(), cwd=ROOT, **settings
    )


def test_a_run_forgets_reports_and_leaves_the_original_alone(folders, tmp_path):
    before = digests(folders / "original"), digests(folders / "data")
    done = run(command(folders, tmp_path / "out", "--retrain", "true", "--train_epochs", "2", "--relearning", "true"))
    assert done.returncode == 0, done.stderr
    assert (digests(folders / "original"), digests(folders / "data")) == before
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["unlearned"]["test_forgotten_accuracy"] <= 0.1
    assert (
        report["models"]["unlearned"]["test_kept_accuracy"] >= report["models"]["original"]["test_kept_accuracy"] - 0.05
    )
    assert {"original", "unlearned", "retrained"} == set(report["models"])
    assert (tmp_path / "out" / "retrained" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "report.md").is_file()
    written = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= written
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".pth")) for name in written)
    assert "test accuracy, forgotten classes" in done.stdout


def test_a_target_that_is_missed_exits_with_1_and_says_so(folders, tmp_path):
    done = run(command(folders, tmp_path / "out", "--max_steps", "1", "--trust_region", "0.001"))
    assert done.returncode == 1
    assert "target was not reached" in done.stdout + done.stderr


def test_nan_in_the_data_exits_with_2_and_writes_no_model(folders, tmp_path):
    import datasets
    import numpy as np

    from tests.support.data import pixel_data

    rows = pixel_data(96).with_format("numpy")
    pixels = np.stack(rows["pixel_values"])
    pixels[1, 0, 0, 0] = np.nan
    columns = {name: list(pixel_data(96)[name]) for name in ("label", "group")}
    data = datasets.Dataset.from_dict({"pixel_values": pixels, **columns}, features=pixel_data(8).features)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "train.parquet")
    words = command(folders, tmp_path / "out", "--dataset", str(tmp_path / "data"), "--test_split", "none")
    done = run(words)
    assert done.returncode == 2, done.stderr
    assert "NaN" in done.stderr
    assert not (tmp_path / "out" / "model").exists()


def test_text_from_a_recipe_under_accelerate_launch(tmp_path):
    trained("bert").save_pretrained(tmp_path / "original")
    tokenizer().save_pretrained(tmp_path / "original")
    (tmp_path / "data").mkdir()
    text_data(96).to_json(tmp_path / "data" / "train.jsonl")
    text_data(96, 9).to_json(tmp_path / "data" / "test.jsonl")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("forget_class: ['2']\nmethod: jit\n")
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words = command(tmp_path, tmp_path / "out", "--config", str(recipe), launcher=launcher)
    at = words.index("--forget_class")
    del words[at : at + 2]
    done = run(words)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["forgotten_classes"] == [2]
    assert report["models"]["unlearned"]["forget_accuracy"] <= 0.02


def test_a_killed_run_resumes_in_a_fresh_process_to_the_same_weights(folders, tmp_path):
    settings = ["--method", "gradient_ascent", "--update", "all", "--forget_target", "-1", "--save_strategy", "steps"]
    settings += ["--save_steps", "5", "--max_steps", "60", "--learning_rate", "1e-6", "--check_steps", "5"]
    settings += ["--per_device_train_batch_size", "4", "--figures", "false"]
    whole = run(command(folders, tmp_path / "whole", *settings))
    assert whole.returncode in (0, 1), whole.stderr
    words = command(folders, tmp_path / "killed", *settings)
    process = subprocess.Popen(words, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint-10" / "unlearning_state.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (tmp_path / "killed" / "model").exists()
    again = run([*words, "--resume", "true"])
    assert again.returncode == whole.returncode, again.stderr
    ours, theirs = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("killed", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    paths = [json.loads((tmp_path / n / "report.json").read_text())["outcome"]["path"] for n in ("killed", "whole")]
    assert paths[0] == paths[1]


def test_demo_on_a_folder_of_texts(tmp_path):
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        text_data(400 if split == "train" else 96, seed).to_json(tmp_path / "data" / f"{split}.jsonl")
    words = ["demo", "--task", "text", "--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    done = run([sys.executable, "-m", "hf_unlearn.cli", *words])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("class-jit", "class-counterfactual-distillation", "random-jit"):
        report = json.loads((tmp_path / "out" / name / "report.json").read_text())
        assert {"original", "unlearned", "retrained"} == set(report["models"])
    assert sorted(p.name for p in (tmp_path / "out" / "class-jit" / "figures").iterdir())


def test_an_attribute_from_the_command_line(folders, tmp_path):
    words = command(folders, tmp_path / "out", "--method", "wasserstein_barycenter", "--attribute", "side")
    at = words.index("--forget_class")
    del words[at : at + 2]
    assert run(words).returncode == 2  # no such column
    data = image_data(96, 0).add_column("side", ["left" if i % 8 < 4 else "right" for i in range(96)])
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    words[words.index("--dataset") + 1] = str(tmp_path / "data")
    done = run(words)
    assert done.returncode == 0, done.stderr
    written = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert {"model.safetensors", "barycenter.safetensors", "barycenter.json"} <= written
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["groups"]["unlearned"]) == {"left", "right"}
    assert report["information"]["unlearned"]["conditional"]
    words[words.index("--method") + 1] = "feature_information"
    features = run([*words, "--output_dir", str(tmp_path / "other"), "--max_steps", "3"])
    assert features.returncode == 0, features.stderr


def test_samples_of_a_class_with_marginal_information(folders, tmp_path):
    settings = [
        "--method",
        "marginal_information",
        "--forget_fraction",
        "0.6",
        "--max_steps",
        "20",
        "--retrain",
        "true",
    ]
    done = run(command(folders, tmp_path / "out", *settings, "--train_epochs", "2"))
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0 < report["outcome"]["forget_target"] <= 1
    assert report["run"]["rows"]["test"] == 96 - 96 // 5
    assert report["information"]["original"]["bounds"]["total_variation"] <= 1


WORDS = [
    *COMMANDS,
    *(f"receipt {c}" for c in ("verify", "prove", "seal", "keygen", "sign")),
    *(f"run --method {m}" for m in METHODS),
]


@pytest.mark.parametrize("words", WORDS)
def test_every_command_explains_itself(words, capsys):
    assert main([*words.split(), "--help"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"usage: hf-unlearn {' '.join(words.split()[: 1 if 'run' in words else 2])}")
    assert not told.err
