"""The notebooks run from the first cell to the last, in a fresh process and an empty folder, and do what their texts say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn.evaluation.audit.verdicts import MEANING

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
DEADLINE = 180  # seconds; a notebook takes less than 60 on one core that is its own
OF_A_MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt|mnt|var|srv)/|\b[A-Z]:\\|127\.0\.0\.1|localhost"
)


def cells(path, kind):
    found = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def run(name, folder, **environment):
    """Run the code cells of a notebook in order, as one script, with `folder` as the present one."""
    path = ROOT / "docs" / "notebooks" / name
    script = folder / "cells.py"
    script.write_text("\n\n\n".join(f"# cell {i}\n{code}" for i, code in enumerate(cells(path, "code"))), "utf-8")
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home")}
    words = [sys.executable, script.name]
    done = subprocess.run(
        words, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_names_no_place_of_a_machine(path):
    nbformat = pytest.importorskip("nbformat", reason="checking notebooks needs nbformat, of the extra `dev`")
    nbformat.validate(nbformat.read(path, as_version=4))
    assert not OF_A_MACHINE.findall(path.read_text("utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_what_a_user_has(path):
    code = "\n".join(cells(path, "code"))
    compile(code, path.name, "exec")  # no command of the notebook's own, so that it also runs as a script
    imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
    known = {"transformers", "datasets", "tokenizers", "huggingface_hub", "torch", "numpy", "PIL", "hf_unlearn"}
    assert imported <= known | set(sys.stdlib_module_names)
    assert len(cells(path, "markdown")) >= len(cells(path, "code")) - 1  # each step is explained


@pytest.mark.slow
def test_a_class_is_forgotten(tmp_path):
    pytest.importorskip("matplotlib")
    told = run("forget_a_class.ipynb", tmp_path, HF_HUB_OFFLINE="1")
    assert "Did it forget?     ● Yes." in told
    answers = dict(re.findall(r"^(\w+) +→ (.+)$", told, re.MULTILINE))
    assert "triangle" not in answers.pop("triangle")
    assert answers.keys() == {"circle", "cross", "square"}
    for shape, most in answers.items():
        assert re.match(rf"(?:4[5-9]|50) times {shape}\b", most)
    assert {path.name for path in (tmp_path / "out" / "report").iterdir()} >= {"report.html", "report.md", "figures"}


@pytest.mark.slow
def test_a_user_is_forgotten_and_the_patch_is_pushed(tmp_path, hub):
    pytest.importorskip("peft")
    told = run("forget_a_user.ipynb", tmp_path, HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0")
    assert "60 rows to forget, 780 to keep" in told
    patched, merged = [v for line in told.splitlines() for v in MEANING if line.startswith(f"{v}: ")]
    assert patched == "hidden, not forgotten"  # the patch can be switched off
    assert merged not in (patched, "model damaged", "nothing changed")
    assert "answers as before the push: True" in told
    patch = hub.repository("alice/reviews-patch")
    assert patch.private
    assert {"adapter_model.safetensors", "README.md", "report.json"} <= patch.tree().keys()
    assert "u07" not in hub.content("alice/reviews-patch", "report.json").decode()
    assert (tmp_path / "out" / "forgotten" / "model.safetensors").is_file()
