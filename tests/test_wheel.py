"""The wheel, installed where there is no repository, has all that its commands need.

`HF_UNLEARN_WHEEL=dist/NAME.whl` tests a wheel that was built before, as the release does. Otherwise one is built here, from a source
distribution, with what is installed: nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

import hf_unlearn

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "out", "demo-output")
# Few rows and epochs, no retraining: the model is a poor one, and every part of a run is there.
QUICK = "--train_rows 600 --test_rows 200 --train_epochs 3 --retrain false --relearning false --use_cpu true --disable_tqdm true"

NONE = "0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("wheel")]


def run(words, folder, **environment):
    """Run a command in `folder`, in an environment that knows nothing of this repository, and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = {**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installed_version(package):
    """The version of a package, which is not imported: setuptools and pip each change `distutils` for the other."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NONE


def build(folder):
    """Build a source distribution of the working tree, and the wheel from that. Returns the wheel."""
    if Version(installed_version("setuptools")) < Version("77"):
        pytest.skip("building the wheel needs setuptools 77 or later, of the extra `release`")
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    hook = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    run([sys.executable, "-c", hook, "build_sdist", folder], folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    run([sys.executable, "-c", hook, "build_wheel", folder], source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment in which the wheel is installed, and which also finds the packages of this one."""
    if installed_version("pip") == NONE:
        pytest.skip("installing the wheel needs pip")
    folder = tmp_path_factory.mktemp("wheel")
    given = os.environ.get("HF_UNLEARN_WHEEL")
    wheel = ROOT / given if given else build(folder)
    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "shared.pth").write_text("\n".join(shared))
    place = run([python, "-c", "import hf_unlearn; print(hf_unlearn.__file__)"], folder).strip()
    assert Path(place) == own / "hf_unlearn" / "__init__.py"
    return folder / "environment"


@pytest.fixture
def command(installed):
    return installed / "bin" / "hf-unlearn"


def package(installed):
    (place,) = installed.glob("lib/python*/site-packages/hf_unlearn")
    return place


def contents(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.endswith(".pyc")}


def test_the_wheel_holds_every_file_of_the_package_and_the_recipes(installed):
    recipes = {path for path in contents(ROOT / "recipes") if not path.startswith(("benchmarks/", "figures/"))}
    shipped = {f"recipes/{path}" for path in recipes - {"README.md", "cards.py"}}
    assert contents(package(installed)) == contents(ROOT / "hf_unlearn") | shipped
    for path in shipped:
        assert (package(installed) / path).read_bytes() == (ROOT / path).read_bytes()


def test_the_command_says_its_version_and_lists_methods_and_recipes(command, tmp_path):
    assert run([command, "--version"], tmp_path) == f"{hf_unlearn.__version__}\n"
    assert "surrogate_distillation  forgets: class, samples" in run([command, "methods"], tmp_path)
    here = run([sys.executable, "-m", "hf_unlearn.cli", "init"], tmp_path, PYTHONPATH=str(ROOT))
    assert run([command, "init"], tmp_path) == here


def test_a_recipe_that_init_wrote_runs_outside_the_repository(command, tmp_path):
    told = run([command, "init", "digits-vit/jit"], tmp_path)
    words = told.splitlines()[-1].partition("hf-unlearn ")[2].split()
    told = run([command, *words, *QUICK.split()], tmp_path, HF_UNLEARN_RETRAINED_CACHE="none")
    assert "Did it forget?" in told
    out = tmp_path / "out" / "digits-vit" / "jit"
    assert json.loads((out / "report.json").read_text("utf-8"))["run"]["method"]["method"] == "jit"
    for name in ("README.md", "report.html", "report.md", "unlearning_receipt.json", "model/model.safetensors"):
        assert (out / name).stat().st_size > 0
    assert run([command, "receipt", "verify", "--folder", out], tmp_path)
