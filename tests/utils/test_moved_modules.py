import subprocess
import sys
from pathlib import Path

import pytest

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
