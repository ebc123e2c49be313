"""The staging folder: the part of a run that is published, without pickles, private files and local paths."""

import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...evaluation.report.report import UnlearningReport
from ...evaluation.report.report_data import REPORT_SCHEMA
from ...models.sharded_classifier import SHARD, Sharding
from ...training.outcome import UNCHANGED
from ...utils.files import front_matter, read_object, write_atomically
from ...utils.hub_names import HUB_ID, is_local
from ...utils.safe_text import visible
from ..card.evaluation_card import card_of, is_rendered, write_plain_card
from ..layout import (
    ADAPTER_CONFIG,
    AUDIT,
    CARD,
    EVIDENCE,
    MODEL,
    OURS,
    PAGE,
    RECEIPT,
    REPORT,
    SHARDING,
    VOCABULARY,
    is_publishable,
)
from ..receipt.sealing import changed_weights, seal
from ..receipt.signing import sign, signature_file
from .cleaning import check_private, clean_tensors, without_paths, without_values

logger = logging.getLogger(__name__)
LOCAL_STATE = ("is_local", "local_files_only")  # what a tokenizer remembers of the folder that it was loaded from


@dataclass(frozen=True)
class Staged:
    """A folder ready to push.

    Attributes:
        folder: its files lie as they will on the Hub.
        left_out: names of the files and folders of the run that are not in it.
        original: Hub id and commit of the model that was unlearned, each None if unknown.
    """

    folder: Path
    left_out: list[str]
    original: tuple[str | None, str | None]


def inventory(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of `folder` that may be published, and the files and folders that may not, both sorted."""
    taken = sorted(
        name
        for path in (*folder.glob("*"), *folder.glob("figures/*"), *folder.glob("shard-*/*"))
        if path.is_file() and is_publishable(name := path.relative_to(folder).as_posix())
    )
    shards = {f"{name.partition('/')[0]}/" for name in taken if name.startswith("shard-")}
    others = {f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir()} - {*taken, *shards, "figures/"}
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
    """Yield a temporary folder with model, card, report, figures and receipt of a run, as they will lie on the Hub.

    The run's own files stay as they are: weights that need no change are linked, other files are copied and cleaned.

    Args:
        run_folder: output folder of `hf-unlearn run` (`model/`, `report.json`, ...), or the folder of a model.
        base_model: Hub id of the model that was unlearned. Needed if a local copy of it was used (default None).
        note: a first paragraph for the card of an unfinished run, which shows no evaluation (default none).
        card: fields of the card's front matter (default none).
        sign_key: PEM file of the Ed25519 key that signs the receipt. None (default): the receipt is not signed.
        repo_id: where the folder will be on the Hub, for the card (default None).
        license_there: returns the license of the repository, for a card without another license (default None).

    Raises:
        ValueError: there is no whole model in safetensors, the base of an adapter is a local folder, a file holds a path
            of this machine or a token, or the receipt is of another model.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise ValueError(f"`run_folder`: there is no folder {run_folder}.")
    if base_model is not None and is_local(base_model):
        raise ValueError(
            f"`base_model={visible(base_model)!r}` is a folder, or no name on the Hub, so nobody else could find it. Give the "
            "base as owner/name (in Python `finetuned_from`)."
        )
    _remove_stale(run_folder)
    source = run_folder / "model" if (run_folder / "model").is_dir() else run_folder
    model, unpublished = inventory(source)
    model = [name for name in model if MODEL.fullmatch(name)]
    if not model and UNCHANGED in (_part(_read(run_folder / REPORT), "outcome", REPORT).get("warnings") or ()):
        raise ValueError(
            f"`run_folder`: {run_folder} holds no model to push, because its run ended with the original. Run again with another "
            "method, or with a smaller `trust_region` or `learning_rate`."
        )
    _check_model(source, model)
    evidence, others = inventory(run_folder)
    # The page is made again from the cleaned report: the run's own names what is private.
    evidence = [name for name in evidence if EVIDENCE.fullmatch(name) and name != PAGE]
    measured = not note and _read(run_folder / REPORT).get("schema") == REPORT_SCHEMA
    pages = {PAGE} if measured else set()
    others = sorted({*others, PAGE} if not measured and (run_folder / PAGE).exists() else others)
    left_out = sorted(
        {*others, *unpublished} - {"model/", *evidence, *pages, *(p.name for p in run_folder.glob(".push-*"))}
    )
    parent = run_folder if os.access(run_folder, os.W_OK) else None  # on the same disk weights can be linked
    folder = Path(tempfile.mkdtemp(prefix=f".push-{platform.node()}-{os.getpid()}-", dir=parent))
    try:
        for origin, names in ((source, model), (run_folder, evidence)):
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                _place(origin / name, folder / name)
        if ADAPTER_CONFIG in model:
            _set_base(folder / ADAPTER_CONFIG, base_model, _find_original(folder))
        original = _find_original(folder)
        if original[0] is None:
            original = (base_model, None)
        _write_card(folder, run_folder, original[0], measured, note, card or {}, repo_id, license_there)
        if measured:
            _write_page(folder)
        check_private(folder, inventory(folder)[0], run_folder)
        for caution in _part(_read(folder / REPORT), "outcome", REPORT).get("cautions") or ():
            logger.warning("%s.", visible(str(caution)))
        if RECEIPT in evidence:
            _seal(folder, run_folder, sign_key)
        elif sign_key is not None:
            raise ValueError(f"`sign_key`: there is no {RECEIPT} in {run_folder} to sign.")
        yield Staged(folder, left_out, original)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(run_folder: Path) -> None:
    """Remove the staging folders of killed pushes from this machine. Their names hold host name and process id."""
    for folder in run_folder.glob(f".push-{platform.node()}-*-*"):
        number = folder.name.removeprefix(f".push-{platform.node()}-").partition("-")[0]
        try:
            os.kill(int(number), 0)  # sends nothing, but raises if there is no such process
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, OverflowError, ValueError):
            continue  # the process of another user is alive, or the name is of something else


