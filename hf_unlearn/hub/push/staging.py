"""The folder that is published: what of a run belongs on the Hub, without pickles, private files and paths of this machine."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...evaluation.report.report_data import REPORT_SCHEMA
from ...utils.files import front_matter, read_object, write_atomically
from ...utils.hub_names import HUB_ID, is_local
from ...utils.safe_text import visible
from ..card.evaluation_card import card_of, is_rendered, write_plain_card
from ..layout import ADAPTER_CONFIG, AUDIT, CARD, EVIDENCE, MODEL, RECEIPT, REPORT, VOCABULARY, is_publishable
from ..receipt.sealing import changed_weights, seal
from ..receipt.signing import sign, signature_file
from .cleaning import Secrets, clean_tensors, without_paths, without_values
from .target_names import check_base

logger = logging.getLogger(__name__)
LOCAL_STATE = ("is_local", "local_files_only")  # a tokenizer's memory of where it was loaded from


@dataclass(frozen=True)
class Staged:
    """A folder ready to push.

    Attributes:
        folder: laid out as on the Hub.
        left_out: names of what of the run is not in it.
        original: Hub id and commit of the model that was unlearned, each None where unknown.
    """

    folder: Path
    left_out: list[str]
    original: tuple[str | None, str | None]


def inventory(folder: Path) -> tuple[list[str], list[str]]:
    """Files of `folder` that may be published, and names of the files and folders that may not, both sorted."""
    taken = sorted(
        name
        for path in (*folder.glob("*"), *folder.glob("figures/*"))
        if path.is_file() and is_publishable(name := path.relative_to(folder).as_posix())
    )
    others = {f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir()} - {*taken, "figures/"}
    others |= {p.relative_to(folder).as_posix() for p in folder.glob("figures/*")} - {*taken}
    return taken, sorted(others)


@contextmanager
def prepare_folder(
    run_folder: str | Path,
    *,
    base_model: str | None = None,
    note: str = "",
    card: Mapping[str, Any] | None = None,
    sign_key: str | Path | None = None,
    repo_id: str | None = None,
    license_there: Callable[[], Any] | None = None,
) -> Iterator[Staged]:
    """A temporary folder with model, card, report, figures and receipt of a run, as they will lie on the Hub.

    The run's own files stay as they are: those that need no change are linked, the others copied and cleaned.

    Args:
        run_folder: what `hf-unlearn run` wrote (`model/`, `report.json`, ...), or the folder of a model.
        base_model: Hub id of the model that was unlearned, if that was done on a local copy.
        note, card: a first paragraph, and fields of the front matter, of a card that is written here.
        sign_key: PEM file of the Ed25519 key that the receipt, sealed over what is in the folder, is signed with.
        repo_id: where the folder will be, for the card.
        license_there: asked for the licence that a card written here names, if no other is known.

    Raises:
        ValueError: there is no whole model in safetensors, the base of an adapter is a local folder, a file names a path of
            this machine or a token, or the receipt is of another model.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise ValueError(f"`run_folder`: there is no folder {run_folder}.")
    check_base(base_model)
    _remove_stale(run_folder)
    source = run_folder / "model" if (run_folder / "model").is_dir() else run_folder
    model, rest = inventory(source)
    model = [name for name in model if MODEL.fullmatch(name)]
    check_model(source, model)
    evidence, others = inventory(run_folder)
    evidence = [name for name in evidence if EVIDENCE.fullmatch(name)]
    left_out = sorted({*others, *rest} - {"model/", *evidence, *(p.name for p in run_folder.glob(".push-*"))})
    beside = run_folder if os.access(run_folder, os.W_OK) else None  # there a link costs no space
    folder = Path(tempfile.mkdtemp(prefix=f".push-{platform.node()}-{os.getpid()}-", dir=beside))
    try:
        for origin, names in ((source, model), (run_folder, evidence)):
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                _place(origin / name, folder / name)
        if ADAPTER_CONFIG in model:
            _set_base(folder / ADAPTER_CONFIG, base_model, find_original(folder))
        original = find_original(folder)
        if original[0] is None and base_model:
            original = (base_model, None)
        complete(folder, run_folder, original[0], note, card or {}, repo_id, license_there)
        check_private(folder, run_folder)
        if RECEIPT in evidence:
            _seal(folder, run_folder, sign_key)
        elif sign_key is not None:
            raise ValueError(f"`sign_key`: there is no {RECEIPT} in {run_folder} to sign.")
        yield Staged(folder, left_out, original)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(run_folder: Path) -> None:
    """Remove what pushes from this machine left that were killed."""
    for folder in run_folder.glob(f".push-{platform.node()}-*-*"):
        number = folder.name.removeprefix(f".push-{platform.node()}-").partition("-")[0]
        try:
            if number.isdigit():
                os.kill(int(number), 0)  # asks whether there is such a process
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, OverflowError):
            continue  # somebody else's, and alive


