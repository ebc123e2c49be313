"""The folder of a run is prepared and pushed, by the command, from Python and at the end of a run."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from hf_unlearn.cli import main
from hf_unlearn.hub.push import run_folder as pushing
from hf_unlearn.hub.push.run_folder import push_run
from tests.hub.push.support import REPO, put, tree
from tests.support.data import image_data, image_processor
from tests.support.loopback_hub import ALWAYS, Fault
from tests.support.models import trained


def test_the_card_is_visible(hub, run):
    push_run(run, REPO)
    info = HfApi().model_info(REPO)
    assert "machine-unlearning" in info.tags
    assert "# Report 0" in hub.content(REPO, "README.md").decode()


def test_a_bare_name_is_in_ones_own_namespace(hub, run):
    assert push_run(run, "unlearned").repo_id == REPO
    assert hub.repository(REPO) is not None


def test_a_card_loads_the_model_by_its_full_name(hub, run, monkeypatch):
    seen = SimpleNamespace(repo=None)
    prepare = pushing.prepare_folder

    def prepare_and_note(folder, **settings):
        seen.repo = settings["repo_id"]
        return prepare(folder, **settings)

    monkeypatch.setattr(pushing, "prepare_folder", prepare_and_note)
    assert push_run(run, "bert-base-uncased").repo_id == "alice/bert-base-uncased"
    assert seen.repo == "alice/bert-base-uncased"


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_push_leaves_nothing_behind(hub, run, sent, code):
    before = put(hub, {"model.safetensors": b"1" * 99, "config.json": b"{}"})
    hub.hang_seconds = 30
    hub.faults[:] = [Fault("hang", times=ALWAYS, match="POST .*/commit/")]
    words = [sys.executable, "-m", "hf_unlearn.cli", "push", str(run), "--repo", REPO]
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(words, env={**os.environ, **settings}, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not hub.faults[0].hits and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.wait(60) == code, process.stderr.read()
    assert hub.repository(REPO).state() == before
    assert not list(run.glob(".push-*"))


@pytest.mark.slow
def test_a_push_that_fails_after_a_run_keeps_its_model_and_exits_with_2(hub, tmp_path, capsys):
    trained("vit").save_pretrained(tmp_path / "original")
    image_processor().save_pretrained(tmp_path / "original")
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(96, seed).to_parquet(tmp_path / "data" / f"{split}.parquet")
    out = tmp_path / "out"
    keys = {"model": tmp_path / "original", "dataset": tmp_path / "data", "forget_class": "1", "output_dir": out}
    keys |= {"push_to_hub": "true", "hub_model_id": REPO, "use_cpu": "true", "figures": "false", "max_steps": "2"}
    hub.faults[:] = [Fault(403, times=ALWAYS, match="/preupload/")]
    assert main(["run", *(str(w) for k, v in keys.items() for w in (f"--{k}", v))]) == 2
    error = capsys.readouterr().err
    assert f"Error: The token has no right to write to {REPO} (403)" in error
    assert f"hf-unlearn push {out} --repo {REPO}" in error
    assert {"model.safetensors", "config.json"} <= {p.name for p in (out / "model").iterdir()}
    assert tree(hub, REPO) == []
    hub.faults.clear()
    assert main(["push", str(out), "--repo", REPO]) == 0
    assert hub.content(REPO, "model.safetensors") == (out / "model" / "model.safetensors").read_bytes()
