import pytest

from tests.support.receipts import publish


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path)
