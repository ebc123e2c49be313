"""Deletion requests that wait until they are carried out together, in a private file of the version that they concern."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ..data.forget_request import ForgetRequest
from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..utils.files import write_atomically

QUEUE = "queue.json"
ARGUMENTS = {
    "forget_class": "label", "forget_column": "column", "forget_values": "values", "forget_ids_file": "ids_file",
}  # fmt: skip


@dataclass(frozen=True)
class QueuedRequest:
    """A request that waits.

    Attributes:
        named: option -> value, as `hf-unlearn shards forget` takes them.
        received: the day on which it was put into the queue, as in 2030-01-31.
        deadline: the day by which the rows must be gone; None if there is none.
    """

    named: Mapping[str, Any] = field(repr=False)
    received: str
    deadline: str | None = None

    def request(self, label_column: str = "label") -> ForgetRequest:
        return ForgetRequest(**{ARGUMENTS[k]: v for k, v in self.named.items()}, label_column=label_column)

    def words(self) -> str:
        """Return what it selects by, without a value."""
        return self.request().describe()


class DeletionQueue:
    """The requests that wait in the folder of a version.

    Args:
        folder: of the version.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / PRIVATE_FOLDER / QUEUE
        try:
            found = json.loads(self.file.read_text("utf-8")) if self.file.is_file() else []
            self._requests = [QueuedRequest(**one) for one in found]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.file} is damaged: {error}. Restore it from a backup, or delete it.") from error

    def add(self, named: Mapping[str, Any], deadline: str | None = None) -> None:
        """Put a request into the queue.

        Raises:
            ValueError: `deadline` is no day, or the request is no valid one.
        """
        if deadline is not None:
            _day(deadline, "deadline")
        one = QueuedRequest(dict(named), datetime.now(UTC).date().isoformat(), deadline)
        one.request()
        self._save([*self._requests, one])

    def waiting(self, due: str | None = None) -> list[QueuedRequest]:
        """Return the requests that wait, the most urgent first: all of them, or those with a deadline up to the day `due`."""
        last = None if due is None else _day(due, "due").isoformat()
        chosen = [r for r in self._requests if last is None or (r.deadline is not None and r.deadline <= last)]
        return sorted(chosen, key=lambda r: r.deadline or "9999")

    def carry_over(self, folder: Path, done: Sequence[QueuedRequest]) -> None:
        """Put those that still wait, all but `done`, into the queue of the version in `folder`."""
        DeletionQueue(folder)._save([r for r in self._requests if r not in done])

    def _save(self, requests: Sequence[QueuedRequest]) -> None:
        write_atomically(self.file, json.dumps([asdict(r) for r in requests]) + "\n", mode=0o600)
        self._requests = list(requests)


def _day(text: str, argument: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{argument}={text!r}` is no day. Write it as 2030-01-31.") from None
