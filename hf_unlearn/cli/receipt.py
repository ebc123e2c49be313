"""`hf-unlearn receipt verify | prove | seal | keygen | sign`: check, prove and sign deletion receipts."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..hub.layout import RECEIPT
from ..hub.receipt.canonical_json import words
from ..hub.receipt.forgotten_rows import ForgottenRows, verify_inclusion
from ..hub.receipt.row_digest import refuse_other_files, row_digests
from ..hub.receipt.sealing import read_receipt, seal, verify_folder, verify_receipt
from ..hub.receipt.signing import UNSIGNED, generate_key, read_public_key, sign, signature_file
from ..utils.argument_checks import renamed
from ..utils.files import write_atomically
from ..utils.hub_names import TIMEOUT
from ..utils.loading_errors import local, located
from .parsers import CommandParser, parser_settings

NAMED = 10  # a message names at most so many rows


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn receipt`. Returns 0 if everything matches, 1 for a mismatch."""
    options = _parse(words)
    for name in ("receipt", "key", "public_key", "private", "proofs"):
        if getattr(options, name, None) is not None:
            setattr(options, name, local(getattr(options, name), f"--{name.replace('_', '-')}"))
    with renamed({"public_key": "--public-key"}):
        return int(options.work(options))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    settings = parser_settings(
        "receipt",
        "Check, prove, seal and sign deletion receipts.",
        "verify --folder org/model@main --public-key key.pem.pub",
        "verify --folder org/model --proofs proof.json --rows one-row.jsonl",
        "prove --private forgotten_rows.private.json --rows one-row.jsonl --output proof.json",
        "keygen --output key.pem",
        "sign --receipt published/unlearning_receipt.json --key key.pem",
    )
    parser = CommandParser(**settings)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(work: Callable[[argparse.Namespace], int], name: str, help: str) -> Callable[..., argparse.Action]:
        subparser = commands.add_parser(name, help=help, description=help)
        subparser.set_defaults(work=work)
        return subparser.add_argument

    rows = "Rows with all columns of the training set: a file, or a folder or Hub id with `:split`."
    add = command(_verify, "verify", "Check a published folder against its receipt. Exits with 1 for a mismatch.")
    add("--receipt", type=Path, help=f"The receipt. By default {RECEIPT} in the folder.")
    add("--folder", help="The published folder, or a Hub id, optionally with `@revision`.")
    add("--public-key", help="PEM file of the key that the receipt must be signed with.")
    add("--private", help="The owner's private file. Its Merkle root must be that of the receipt.")
    add("--proofs", type=Path, help="Proofs that `prove` wrote. They replace the private file for a third party.")
    add("--rows", help=f"Check that these rows were in the request; needs --private or --proofs. {rows}")
    add = command(_prove, "prove", "Prove to a third party that rows were in the request, without the other rows.")
    add("--private", required=True, help="The owner's private file.")
    add("--rows", required=True, help=rows)
    add("--output", required=True, type=Path, help="File for the proofs, one for each row in the order of the rows.")
    add = command(_seal, "seal", "Bring a receipt up to date with the files of its folder.")
    add("--folder", required=True, help="The folder to publish. The receipt will cover all of it.")
    add(
        "--run-folder", action="store_true", help="The folder is a run's output: cover what the receipt covers already."
    )
    add = command(_keygen, "keygen", "Make an Ed25519 key pair. The public key gets the suffix .pub.")
    add("--output", required=True, help="PEM file for the private key.")
    add = command(_sign, "sign", "Sign a sealed receipt. The signature is written beside it with the suffix .sig.")
    add("--receipt", required=True, type=Path, help="The receipt.")
    add("--key", required=True, help="PEM file of the private key.")
    return parser.parse_args(list(words))


def _verify(options: argparse.Namespace) -> int:
    if options.receipt is None and options.folder is None:
        raise ValueError("`--folder` is missing (or `--receipt`, for a receipt alone).")
    if options.rows and not (options.private or options.proofs):
        raise ValueError("`--rows` needs `--private`, the owner's file, or `--proofs`.")
    if options.proofs and not options.rows:
        raise ValueError("`--proofs` needs `--rows`: the rows that the proofs are for.")
    public_key = None if options.public_key is None else read_public_key(options.public_key)
    folder = None if options.folder is None else _find_folder(options.folder)
    path: Path = options.receipt or folder / RECEIPT  # type: ignore[operator]
    if not path.is_file():
        raise ValueError(
            f"`--folder={options.folder}`: there is no {path}. Give the path of the receipt in `--receipt`."
        )
    private = None if options.private is None else ForgottenRows.load(options.private)
    rows = None if options.rows is None else _load_rows(options.rows)
    proofs = None if options.proofs is None else _load_proofs(options.proofs)

    if folder is None:
        problems = verify_receipt(path, public_key)
    else:
        problems = verify_folder(folder, public_key, receipt_file=options.receipt)
    try:
        receipt = read_receipt(path)
    except ValueError:  # `problems` says why
        return _conclude(problems)
    _describe(receipt)
    if not signature_file(path).exists():
        print(UNSIGNED)
    elif public_key is None:
        print("Signed, but nobody checked by whom: give --public-key.")
    if private is not None:
        problems += _check_private(private, receipt)
        problems += [] if rows is None else _check_rows(private, rows)
    if proofs is not None:
        problems += _check_proofs(proofs, rows, receipt)
    return _conclude(problems)