def _check_model(folder: Path, names: list[str]) -> None:
    """Raise ValueError if the files `names` of `folder` are not one whole model or adapter in safetensors."""
    if SHARDING in names:
        _check_shards(folder, names)
        return
    if not {"config.json", ADAPTER_CONFIG} & {*names} or not any(n.endswith(".safetensors") for n in names):
        raise ValueError(
            f"`run_folder`: {folder} holds no model to push: it needs config.json (or {ADAPTER_CONFIG}) and weights as *.safetensors. "
            "Give the output folder of a run, or save the model with `save_pretrained`."
        )
    if any(folder.glob(f"patch*/{ADAPTER_CONFIG}")):
        raise ValueError(
            f"`run_folder`: {folder} holds patches stacked on each other. Whoever loads it from the Hub gets only the first, without "
            "what the others forget. Load it with `hf_unlearn.models.adapters.load_patches`, merge it (`merge_and_unload()`), and "
            "push the merged model."
        )
    for index in (n for n in names if n.endswith(".index.json")):
        files = _part(_read(folder / index), "weight_map", index).values()
        if not files or not all(isinstance(file, str) for file in files):
            raise ValueError(f"`run_folder`: {index} is malformed: `weight_map` names no files. Save the whole model.")
        missing = {*files} - {*names}
        if missing:
            raise ValueError(f"`run_folder`: {folder} lacks {min(missing)}, which {index} names. Save the whole model.")


def _check_shards(folder: Path, names: list[str]) -> None:
    """Raise ValueError if a shard is missing, or the base of the shards cannot be found on the Hub."""
    try:
        sharding = Sharding.load(folder / SHARDING)
    except ValueError as error:
        raise ValueError(f"`run_folder`: {error}") from error
    needed = {
        f"{SHARD.format(i)}/{name}" for i in sharding.present for name in (ADAPTER_CONFIG, "adapter_model.safetensors")
    }
    if missing := needed - {*names}:
        raise ValueError(f"`run_folder`: {folder} lacks {min(missing)}. Copy the version again, as a whole.")
    if is_local(sharding.base):
        raise ValueError(
            f"`run_folder`: the base of the shards in {folder} is a local folder, and nobody else can load the shards without it, or tell what "
            "it has seen. Train the shards on a base on the Hub."
        )


def _find_original(folder: Path) -> tuple[str | None, str | None]:
    """Return Hub id and commit of the original, from the report, the adapter's base or the configuration."""
    reported = _part(_part(_read(folder / REPORT), "run", REPORT), "original", REPORT)
    adapter, config = _read(folder / ADAPTER_CONFIG), _read(folder / "config.json")
    if (folder / SHARDING).is_file():
        sharding = Sharding.load(folder / SHARDING)
        return sharding.base, sharding.base_revision
    sources = ((REPORT, "id", reported), (ADAPTER_CONFIG, "base_model_name_or_path", adapter))
    for file, key, found in (*sources, ("config.json", "_name_or_path", config)):
        name, revision = found.get(key), found.get("revision") if found is not config else None
        if not (isinstance(name, str | None) and isinstance(revision, str | None)):
            raise ValueError(f"{file} is malformed: `{key}` and `revision` must be texts.")
        if name and (HUB_ID.fullmatch(name) if found is reported else not is_local(name)):
            return name, revision
    return None, None


