"""Waits, broken connections, and errors in words that help."""

import re
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from hf_unlearn.cli import main
from hf_unlearn.hub.push.retries import Patience, PushError, asked_wait, explained, patiently
from hf_unlearn.hub.push.run_folder import push_run
from tests.hub.push.support import REPO, tree
from tests.support.hub_runs import write
from tests.support.loopback_hub import ALWAYS, Fault


def test_a_retry_after_is_respected_by_every_request(hub, run, waits):
    for number in range(30):
        waits.clear()
        hub.faults[:] = [Fault(429, at=number, headers={"Retry-After": "7"})]
        push_run(run, f"alice/model{number}", tags=["v1"])
        if not hub.faults[0].hits:
            break
        assert min(waits) >= 7
        assert max(waits) <= 8
    assert number == 10


@pytest.mark.parametrize("step", ["preupload", "refs", "/commit/", "batch", "PUT"])
def test_a_retry_after_that_is_too_long_ends_the_push_at_once(hub, run, waits, step):
    hub.faults[:] = [Fault(503, times=ALWAYS, match=step, headers={"Retry-After": "7200"})]
    with pytest.raises(PushError, match=r"asks to wait 7200 s \(503\)"):
        push_run(run, REPO)
    assert waits == []
    assert hub.faults[0].hits <= 2  # figure and model are uploaded side by side


@pytest.mark.parametrize("header", ["Retry-After", "ratelimit"])
def test_a_date_and_a_rate_limit_are_understood_too(hub, run, waits, header):
    date = formatdate(time.time() + 40, usegmt=True)
    headers = {header: date if header == "Retry-After" else '"api";r=0;t=35'}
    hub.faults[:] = [Fault(429, match="/refs", headers=headers)]
    push_run(run, REPO)
    assert 5 < waits[0] <= 41


def test_a_busy_hub_is_asked_a_few_times_with_growing_waits(hub, run, waits):
    hub.faults[:] = [Fault(503, times=ALWAYS, match="/refs")]
    with pytest.raises(PushError, match="busy or out of reach: 503"):
        push_run(run, REPO, patience=Patience(tries=4, first_wait=0.5))
    assert (hub.faults[0].hits, waits) == (4, [0.5, 1.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize("step", ["/refs", "preupload", "PUT", "validate-yaml", "/commit/"])
def test_a_hanging_request_times_out(hub, run, waits, step):
    hub.hang_seconds = 20
    hub.faults[:] = [Fault("hang", match=step)]
    started = time.monotonic()
    push_run(run, REPO, patience=Patience(timeout=0.3))
    assert hub.faults[0].hits == 1
    assert time.monotonic() - started < 15


def test_the_session_is_left_as_it_was(hub, run):
    from huggingface_hub.utils import get_session

    session = get_session()
    before = session.timeout, {k: list(v) for k, v in session.event_hooks.items()}
    push_run(run, REPO)
    assert get_session() is session
    assert (session.timeout, {k: list(v) for k, v in session.event_hooks.items()}) == before


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("hf_" + "x" * 34, REPO, r"does not accept the token \(401\).*hf auth login"),
        ("read", "alice/original", r"no right to write to alice/original \(403\)"),
        ("write", "bob/unlearned", r"no right to write to bob/unlearned \(403\)"),
        ("", "unlearned", "There is no token|does not accept the token"),
    ],
)
def test_a_user_without_write_right_gets_an_error_and_nothing_changes(
    hub, run, original, monkeypatch, tmp_path, capsys, token, repo, message
):
    given = hub.token("alice", token) if token in ("read", "write") else token
    monkeypatch.setenv("HF_TOKEN", given)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    before = hub.repository("alice/original").state()
    assert main(["push", str(run), "--repo", repo]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not given or given not in error
    assert {name for _, name in hub.repositories} == {"alice/original"}
    assert hub.repository("alice/original").state() == before


def test_offline_mode_is_named_in_the_error(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        push_run(run, REPO)


def test_a_card_that_the_hub_refuses_publishes_nothing(hub, run):
    write(run / "README.md", "---\nlicense: 3\n---\n")
    with pytest.raises(PushError, match=r'Invalid metadata in README.md.*"license"'):
        push_run(run, REPO)
    assert tree(hub, REPO) == []


def test_the_message_of_xet_is_shown_for_a_broken_connection():
    words = "Data processing error: CAS service error : Request failed after 5 retries"
    client = {"__name__": "huggingface_hub._commit_api", "error": RuntimeError(words)}
    with (
        pytest.raises(PushError, match="upload to a/b broke off: RuntimeError: Data processing error"),
        explained("a/b"),
    ):
        exec("raise error", client)


def test_a_foreign_runtime_error_is_not_caught():
    with pytest.raises(RuntimeError, match="dictionary changed size"), explained("a/b"):
        raise RuntimeError("dictionary changed size during iteration")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": formatdate(0, usegmt=True)}, 0),  # a date in the past
        ({"ratelimit": '"api";r=0;t=35'}, 35),
        ({"ratelimit": '"api";r=3;t=35'}, 0),  # three requests are left
    ],
)
def test_the_wait_that_the_hub_asks_for(headers, seconds):
    assert asked_wait(SimpleNamespace(headers=headers)) == seconds


def test_at_least_one_try_is_needed():
    with pytest.raises(ValueError, match="`tries` must be at least 1, got 0"):
        patiently(print, patience=Patience(tries=0))
