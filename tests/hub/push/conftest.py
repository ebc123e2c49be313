"""A run to push, and an original on the Hub."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from tests.support.hub_runs import run_folder


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "run")


@pytest.fixture
def original(hub):
    """alice/original, a public model in two formats and with a history; returns its commit."""
    api = HfApi()
    api.create_repo("alice/original")
    for step in ("first", "second"):
        files = {
            "model.safetensors": b"1" * 64 + step.encode(),
            "pytorch_model.bin": b"2" * 64,
            "onnx/model.onnx": b"3",
        }
        files |= {
            "config.json": b"{}",
            "README.md": b"---\ntags: []\n---\n",
            "LICENSE": b"free",
            "notes.txt": b"theirs",
        }
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit("alice/original", operations, commit_message=step)
    hub.requests.clear()
    return hub.repository("alice/original").branches["main"]