def check_model(folder: Path, names: list[str]) -> None:
    """Raise ValueError where `names` of `folder` are no whole model or adapter in safetensors."""
    if not {"config.json", ADAPTER_CONFIG} & {*names} or not any(n.endswith(".safetensors") for n in names):
        raise ValueError(
            f"`run_folder`: {folder} holds no model to push: it needs config.json (or {ADAPTER_CONFIG}) and weights as *.safetensors. "
            "Give the output folder of a run, or save the model with `save_pretrained`."
        )
    if any(folder.glob(f"patch*/{ADAPTER_CONFIG}")):
        raise ValueError(
            f"`run_folder`: {folder} holds patches stacked on each other, and whoever loads it from the Hub gets the first alone, "
            "without what the others forget. Load it with `hf_unlearn.models.adapters.load_patches`, merge it (`merge_and_unload()`), and "
            "push the merged model."
        )
    for index in (n for n in names if n.endswith(".index.json")):
        files = _part(_read(folder / index), "weight_map", index).values()
        if not files or not all(isinstance(file, str) for file in files):
            raise ValueError(
                f"`run_folder`: {index} is malformed: its `weight_map` names no files. Save the whole model."
            )
        missing = {*files} - {*names}
        if missing:
            raise ValueError(f"`run_folder`: {folder} lacks {min(missing)}, which {index} names. Save the whole model.")


def find_original(folder: Path) -> tuple[str | None, str | None]:
    """Hub id and commit of the model that was unlearned: from the report, the adapter's base, or the configuration."""
    told = _part(_part(_read(folder / REPORT), "run", REPORT), "original", REPORT)
    adapter, config = _read(folder / ADAPTER_CONFIG), _read(folder / "config.json")
    for found, key, file in (
        (told, "id", REPORT),
        (adapter, "base_model_name_or_path", ADAPTER_CONFIG),
        (config, "_name_or_path", "config.json"),
    ):
        name, revision = found.get(key), found.get("revision") if found is not config else None
        if not (isinstance(name, str | None) and isinstance(revision, str | None)):
            raise ValueError(f"{file} is malformed: `{key}` and `revision` must be texts.")
        if name and (HUB_ID.fullmatch(name) if found is told else not is_local(name)):
            return name, revision
    return None, None


def _part(content: Mapping[str, Any], key: str, file: str) -> dict[str, Any]:
    """The object at `key`, empty where there is none. Raises ValueError for anything else."""
    part = content.get(key, {})
    if part is None and key == "original":  # not known
        return {}
    if not isinstance(part, dict):
        raise ValueError(f"{file} is malformed: `{key}` must be an object.")
    return part


def complete(
    folder: Path,
    run_folder: Path,
    original: str | None,
    note: str,
    card: Mapping[str, Any],
    repo_id: str | None = None,
    license_there: Callable[[], Any] | None = None,
) -> None:
    """Write the card, unless somebody wrote or edited the one that is there.

    With a report it is the evaluation card, as report, audit and receipt are now, which then says where the model is; a `note`
    is for a model that was not measured.
    """
    report = _read(run_folder / REPORT)
    measured = not note and report.get("schema") == REPORT_SCHEMA
    if (folder / CARD).is_file() and not (measured and is_rendered((folder / CARD).read_text("utf-8", "replace"))):
        _tell_of_audit(folder / CARD, run_folder)
        return
    known = _part(_part(report, "run", REPORT), "original_card", REPORT) if measured else {}
    if license_there is not None and not (card.get("license") or known.get("license")):
        card = {**card, "license": license_there()}
    if measured:
        fields = {"base_model": original, **card}
        write_atomically(folder / CARD, card_of(run_folder, repo_id=repo_id, fields=fields))
        return
    table = run_folder / "report.md"
    write_plain_card(folder, original, table.read_text() if table.is_file() else "", note, card)


