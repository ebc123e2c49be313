"""`hf-unlearn receipt verify | prove | seal | keygen | sign`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..hub.layout import RECEIPT
from ..hub.receipt.canonical_json import words
from ..hub.receipt.forgotten_rows import ForgottenRows, verify_inclusion
from ..hub.receipt.row_digest import refuse_other_files, row_digests
from ..hub.receipt.sealing import read_receipt, seal, verify_folder, verify_receipt
from ..hub.receipt.signing import generate_key, read_public_key, sign, signature_file
from ..utils.files import write_atomically
from ..utils.hub_names import TIMEOUT
from .exit_codes import answered

NAMED = 10  # rows that are named in a message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-unlearn receipt", description="Check, prove and sign deletion receipts.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, allow_abbrev=False)

    rows_help = "rows: a file, or a folder or Hub id with `:split`; all columns, as in the training set"
    verify = command(
        "verify", "Check a published folder against its receipt: 0 all is well, 1 a mismatch, 2 bad input."
    )
    verify.add_argument("--receipt", type=Path, help=f"the receipt (default: {RECEIPT} in the folder)")
    verify.add_argument("--folder", help="the published folder, or a Hub id, with `@revision`")
    verify.add_argument("--public-key", help="PEM file of the key that the receipt must be signed with")
    verify.add_argument("--private", help="the owner's private file: the Merkle root is checked against it")
    verify.add_argument("--proofs", type=Path, help="file of `prove`: what a third party is shown instead")
    verify.add_argument("--rows", help=f"with --private or --proofs, {rows_help}: whether each was in the request")
    prove = command("prove", "Write proofs that rows were in the request, for a third party, without the others.")
    prove.add_argument("--private", required=True, help="the owner's private file")
    prove.add_argument("--rows", required=True, help=rows_help)
    prove.add_argument("--output", required=True, type=Path, help="file of the proofs, one for each row in its order")
    sealer = command("seal", "Bring a receipt up to date with the files of its folder.")
    sealer.add_argument("--folder", required=True, help="the folder to publish, all of it")
    sealer.add_argument("--run-folder", action="store_true", help="a run's output folder: what it covers already")
    command("keygen", "Make an Ed25519 key, and the public one beside it as .pub.").add_argument(
        "--output", required=True, help="PEM file of the private key"
    )
    signer = command("sign", "Sign a receipt; the signature lies beside it as .sig.")
    signer.add_argument("--receipt", required=True, type=Path, help="the receipt, sealed")
    signer.add_argument("--key", required=True, help="PEM file of the private key")
    return parser


def main(words: Sequence[str]) -> int:
    """`hf-unlearn receipt`: 0 where all is well, 1 for a mismatch; other codes as in `exit_codes`."""
    steps = {"verify": _verify, "prove": _prove, "seal": _seal, "keygen": _keygen, "sign": _sign}

    def work() -> int:
        options = _parser().parse_args(list(words))
        return steps[options.command](options)

    return answered(work)


def _verify(options: argparse.Namespace) -> int:
    if options.receipt is None and options.folder is None:
        raise ValueError("`--folder` is missing (or `--receipt`, for a receipt alone).")
    if options.rows and not (options.private or options.proofs):
        raise ValueError("`--rows` needs `--private`, the owner's file, or `--proofs`.")
    if options.proofs and not options.rows:
        raise ValueError("`--proofs` needs `--rows`: the rows that they are of.")
    public_key = None if options.public_key is None else read_public_key(options.public_key)
    folder = None if options.folder is None else _find_folder(options.folder)
    path: Path = options.receipt or folder / RECEIPT  # type: ignore[operator]
    if not path.is_file():
        raise ValueError(f"`--receipt`: there is no {path}.")
    private = None if options.private is None else ForgottenRows.load(options.private)
    rows = None if options.rows is None else _load_rows(options.rows)
    proofs = None if options.proofs is None else _load_proofs(options.proofs)

    problems = (
        verify_receipt(path, public_key)
        if folder is None
        else verify_folder(folder, public_key, receipt_file=options.receipt)
    )
    try:
        receipt = read_receipt(path)
    except ValueError:  # among the problems already
        return _conclude(problems)
    _describe(receipt, path, signed=signature_file(path).exists(), trusted=public_key is not None)
    if private is not None:
        problems += _check_private(private, receipt)
    if rows is not None and private is not None:
        problems += _check_rows(private, rows)
    if rows is not None and proofs is not None:
        problems += _check_proofs(proofs, rows, receipt)
    return _conclude(problems)


def _find_folder(name: str) -> Path:
    """A folder, or the files of a Hub repository at the commit that its revision stands for now.

    The commit is asked of the Hub first: the client library would take a copy from before without a word where the Hub is out of
    reach.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError

    source, _, revision = name.partition("@")
    try:
        commit = HfApi().repo_info(source, revision=revision or None, timeout=TIMEOUT).sha
        folder = Path(snapshot_download(source, revision=commit))
    except (HTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"`--folder={name!r}` is no folder, and what the Hub holds under this name now could not be had: {error}"
        ) from error
    print(f"{source} at commit {commit}.")
    return folder


