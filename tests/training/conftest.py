"""Fixtures of the tests of training."""

import pytest

from tests.support.models import state
from tests.training.support import ADAMW, ascent


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory):
    """Checkpoints 2, 4 and 6 of a run whose optimizer has a state, and the final weights."""
    folder = tmp_path_factory.mktemp("three")
    trainer = ascent(folder, **ADAMW)
    trainer.train()
    return folder, state(trainer.model)