def _tell_of_audit(card: Path, run_folder: Path) -> None:
    """Log where a card of ours that was edited by hand does not tell the verdict of the audit beside it."""
    verdict = str(_read(run_folder / AUDIT).get("verdict") or "")
    if "hf_unlearn" in (front_matter(card).get("tags") or ()) and verdict.lower() not in card.read_text().lower():
        logger.warning(
            "%s was edited by hand and stays as it is, without what %s says: %s. Write that into it, or remove it for a new one.",
            CARD, AUDIT, visible(verdict),
        )  # fmt: skip


def check_private(folder: Path, run_folder: Path) -> None:
    """Raise ValueError where a text to be published names a folder of this machine or a token."""
    secrets = Secrets(run_folder)
    for name in inventory(folder)[0]:
        if name.endswith((".safetensors", ".png")) or VOCABULARY.fullmatch(name):
            continue
        if secrets.are_in(folder / name):
            raise ValueError(
                f"{name} holds a path of this machine or a token, so it is not published. Remove it there."
            )


def _seal(folder: Path, run_folder: Path, sign_key: str | Path | None) -> None:
    """The receipt over the files as they are published, cleaned and with their card."""
    changed = changed_weights(run_folder)
    if changed:
        raise ValueError(
            f"`run_folder`: {RECEIPT} is not of the weights there: {changed[0]} differs. Push the folder of the run that it is of, "
            "or remove it to push the model without a receipt."
        )
    signed = signature_file(folder / RECEIPT).exists()
    seal(folder)
    if sign_key is not None:
        sign(folder / RECEIPT, sign_key)
    elif signed and not signature_file(folder / RECEIPT).exists():
        logger.warning(
            "The signature is not published: it is of the receipt before its last seal. Sign with `--sign-key`."
        )


def _place(source: Path, target: Path) -> None:
    """`source` as `target`: cleaned where it holds a path, else linked, or copied where files cannot be linked."""
    if source.suffix == ".json" and not VOCABULARY.fullmatch(source.name) and source.name != RECEIPT:
        content = _read(source)
        cleaned = without_paths({k: v for k, v in content.items() if k not in LOCAL_STATE})
        if source.name == REPORT:
            cleaned = without_values(cleaned)
        if source.name == ADAPTER_CONFIG:  # what becomes of its base is decided later, and said
            cleaned["base_model_name_or_path"] = content.get("base_model_name_or_path")
        if cleaned != content:
            logger.info("%s: local paths and names of groups are left out of the published copy.", source.name)
            write_atomically(target, json.dumps(cleaned, indent=2) + "\n")
            return
    elif source.suffix == ".safetensors" and clean_tensors(source, target):
        logger.info("%s: the notes in its header are left out of the published copy.", source.name)
        return
    try:
        if source.suffix != ".safetensors":
            raise OSError("small files are copied, so that nobody writes through a link")
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _set_base(path: Path, base_model: str | None, original: tuple[str | None, str | None]) -> None:
    """Name the base of an adapter by its Hub id, and by its commit where that is known."""
    adapter = _read(path)
    base = base_model or adapter.get("base_model_name_or_path") or ""  # a text, `find_original` has seen to that
    if is_local(base):
        raise ValueError(
            "`base_model`: unknown base: the adapter names a local folder as the model it belongs to, and without that model "
            "nobody can load it. Push the base, or find it on the Hub, and give its id: --base-model org/model (in Python `finetuned_from`)."
        )
    commit = original[1] if base == original[0] else None
    changed = {**adapter, "base_model_name_or_path": base, "revision": adapter.get("revision") or commit}
    if changed != adapter:
        write_atomically(path, json.dumps(changed, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no such file. Raises ValueError as `read_object`."""
    return read_object(path) or {}