def _load_rows(source: str) -> Any:
    """The rows of a file, a folder or a Hub id, which name no files but those that came with them."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError

    from ..data.loading import load_rows

    try:
        rows = load_rows(source, "rows", "train")
    except (DatasetsError, HTTPError, ValueError, StopIteration) as error:
        cause = error.__cause__ or error  # of what `datasets` raises
        raise ValueError(f"`--rows={source!r}` could not be read: {str(cause) or 'it is empty'}") from error
    if not len(rows):
        raise ValueError(f"`--rows={source!r}` holds no rows.")
    place = next((p for p in (Path(source), Path(source.partition(":")[0])) if p.exists()), None)
    if place is None:  # from the Hub
        folders: list[str | Path] = [constants.HF_HUB_CACHE, HF_DATASETS_CACHE]
    else:
        folders = [place if place.is_dir() else place.parent]
    try:
        refuse_other_files(rows, *folders)
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


def _describe(receipt: dict[str, Any], path: Path, signed: bool, trusted: bool) -> None:
    request = receipt["request"]
    print(
        f"Request {words(request['id'])}: {words(receipt['forgotten_rows']['rows'])} rows, {len(receipt['files'])} files."
    )
    if receipt["covers"] is not None:
        print(f"The receipt covers {words(', '.join(map(str, receipt['covers'])))}, not the rest of the folder.")
    if not signed:
        print("Not signed: the digests find accidents, and no one who would write another receipt.")
    elif not trusted:
        print("Signed, by whom is not checked: give --public-key.")


def _check_private(private: ForgottenRows, receipt: dict[str, Any]) -> list[str]:
    published = receipt["forgotten_rows"]
    if (private.tree.root.hex(), len(private.leaves)) == (published["root"], published["rows"]):
        return []
    return [f"private file: its {len(private.leaves)} rows have another Merkle root than the receipt's"]


def _check_rows(private: ForgottenRows, rows: Any) -> list[str]:
    if sorted(rows.column_names) != private.columns:
        return [
            f"rows: they have columns {', '.join(map(words, rows.column_names))}, those of the request "
            f"{', '.join(map(words, private.columns))}: none of them was in it"
        ]
    return _tell([private.contains(digest, copy) for digest, copy in _numbered(rows)])


def _check_proofs(proofs: list[Any], rows: Any, receipt: dict[str, Any]) -> list[str]:
    if len(proofs) != len(rows):
        return [f"proofs: {len(proofs)} for {len(rows)} rows"]
    found, leaves = [], set()
    for digest, proof in zip(row_digests(rows), proofs, strict=True):
        shown = verify_inclusion(digest, proof, receipt)
        found.append(shown and proof["index"] not in leaves)  # a leaf stands for one row
        leaves |= {proof["index"]} if shown else set()
    return _tell(found)


def _tell(found: list[bool]) -> list[str]:
    if all(found):
        print(f"All {len(found)} rows were in the request.")
        return []
    missing = [str(i) for i, f in enumerate(found) if not f]
    named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
    return [f"rows: {len(missing)} of {len(found)} not shown to be in the request, numbers {named}"]


def _numbered(rows: Any) -> Iterator[tuple[bytes, int]]:
    """The digest of every row, and how many rows before it are equal."""
    copies: Counter[bytes] = Counter()
    for digest in row_digests(rows):
        yield digest, copies[digest]
        copies[digest] += 1


def _conclude(problems: list[str]) -> int:
    for problem in problems:
        shown = "".join(c if c.isprintable() else "?" for c in problem)  # names of files may be anyone's
        print(f"MISMATCH {shown}")
    print("All is as the receipt says." if not problems else f"{len(problems)} mismatches.")
    return int(bool(problems))


def _prove(options: argparse.Namespace) -> int:
    private, rows = ForgottenRows.load(options.private), _load_rows(options.rows)
    proofs = [private.prove(digest, copy) for digest, copy in _numbered(rows)]
    problems = _tell([proof is not None for proof in proofs])
    if problems:
        return _conclude(problems)
    write_atomically(options.output, json.dumps(proofs, indent=1) + "\n", mode=0o600)
    print(f"Proofs in {options.output}")
    return 0


def _seal(options: argparse.Namespace) -> int:
    receipt = seal(options.folder, whole=not options.run_folder)
    print(f"Sealed: {len(receipt['files'])} files.")
    return 0


def _keygen(options: argparse.Namespace) -> int:
    print(f"Private key in {options.output}, public key in {generate_key(options.output)}")
    return 0


def _sign(options: argparse.Namespace) -> int:
    read_receipt(options.receipt)
    print(f"Signature in {sign(options.receipt, options.key)}")
    return 0