def _find_folder(name: str) -> Path:
    """Return a folder as it is, or download a Hub repository at the commit that its revision has now.

    The commit comes from the Hub first, because the client library silently takes an older copy if the Hub does not answer.
    """
    name = located(name, "--folder")
    if os.path.isdir(name):
        return Path(name)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError

    source, _, revision = name.partition("@")
    try:
        commit = HfApi().repo_info(source, revision=revision or None, timeout=TIMEOUT).sha
        folder = Path(snapshot_download(source, revision=commit))
    except (HTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"`--folder={name!r}` is no folder, and its present files could not be loaded from the Hub: {error} Correct "
            "the name, or download the files and give their folder."
        ) from error
    print(f"{source} at commit {commit}.")
    return folder


def _load_rows(source: str) -> Any:
    """Load the rows of a file, a folder or a Hub id. They may name only files that came with them."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError

    from ..data.loading import load_rows

    try:
        rows = load_rows(source, "rows", "train")
    except (DatasetsError, HTTPError, ValueError, StopIteration) as error:
        cause = error.__cause__ or error  # `datasets` wraps the error
        raise ValueError(f"`--rows={source!r}` could not be read: {str(cause) or 'it is empty'}") from error
    if not len(rows):
        raise ValueError(f"`--rows={source!r}` holds no rows.")
    place = next((p for p in (Path(source), Path(source.partition(":")[0])) if p.exists()), None)
    cache = (constants.HF_HUB_CACHE, HF_DATASETS_CACHE)  # rows of the Hub are there
    try:
        refuse_other_files(rows, *(cache if place is None else (place if place.is_dir() else place.parent,)))
    except ValueError as error:
        raise ValueError(f"`--rows={source!r}`: {error}") from error
    return rows


def _load_proofs(path: Path) -> list[Any]:
    try:
        proofs = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`--proofs`: {path} is no JSON: {error}.") from error
    if not isinstance(proofs, list):
        raise ValueError(f"`--proofs`: {path} must hold a list, one proof for each row.")
    return proofs


def _describe(receipt: dict[str, Any]) -> None:
    rows, files = receipt["forgotten_rows"]["rows"], len(receipt["files"])
    print(f"Request {words(receipt['request']['id'])}: {words(rows)} rows, {files} files.")
    if receipt["covers"] is not None:
        print(f"The receipt covers {words(', '.join(map(str, receipt['covers'])))}, not the rest of the folder.")


def _check_private(private: ForgottenRows, receipt: dict[str, Any]) -> list[str]:
    published = receipt["forgotten_rows"]
    if (private.tree.root.hex(), len(private.leaves)) == (published["root"], published["rows"]):
        return []
    return [f"private file: its {len(private.leaves)} rows have another Merkle root than the receipt's"]


def _check_rows(private: ForgottenRows, rows: Any) -> list[str]:
    if sorted(rows.column_names) != private.columns:
        return [
            f"rows: they have columns {', '.join(map(words, rows.column_names))}, those of the request "
            f"{', '.join(map(words, private.columns))}: none of the rows was in the request"
        ]
    return _report([private.contains(digest, copy) for digest, copy in _numbered(rows)])


def _check_proofs(proofs: list[Any], rows: Any, receipt: dict[str, Any]) -> list[str]:
    if len(proofs) != len(rows):
        return [f"proofs: {len(proofs)} for {len(rows)} rows"]
    found, leaves = [], set()
    for digest, proof in zip(row_digests(rows), proofs, strict=True):
        shown = verify_inclusion(digest, proof, receipt)
        found.append(shown and proof["index"] not in leaves)  # each leaf proves only one row
        leaves |= {proof["index"]} if shown else set()
    return _report(found)


def _report(found: list[bool]) -> list[str]:
    if all(found):
        print(f"All {len(found)} rows were in the request.")
        return []
    missing = [str(i) for i, f in enumerate(found) if not f]
    named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
    return [f"rows: {len(missing)} of {len(found)} not shown to be in the request, numbers {named}"]


def _numbered(rows: Any) -> Iterator[tuple[bytes, int]]:
    """Yield the digest of every row, and how many equal rows stand before it."""
    copies: Counter[bytes] = Counter()
    for digest in row_digests(rows):
        yield digest, copies[digest]
        copies[digest] += 1


def _conclude(problems: list[str]) -> int:
    for problem in problems:
        shown = "".join(c if c.isprintable() else "?" for c in problem)  # a stranger may have named the files
        print(f"MISMATCH {shown}")
    print("All is as the receipt says." if not problems else f"{len(problems)} mismatches.")
    return int(bool(problems))


def _prove(options: argparse.Namespace) -> int:
    private, rows = ForgottenRows.load(options.private), _load_rows(options.rows)
    proofs = [private.prove(digest, copy) for digest, copy in _numbered(rows)]
    problems = _report([proof is not None for proof in proofs])
    if problems:
        return _conclude(problems)
    write_atomically(options.output, json.dumps(proofs, indent=1) + "\n", mode=0o600)
    print(f"Proofs in {options.output}")
    return 0


def _seal(options: argparse.Namespace) -> int:
    folder = local(options.folder, "--folder", folder=True)
    try:
        receipt = seal(folder, whole=not options.run_folder)
    except ValueError as error:
        raise ValueError(f"`--folder`: {error}. Give a folder that holds the receipt of a run.") from error
    print(f"Sealed: {len(receipt['files'])} files.")
    return 0


def _keygen(options: argparse.Namespace) -> int:
    try:
        with renamed({"key": "--output"}):
            public = generate_key(options.output)
    except OSError as error:
        raise ValueError(
            f"`--output={str(options.output)!r}` cannot be written: {error.strerror}. Choose another path."
        ) from error
    print(f"Private key in {options.output}, public key in {public}")
    return 0


def _sign(options: argparse.Namespace) -> int:
    try:
        read_receipt(options.receipt)
    except ValueError as error:
        raise ValueError(f"`--receipt`: {error}. Bring it up to date with `hf-unlearn receipt seal`.") from error
    print(f"Signature in {sign(options.receipt, options.key)}")
    return 0
