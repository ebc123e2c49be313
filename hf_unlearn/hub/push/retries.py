"""Requests to the Hub that always end: repeated a few times with bounded waits, then an error that says what to do."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, hf_raise_for_status

logger = logging.getLogger(__name__)

T = TypeVar("T")
BUSY = (408, 425, 429, 500, 502, 503, 504)
CONFLICT = (409, 412)
ONE_AT_A_TIME = threading.RLock()  # all threads share the client's session, whose waits are bounded here
AGAIN = "Run the same command again later: what has arrived is not sent twice."
REFUSALS = {
    401: "The Hub does not accept the token (401) for {repo}. Log in with `hf auth login`, or set `HF_TOKEN` (in a recipe "
    "`hub_token`) to a valid one with write right, and run the same again.",
    403: "The token has no right to write to {repo} (403). Use one that has, or another repository.",
    404: "{repo} is not on the Hub, or the token may not see it (404). Check the name and the token.",
}


class PushError(OSError):
    """The Hub refused a push. The message says why, and what to do."""


@dataclass(frozen=True)
class Patience:
    """How long a push waits.

    Args:
        tries: how often a request is made (default 5), except uploads, which the client library itself repeats.
        first_wait: seconds before the second try (default 1). Each further wait is twice as long.
        longest_wait: longest wait in seconds (default 90). If the Hub asks for more (`Retry-After`), the push ends.
        timeout: seconds without a byte after which a connection counts as broken (default 60).
    """

    tries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 90.0
    timeout: float = 60.0


@contextmanager
def bounded(patience: Patience) -> Iterator[None]:
    """Inside, no connection hangs, no wait is longer than `longest_wait`, and only one thread pushes at a time.

    Every step of a push sets these bounds again, because the client library builds a new session without them after a
    connection could not be opened.
    """

    def check(response: Any) -> None:
        asked = asked_wait(response)
        if response.status_code in BUSY and asked > patience.longest_wait:
            raise PushError(f"The Hub asks to wait {asked:.0f} s ({response.status_code}). {AGAIN}")
        if response.request.url.path.endswith("/validate-yaml") and response.status_code not in (200, 400):
            response.read()  # the client library would parse a proxy's page as JSON, and lose status and waiting time
            hf_raise_for_status(response)

    with ONE_AT_A_TIME:
        session = get_session()
        timeout, hooks = session.timeout, session.event_hooks
        session.timeout = patience.timeout
        session.event_hooks = {**hooks, "response": [*hooks.get("response", []), check]}
        try:
            yield
        finally:
            session.timeout, session.event_hooks = timeout, hooks


def asked_wait(response: Any) -> float:
    """Return the seconds that the Hub asks to wait, from `Retry-After` (seconds or a date) or `ratelimit`, else 0."""
    after = (response.headers.get("Retry-After") or "").strip()
    if after.isdigit():
        return float(after)
    reset = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("ratelimit") or "")
    if reset:
        return float(reset[1])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (TypeError, ValueError):  # `Retry-After` is no date
        return 0.0


def patiently(call: Callable[..., T], *args: Any, patience: Patience, **kwargs: Any) -> T:
    """Return `call(*args, **kwargs)`, a request that is repeated if the Hub is busy or the connection breaks."""
    for attempt in range(patience.tries):
        try:
            with bounded(patience):
                return call(*args, **kwargs)
        except (HTTPError, json.JSONDecodeError) as error:
            if attempt + 1 == patience.tries or not is_passing(error):
                raise
            wait(error, attempt, patience)
    raise ValueError(f"`tries` must be at least 1, got {patience.tries}.")


def wait(error: BaseException, attempt: int, patience: Patience) -> None:
    """Sleep before the next try, at least as long as the Hub asks."""
    response = getattr(error, "response", None)
    asked = asked_wait(response) if response is not None else 0.0
    seconds = min(max(asked, patience.first_wait * 2**attempt), patience.longest_wait)
    logger.warning("The Hub did not answer as it should (%s). Trying again in %.1f s.", _what(error), seconds)
    time.sleep(seconds)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return status(error) in BUSY
    return isinstance(error, HTTPError | json.JSONDecodeError)  # the page of a proxy is no JSON


def status(error: BaseException) -> int | None:
    """Return the HTTP status of an error or of its causes, None for a broken connection."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return int(response.status_code)
        in_words = re.search(r"\((\d{3}) [A-Z]", str(cause))  # the Xet client gives the status in its message only
        if isinstance(cause, ConnectionError) and in_words:
            return int(in_words[1])
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Inside, an error of the client library becomes a `PushError` that says what to do."""
    try:
        yield
    except PushError:
        raise
    except OfflineModeIsEnabled as error:
        raise PushError("`HF_HUB_OFFLINE` is set: nothing can be pushed. Unset it, and run the same again.") from error
    except LocalTokenNotFoundError as error:
        raise PushError("There is no token. Log in with `hf auth login`, or set `HF_TOKEN`.") from error
    except (HTTPError, ConnectionError, json.JSONDecodeError, RuntimeError) as error:
        for cause in _causes(error):
            if isinstance(cause, PushError):
                raise cause from None
            if isinstance(cause, HTTPError | ConnectionError | json.JSONDecodeError):
                raise PushError(_message(cause, repo_id)) from error
        if not _is_of_client(error):
            raise
        # Xet reports a broken connection as a RuntimeError without a cause.
        raise PushError(f"The upload to {repo_id} broke off: {_what(error)}. {AGAIN}") from error
    except ValueError as error:  # a name, or metadata of the card, that the client library or the Hub refuses
        raise PushError(f"{repo_id} was not pushed: {' '.join(str(error).split())}") from error


def _is_of_client(error: BaseException) -> bool:
    """Whether the client library raised the error, or called Xet, which is no Python and leaves no frame."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith(("huggingface_hub", "hf_xet"))


def _message(error: BaseException, repo_id: str) -> str:
    code = status(error)
    if code in REFUSALS:
        return REFUSALS[code].format(repo=repo_id)
    if code in CONFLICT:
        return f"{repo_id} changed while the push was under way ({code}); nothing was overwritten. {AGAIN}"
    if code is not None and code not in BUSY:
        return f"The Hub refused the push to {repo_id}: {_what(error)}."
    return f"The Hub is busy or out of reach: {_what(error)}. {AGAIN}"


def _what(error: BaseException) -> str:
    """Status and message of the Hub, or the kind of the broken connection, on one line without addresses."""
    words = " ".join(str(getattr(error, "server_message", None) or error).split())
    words = re.sub(r"(for url|for more information|url:?|domain:).*", "", words, flags=re.IGNORECASE).strip(" ,.:'(")
    return ": ".join(filter(None, (str(status(error) or type(error).__name__), words[:200])))
