"""What the page of the app does: it reads what was typed, runs an audit and says how far it is, and checks a receipt."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

from ...evaluation.audit.audit import Audit
from ...hub.layout import RECEIPT
from ...hub.receipt.sealing import read_receipt, verify_folder, verify_receipt
from ...hub.receipt.signing import UNSIGNED, read_public_key, signature_file
from ...pipeline.audit_job import AuditArguments, audit_of, find_models, load_sets
from ...utils.hub_names import is_local

TICK = 1.0  # seconds between two messages of a running audit


class FieldError(ValueError):
    """A field of the page holds what cannot be asked."""


def lines_of(text: str | None) -> list[str]:
    """Return the lines of a text field that hold something."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def options_of(
    original: str, unlearned: str, retrained: str, train: str, test: str, classes: str, column: str, values: str, ids: str | None,
    local: bool = True,
) -> AuditArguments:  # fmt: skip
    """Return what an audit reads, from the fields of the page.

    Args:
        original, unlearned, train, test: a folder or Hub id each.
        retrained: a folder or Hub id in each line.
        classes: a class to forget in each line. Names may hold commas.
        column, values: a column, and a value in each line, that select the rows to forget.
        ids: a text file with more values, one in each line. None: there is none.
        local: False refuses folders of this machine. Default: True.

    Raises:
        FieldError: a field is empty that is needed, or names a folder although `local` is False.
    """
    fields = {"original": original, "unlearned": unlearned, "training rows": train, "test rows": test}
    for name, text in fields.items():
        if not (text or "").strip():
            raise FieldError(f"The field '{name}' is empty. Give a folder or a Hub id.")
    named = [*fields.values(), *lines_of(retrained)]
    if not local:
        for text in named:
            if is_local(text.strip().partition("@")[0].partition(":")[0]):
                raise FieldError(
                    f"'{text.strip()}': this page reads Hub ids only, and no folders of the machine that it runs on."
                )
    chosen = lines_of(classes)
    wanted = lines_of(values) + (lines_of(Path(ids).read_text("utf-8-sig")) if ids else [])
    if not chosen and not wanted:
        raise FieldError("Say what was to be forgotten: a class, or a column and its values.")
    return AuditArguments(
        original=original.strip(), unlearned=unlearned.strip(), retrained=lines_of(retrained) or None, forget=train.strip(),
        test=test.strip(), forget_class=chosen or None, forget_column=(column or "").strip() or None, forget_values=wanted or None,
    )  # fmt: skip


def what_will_be_read(options: AuditArguments) -> str:
    """Say what an audit reads, before it is run. Raises ValueError as `load_sets`."""
    models = find_models(options)
    sets = {name: rows for name, rows in load_sets(options).items() if rows is not None}
    counts = ", ".join(f"{min(len(rows), options.max_rows):,} {name}" for name, rows in sets.items())
    kept = (
        "no retrained model, so little can be concluded"
        if not options.retrained
        else f"{len(options.retrained)} of them retrained"
    )
    return (
        f"{len(models)} models ({kept}) will read {counts} rows. How long it takes is said once the original is loaded."
    )


def running(options: AuditArguments, work: Callable[..., Audit] = audit_of) -> Iterator[str | Audit]:
    """Run an audit beside this function. Yield what it says and how long it has taken, and the audit at the end.

    Raises:
        Exception: whatever the audit raised.
    """
    said: Queue[str] = Queue()
    ended: list[Audit | BaseException] = []

    def run() -> None:
        try:
            ended.append(work(options, said.put))
        except BaseException as error:  # raised again below, where the page shows it
            ended.append(error)

    worker, start, latest = threading.Thread(target=run, daemon=True), time.monotonic(), "Models and rows are loaded."
    worker.start()
    while worker.is_alive() or not said.empty():
        with suppress(Empty):  # nothing new was said
            latest = said.get(timeout=TICK)
        yield f"{latest} ({time.monotonic() - start:.0f} s so far)"
    worker.join()
    if isinstance(ended[0], BaseException):
        raise ended[0]
    yield ended[0]


def check_receipt(
    receipt: str | None, files: Sequence[str] = (), key: str | None = None, folder: str = ""
) -> tuple[bool, list[str]]:
    """Return whether a receipt fits, and sentences for the page.

    Args:
        receipt: the file of the receipt.
        files: the signature, if there is one.
        key: PEM file of the public key that must have signed it. Default: None.
        folder: the published folder that the receipt is of. Default: only the receipt itself is checked.

    Raises:
        ValueError: there is no receipt, or a file is no signature.
    """
    if not receipt and not folder.strip():
        raise ValueError("Drop a receipt (unlearning_receipt.json), or name the folder that holds it.")
    own = Path(folder.strip()) / RECEIPT if folder.strip() else None
    path = Path(receipt) if receipt else own
    assert path is not None
    public_key = None if key is None else read_public_key(key)
    if others := [Path(name).name for name in files if not name.endswith(".sig")]:
        raise ValueError(f"'{others[0]}' is no signature: its name ends with .sig.")
    signature = next((Path(name) for name in files), None)
    if folder.strip():
        problems = verify_folder(folder.strip(), public_key, path, signature)
    else:
        problems = verify_receipt(path, public_key, signature)
    said = [f"Problem: {problem}." for problem in problems]
    if not problems:
        found = read_receipt(path)
        rows = found["forgotten_rows"]["rows"]
        said.append(
            f"The receipt is whole. Request {found['request']['id']}: {rows} rows, {len(found['files'])} files."
        )
        said.append(
            "Every file in the folder is as the receipt says."
            if folder.strip()
            else "The files themselves were not checked."
        )
    signed = signature is not None or any(place and signature_file(place).exists() for place in (path, own))
    if not signed:
        said.append(UNSIGNED)
    elif public_key is None:
        said.append("It is signed, but without the public key of its owner nobody knows by whom.")
    said.append(
        "A receipt says which request and which files belong together. It does not prove that the model forgot."
    )
    return not problems, said