def _part(content: Mapping[str, Any], key: str, file: str) -> dict[str, Any]:
    """Return the object at `key`, {} if there is none. Raises ValueError for anything else."""
    part = content.get(key, {})
    if part is None and key == "original":  # the report does not know it
        return {}
    if not isinstance(part, dict):
        raise ValueError(f"{file} is malformed: `{key}` must be an object.")
    return part


def _write_card(
    folder: Path,
    run_folder: Path,
    original: str | None,
    measured: bool,
    note: str,
    card: Mapping[str, Any],
    repo_id: str | None,
    license_there: Callable[[], Any] | None,
) -> None:
    """Write the card, unless somebody wrote or edited the card in `folder`.

    If the run was `measured`, it is the evaluation card, rendered again from report, audit and receipt.
    """
    report = _read(run_folder / REPORT)
    if (folder / CARD).is_file() and not (measured and is_rendered((folder / CARD).read_text("utf-8", "replace"))):
        verdict = str(_read(run_folder / AUDIT).get("verdict") or "")
        is_ours = OURS in (front_matter(folder / CARD).get("tags") or ())
        if is_ours and verdict.lower() not in (folder / CARD).read_text().lower():
            logger.warning(
                f"{CARD} was edited by hand and stays as it is, without what {AUDIT} says: %s. Write that into it, or remove it for a new one.",
                visible(verdict),
            )
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


def _write_page(folder: Path) -> None:
    """Write the report in `folder`, which is cleaned, as a page, with its figures if matplotlib is at hand."""
    try:
        report = UnlearningReport.from_dict(_read(folder / REPORT))
        page = report.to_html(figures=find_spec("matplotlib") is not None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{REPORT} is malformed, so no page can be made from it: {visible(str(error))}") from error
    write_atomically(folder / PAGE, page)


def _seal(folder: Path, run_folder: Path, sign_key: str | Path | None) -> None:
    """Seal the receipt over the files as they are published, cleaned and with their card, and sign it."""
    if changed := changed_weights(run_folder):
        raise ValueError(
            f"`run_folder`: {RECEIPT} is not of the weights there: {changed[0]} differs. Push the folder of the run that the receipt "
            "is of, or remove the receipt to push the model without one."
        )
    signed = signature_file(folder / RECEIPT).exists()
    seal(folder)
    if sign_key is not None:
        sign(folder / RECEIPT, sign_key)
    elif signed and not signature_file(folder / RECEIPT).exists():
        logger.warning("The signature is not published: the receipt was sealed again after it. Sign with `--sign-key`.")


def _place(source: Path, target: Path) -> None:
    """Put `source` at `target`: cleaned if it holds a path, else linked (weights) or copied."""
    if source.suffix == ".safetensors":
        if clean_tensors(source, target):
            logger.info("%s: the notes in its header are left out of the published copy.", source.name)
            return
        with suppress(OSError):  # not every disk can link; small files are copied, so that nobody writes through a link
            os.link(source.resolve(), target)
            return
    elif source.suffix == ".json" and not VOCABULARY.fullmatch(source.name) and source.name != RECEIPT:
        content = _read(source)
        cleaned = without_paths({k: v for k, v in content.items() if k not in LOCAL_STATE})
        if source.name == REPORT:
            cleaned = without_values(cleaned)
        if source.name == ADAPTER_CONFIG:  # `_set_base` replaces the base, or refuses a local one
            cleaned["base_model_name_or_path"] = content.get("base_model_name_or_path")
        if cleaned != content:
            logger.info("%s: local paths and names of groups are left out of the published copy.", source.name)
            write_atomically(target, json.dumps(cleaned, indent=2) + "\n")
            return
    shutil.copyfile(source, target)


def _set_base(path: Path, base_model: str | None, original: tuple[str | None, str | None]) -> None:
    """Write the Hub id of an adapter's base, and its commit if known, into the adapter's configuration."""
    adapter = _read(path)
    base = base_model or adapter.get("base_model_name_or_path") or ""  # `_find_original` has checked that it is a text
    if is_local(base):
        raise ValueError(
            "`base_model`: unknown base: the adapter names a local folder as its base model, and nobody can load the adapter without "
            "that model. Push the base, or find it on the Hub, and give its id: --base-model org/model (in Python `finetuned_from`)."
        )
    commit = original[1] if base == original[0] else None
    changed = {**adapter, "base_model_name_or_path": base, "revision": adapter.get("revision") or commit}
    if changed != adapter:
        write_atomically(path, json.dumps(changed, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} if there is no such file. Raises ValueError as `read_object`."""
    return read_object(path) or {}
