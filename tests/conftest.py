"""Fixtures of all tests, and their deadlines."""

import os
import socket
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub.utils import disable_progress_bars

from tests.support import fresh_processes, methods
from tests.support.loopback_hub import LoopbackHub


def pytest_configure(config):
    """Make a folder in which all processes of the tests share the models that they train. The library shares none."""
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1  # 5 seconds for each stream that is left before its end
    os.environ["HF_UNLEARN_RETRAINED_CACHE"] = (
        "none"  # no test finds what another one trained, or writes to the user's cache
    )
    if "TAUGHT" not in os.environ:
        shelf = TemporaryDirectory(prefix="taught-")
        os.environ["TAUGHT"] = shelf.name
        config.add_cleanup(lambda: (os.environ.pop("TAUGHT"), shelf.cleanup()))


def pytest_collection_modifyitems(items):
    """UIB over each other method is the behaviour table once more: the quick subset leaves it out. A quick test has two minutes."""
    for item in items:
        if "uib+" in item.name:
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def few_anchors():
    with methods.few_anchors():
        yield


@pytest.fixture
def fork_server():
    """Where workers of data loaders come from, quickly."""
    fresh_processes.start_server()


@pytest.fixture
def evaluate_cache(monkeypatch, tmp_path_factory):
    """`evaluate` looks its folders up at call time: tests that load a metric by path write nothing to the user's."""
    import evaluate

    folder = tmp_path_factory.getbasetemp() / "evaluate"
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def loopback_hub():
    """A Hub on this machine. With fast retries in hf_xet, which reads its settings once."""
    os.environ |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(loopback_hub, monkeypatch):
    """That Hub, empty, as the one that everything in this process talks to, as alice and over LFS."""
    from huggingface_hub import constants

    here = {
        "ENDPOINT": loopback_hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": loopback_hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in here.items():
        monkeypatch.setattr(constants, name, value)
    disable_progress_bars()  # which transformers may have switched on again
    loopback_hub.reset()
    monkeypatch.setenv("HF_TOKEN", loopback_hub.token("alice"))
    return loopback_hub


@pytest.fixture
def waits(monkeypatch):
    """Seconds that somebody wanted to sleep; nobody does."""
    asked = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked
