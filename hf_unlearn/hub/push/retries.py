"""Requests to the Hub that end: repeated a few times, with bounded waits, and then an error that says what to do."""

from __future__ import annotations

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
ONE_AT_A_TIME = threading.RLock()  # the client's session, whose waits are bounded here, is one for all threads
AGAIN = "Run the same command again later: what has arrived is not sent twice."


class PushError(OSError):
    """The Hub did not take a push. The message says why, and what to do."""


@dataclass(frozen=True)
class Patience:
    """How long a push waits.

    Args:
        tries: of a request that the client library does not repeat by itself (it repeats those of an upload).
        first_wait: seconds before the second try; each further wait is twice as long.
        longest_wait: seconds; where the Hub asks for more (`Retry-After`), the push ends.
        timeout: seconds without a byte after which a connection counts as broken. The client library would wait for ever.
    """

    tries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 90.0
    timeout: float = 60.0


@contextmanager
def bounded(patience: Patience) -> Iterator[None]:
    """Inside, no connection hangs, and no `Retry-After` beyond `longest_wait` is sat out; pushes take turns.

    A connection that cannot be opened makes the client library build a new session, without these bounds: they are set anew
    before every step of a push.
    """

    def look(response: Any) -> None:
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
        session.event_hooks = {**hooks, "response": [*hooks.get("response", []), look]}
        try:
            yield
        finally:
            session.timeout, session.event_hooks = timeout, hooks


def asked_wait(response: Any) -> float:
    """Seconds that the Hub asks to wait: `Retry-After` (seconds or a date), or the reset of its `ratelimit`; 0 without."""
    after = (response.headers.get("Retry-After") or "").strip()
    if after.isdigit():
        return float(after)
    reset = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("ratelimit") or "")
    if reset:
        return float(reset[1])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (TypeError, ValueError):  # no date
        return 0.0


def patiently(call: Callable[..., T], *args: Any, patience: Patience, **kwargs: Any) -> T:
    """`call(...)`, one request that is safe to repeat, tried again where the Hub is busy or the connection breaks."""
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
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return status(error) in BUSY
    return isinstance(error, HTTPError | json.JSONDecodeError)  # a proxy's page is no JSON


def status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error or its causes; None for a connection that broke."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        told = re.search(r"\((\d{3}) [A-Z]", str(error))  # the Xet client has only words
        if isinstance(error, ConnectionError) and told:
            return int(told[1])
        error = error.__cause__
    return None


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Inside, what the client library raises becomes a `PushError` in words that help."""
    try:
        yield
    except PushError:
        raise
    except OfflineModeIsEnabled as error:
        raise PushError(
            "`HF_HUB_OFFLINE` is set, so nothing can be pushed. Unset it, and run the same again."
        ) from error
    except LocalTokenNotFoundError as error:
        raise PushError("There is no token. Log in with `hf auth login`, or set `HF_TOKEN`.") from error
    except (HTTPError, ConnectionError, json.JSONDecodeError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, PushError):
                raise cause from None
            if isinstance(cause, HTTPError | ConnectionError | json.JSONDecodeError):
                raise PushError(_message(cause, repo_id)) from error
            cause = cause.__cause__
        if isinstance(error, RuntimeError) and not _is_of_client(error):
            raise
        # Xet tells of a connection that broke in words only.
        raise PushError(f"The upload to {repo_id} broke off: {_what(error)}. {AGAIN}") from error
    except ValueError as error:  # a name, or metadata of the card, that the client library or the Hub does not take
        raise PushError(f"{repo_id} was not pushed: {' '.join(str(error).split())}") from error


def _is_of_client(error: BaseException) -> bool:
    """Whether the client library raised it, or Xet, which is no Python and leaves no frame, below it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith(("huggingface_hub", "hf_xet"))


def _message(error: BaseException, repo_id: str) -> str:
    code = status(error)
    if code == 401:
        return (
            f"The Hub does not accept the token (401) for {repo_id}. Log in with `hf auth login`, or set `HF_TOKEN` (in a recipe "
            "`hub_token`) to a valid one with write right, and run the same again."
        )
    if code == 403:
        return f"The token has no right to write to {repo_id} (403). Use one that has, or another repository."
    if code == 404:
        return f"{repo_id} is not on the Hub, or the token may not see it (404). Check the name and the token."
    if code in CONFLICT:
        return f"{repo_id} changed while the push was under way ({code}); nothing was overwritten. {AGAIN}"
    if code is not None and code not in BUSY:
        return f"The Hub refused the push to {repo_id}: {_what(error)}."
    return f"The Hub is busy or out of reach: {_what(error)}. {AGAIN}"


def _what(error: BaseException) -> str:
    """Status and the Hub's own words, or the kind of the broken connection, on one line without addresses."""
    said = getattr(error, "server_message", None)
    words = " ".join(str(said or error).split())
    words = re.sub(r"(for url|for more information|url:?|domain:).*", "", words, flags=re.IGNORECASE).strip(" ,.:'(")
    return ": ".join(filter(None, (str(status(error) or type(error).__name__), words[:200])))
