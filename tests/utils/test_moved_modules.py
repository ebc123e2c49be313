import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn import UnlearningArguments
from hf_unlearn.utils.moved_modules import MOVED

ROOT = Path(__file__).parents[2]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_a_module_that_moved_can_still_be_imported_and_says_where_it_is(former, now):
    code = (
        "import sys, warnings; warnings.simplefilter('error'); import hf_unlearn\n"
        f"try: import {former}\nexcept DeprecationWarning as error: print('`{now}`' in str(error))\n"
        f"warnings.simplefilter('ignore'); import {former} as a, {now} as b; print(a.__name__, a.__getattr__('__name__') == b.__name__)"
    )
    assert run(code) == ["True", former, "True"]


@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_a_star_and_dir_give_the_names_of_the_module_that_replaced_it(former, now):
    code = (
        f"import warnings; warnings.simplefilter('ignore'); import {former} as a, {now} as b; names = {{}}\n"
        f"exec('from {former} import *', names); public = [n for n in vars(b) if n[0] != '_']\n"
        "print(dir(a) == dir(b), all(names[n] is getattr(b, n) for n in getattr(b, '__all__', public)))"
    )
    assert run(code) == ["True", "True"]


def test_arguments_that_were_saved_under_the_former_path_can_be_read():
    text = pickle.dumps(UnlearningArguments(output_dir="out", use_cpu=True), protocol=0)
    former = text.replace(b"hf_unlearn.training.arguments", b"hf_unlearn.arguments")
    assert former != text
    sys.modules.pop("hf_unlearn.arguments", None)
    with pytest.warns(DeprecationWarning, match="is now `hf_unlearn.training.arguments`"):
        assert pickle.loads(former).output_dir == "out"
