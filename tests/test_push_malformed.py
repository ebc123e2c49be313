"""Files of a run that are not as they were written: an error that names the file, and exit code 2."""

import json

import pytest
from safetensors.numpy import save_file

from hf_unlearn.cli import main
from hf_unlearn.hub.push.retries import PushError, explained
from tests.support.hub_runs import run_folder, write

REPORT = {"schema": "hf_unlearn/report/2", "models": {"unlearned": {}}, "run": {}}
CASES = [
    ("model/model.safetensors.index.json", {}),
    ("model/model.safetensors.index.json", []),
    ("model/model.safetensors.index.json", {"weight_map": ["model.safetensors"]}),
    ("model/model.safetensors.index.json", {"weight_map": {"w": 5}}),
    ("report.json", {"run": []}),
    ("report.json", {"run": None}),
    ("report.json", {"run": {"original": "x/y"}}),
    ("report.json", {"run": {"original": {"id": 5}}}),
    ("report.json", {"run": {"original": {"id": "x/y", "revision": 5}}}),
    ("report.json", []),
    ("report.json", {"schema": REPORT["schema"]}),
    ("report.json", {**REPORT, "models": []}),
    ("report.json", {**REPORT, "models": {"unlearned": 5}}),
    ("report.json", {**REPORT, "zzz": 1}),
    ("report.json", {**REPORT, "zzz": {}}),
    ("report.json", {**REPORT, "run": {"method": 5}}),
    ("audit.json", {"schema": "hf_unlearn/audit/1"}),
    ("audit.json", {"schema": "hf_unlearn/audit/1", "run": []}),
    (
        "audit.json",
        {"schema": "hf_unlearn/audit/1", "run": {}, "verdict": "x", "lines": [5], "because": [], "limits": []},
    ),
    ("audit.json", []),
    ("unlearning_receipt.json", "{"),
    ("model/config.json", []),
    ("model/config.json", {"_name_or_path": 5}),
    ("model/adapter_config.json", {"base_model_name_or_path": 5}),
]


@pytest.mark.parametrize(("file", "content"), CASES, ids=lambda value: json.dumps(value)[:60])
def test_a_malformed_file_is_named_by_push_and_card(tmp_path, capsys, file, content):
    run = run_folder(tmp_path / "run")
    if file == "audit.json":
        write(run / "report.json", json.dumps(REPORT))
    if "adapter" in file:
        (run / "model/config.json").unlink()
        save_file({}, run / "model/adapter_model.safetensors")
    write(run / file, content if isinstance(content, str) else json.dumps(content))
    name = file.rpartition("/")[2]
    assert main(["push", str(run), "--repo", "a/b", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert name in error
    if file in ("report.json", "audit.json"):
        assert main(["card", str(run)]) == 2
        assert capsys.readouterr().err.startswith("Error: ")
        assert not (run / "README.md").exists()
    assert not list(run.glob(".push-*"))


def test_what_xet_says_of_a_broken_connection_is_told():
    words = "Data processing error: CAS service error : Request failed after 5 retries"
    client = {"__name__": "huggingface_hub._commit_api", "error": RuntimeError(words)}
    with (
        pytest.raises(PushError, match="upload to a/b broke off: RuntimeError: Data processing error"),
        explained("a/b"),
    ):
        exec("raise error", client)


def test_an_error_of_somebody_else_is_no_broken_connection():
    with pytest.raises(RuntimeError, match="dictionary changed size"), explained("a/b"):
        raise RuntimeError("dictionary changed size during iteration")
