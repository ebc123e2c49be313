import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn import UnlearningArguments
from hf_unlearn.utils.moved_modules import MOVED

ROOT = Path(__file__).parents[2]


# In a fresh process that has imported none of the former names: one for all of them, because the imports take seconds.
CODE = """
import importlib, json, sys, warnings
warnings.simplefilter("error")
import hf_unlearn
from hf_unlearn.utils.moved_modules import MOVED

found = {}
for former, now in MOVED.items():
    warnings.simplefilter("error")
    assert former not in sys.modules
    try:
        importlib.import_module(former)
        said = "nothing"
    except DeprecationWarning as warning:
        said = str(warning)
    warnings.simplefilter("ignore")
    a, b, names = importlib.import_module(former), importlib.import_module(now), {}
    exec(f"from {former} import *", names)
    public = getattr(b, "__all__", [n for n in vars(b) if n[0] != "_"])
    found[former] = {
        "warning": said, "name": a.__name__, "passes on": a.__getattr__("__name__"), "same dir": dir(a) == dir(b),
        "without": [n for n in public if names.get(n) is not getattr(b, n)],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """What an import of each former name says and gives."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.xdist_group("moved modules")
@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_a_module_that_moved_can_still_be_imported_and_says_where_it_is(found, former, now):
    assert f"`{now}`" in found[former]["warning"]
    assert (found[former]["name"], found[former]["passes on"]) == (former, now)


@pytest.mark.slow
@pytest.mark.xdist_group("moved modules")
@pytest.mark.parametrize("former", MOVED)
def test_a_star_and_dir_give_the_names_of_the_module_that_replaced_it(found, former):
    assert found[former]["same dir"]
    assert found[former]["without"] == []


def test_arguments_that_were_saved_under_the_former_path_can_be_read():
    text = pickle.dumps(UnlearningArguments(output_dir="out", use_cpu=True), protocol=0)
    former = text.replace(b"hf_unlearn.training.arguments", b"hf_unlearn.arguments")
    assert former != text
    sys.modules.pop("hf_unlearn.arguments", None)
    with pytest.warns(DeprecationWarning, match="is now `hf_unlearn.training.arguments`"):
        assert pickle.loads(former).output_dir == "out"
