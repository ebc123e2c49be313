"""The rate for an original is a share of how far training moved it, or a usual one where nobody knows that."""

from types import SimpleNamespace

import pytest

from hf_unlearn.methods.components.fitting_rate import (
    HEAD_RATE,
    PATCH_RATE,
    SCRATCH_RATE,
    USUAL_RATE,
    fitting_rate,
    learned_length,
)
from tests.methods.baselines import run_of
from tests.support.models import trained

FINE_TUNED, SCRATCH = SimpleNamespace(pretrained=True), SimpleNamespace(pretrained=False)


@pytest.mark.parametrize(
    ("start", "length", "rate"),
    [
        (FINE_TUNED, 2e-3, 2e-4),
        (None, 2e-3, 2e-4),  # an adapter, which began at zero
        (FINE_TUNED, 0.0, HEAD_RATE),
        (SCRATCH, 0.05, SCRATCH_RATE),
        (None, None, USUAL_RATE),
    ],
)
def test_rate(start, length, rate):
    assert fitting_rate(SimpleNamespace(patch=None), start, length, 0.1, 0.1) == pytest.approx(rate)
    assert fitting_rate(SimpleNamespace(patch=object()), start, length, 0.1, 0.1) == pytest.approx(PATCH_RATE * rate)
    assert fitting_rate(SimpleNamespace(patch=None), start, length, 0.3, 0.1) == pytest.approx(3 * rate)


def test_length_is_unknown_without_a_starting_point(tmp_path):
    trainer = run_of("vit", tmp_path, "neggrad_plus", base=None)
    assert learned_length(trainer, trainer.starting_point()) is None
    began = trainer.starting_point() or run_of("vit", tmp_path, "neggrad_plus").starting_point()
    same = run_of("vit", tmp_path, "neggrad_plus", model=began.model)
    assert learned_length(same, began) == 0.0
    assert learned_length(run_of("vit", tmp_path, "neggrad_plus", model=trained("vit")), began) > 0.0
