"""Fixtures of the tests of jobs."""

import pytest

from tests.support.recipes import save_model_and_data


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A trained classifier and its data set, which no test changes."""
    return save_model_and_data(tmp_path_factory.mktemp("user"))
