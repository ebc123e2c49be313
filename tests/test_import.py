import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import hf_unlearn

ROOT = Path(__file__).parents[1]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return done.stdout.split()


def test_import_is_fast_and_loads_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import hf_unlearn; t = time.perf_counter() - t; dir(hf_unlearn); "
        "print(t, *[m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    runs = [run(code) for _ in range(3)]
    assert all(len(r) == 1 for r in runs), f"loaded on import: {runs[0][1:]}"
    assert min(float(r[0]) for r in runs) < 0.1


def test_requests_need_no_torch():
    assert run(
        "import sys; from hf_unlearn import ForgetRequest; ForgetRequest(label=1); print('torch' in sys.modules)"
    ) == ["False"]


def test_metrics_are_loaded_on_first_use():
    code = "import sys, hf_unlearn.metrics as m; dir(m); print(*[n for n in ('torch', 'evaluate') if n in sys.modules])"
    assert run(code) == []


@pytest.mark.slow
def test_every_module_can_be_imported_without_the_optional_packages():
    """PEFT, matplotlib and cryptography are imported where they are used."""
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules |= dict.fromkeys(('peft', 'matplotlib', 'cryptography'))\n"
        "import hf_unlearn.trainer, hf_unlearn.methods, hf_unlearn.cli\n"
        "names = [m.name for m in pkgutil.walk_packages(hf_unlearn.__path__, 'hf_unlearn.')]\n"
        "print(*[importlib.import_module(n).__name__ for n in names if not n.endswith('__main__')])"
    )
    files = [p.relative_to(ROOT).with_suffix("") for p in (ROOT / "hf_unlearn").rglob("*.py") if p.stem != "__main__"]
    modules = {".".join(f.parts).removesuffix(".__init__") for f in files}
    assert set(run(code)) == modules - {"hf_unlearn"}


def test_public_names_resolve():
    assert sorted(hf_unlearn.__all__) == dir(hf_unlearn)
    for name in hf_unlearn.__all__:
        assert getattr(hf_unlearn, name) is not None
    namespace = {}
    exec("from hf_unlearn import *", namespace)
    assert set(hf_unlearn.__all__) <= set(namespace)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_unlearn.nothing  # noqa: B018


def test_every_method_is_public():
    for method in hf_unlearn.METHODS.values():
        assert getattr(hf_unlearn, method.__name__) is method


def test_type_information_is_shipped():
    assert files("hf_unlearn").joinpath("py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["hf_unlearn"]
    assert project["project"]["version"] == hf_unlearn.__version__
