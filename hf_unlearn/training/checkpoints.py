"""Checkpoints that never lie: each is written aside, sealed with a digest of every file, and then renamed into its place.

A process that is killed at any moment leaves whole checkpoints only. What was damaged afterwards is found before it is used:
`last_checkpoint` passes over it, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..utils.files import file_digest, write_atomically

logger = logging.getLogger(__name__)

STATE_FILE = "unlearning_state.json"  # in a checkpoint, written last
FINISHED = ".finished.json"  # beside the model that a run ended with: `model.finished.json`
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
ASIDE = "_partial"  # in the output folder, where what is not whole lives; a push to the Hub leaves out `_*`


# --- sealing ----------------------------------------------------------------------------------------------------------


def _digest(content: Mapping[str, Any]) -> str:
    return _short(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _short(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def seal_checkpoint(folder: Path, state: Mapping[str, Any], record: Path | None = None) -> None:
    """Write `state` with size and digest of every file in `folder`, and its own digest, to `record` (`STATE_FILE` in it)."""
    record = folder / STATE_FILE if record is None else record
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p != record)
    files = {str(p.relative_to(folder)): [p.stat().st_size, file_digest(p, _short)] for p in found}
    content = {**state, "files": files}
    write_atomically(record, json.dumps({**content, "digest": _digest(content)}))


def finished_marker(model: Path) -> Path:
    """Where it is written that a run ended with the model in a folder: beside it."""
    model = model.absolute()  # "." has no name
    return model.with_name(model.name + FINISHED)


def _record(folder: Path) -> Path:
    """Where a checkpoint, or a finished model, has its seal."""
    inside = folder / STATE_FILE
    return inside if inside.exists() else finished_marker(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """What was sealed with a checkpoint or a finished model.

    Raises:
        ValueError: there is no seal, or it is damaged; the message says which.
    """
    record = _record(folder)
    if not record.is_file():
        raise ValueError(f"it has no {STATE_FILE}, so its writing was cut off, or another trainer wrote it")
    try:
        content = json.loads(record.read_text())
        whole = content.pop("digest") == _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{record.name} is damaged")
    return content


def find_damage(folder: Path) -> str:
    """What is wrong with a checkpoint or finished model, naming the file; empty where every byte is as it was sealed."""
    try:
        files = read_state(folder)["files"]
    except ValueError as error:
        return str(error)
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if file_digest(path, _short) != digest:
            return f"{name} does not hold the bytes that were written"
    return ""


# --- finding ----------------------------------------------------------------------------------------------------------


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    found = [p for p in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.is_dir() and NAME.fullmatch(p.name)]
    return sorted(found, key=_step, reverse=True)


def resumable(folder: str | Path) -> list[Path]:
    """What there is to resume from in an output folder, not looked into yet: the finished model, checkpoints from the newest."""
    folder = Path(folder)
    _rescue(folder)
    finished = [p for p in (folder / "model", folder) if p.is_dir() and _record(p).is_file()]
    return [*finished, *_checkpoints(folder)]


def _rescue(folder: Path) -> None:
    """What was sealed is whole: killed just before it was moved to its place, it is moved there now."""
    for staged in (folder / ASIDE).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        place = folder / staged.name
        if not place.exists() and not find_damage(staged):
            with suppress(FileNotFoundError):  # another process was first
                os.replace(staged, place)


def last_checkpoint(folder: str | Path) -> Path:
    """The newest whole checkpoint in `folder`, or the model that a finished run left; warns about what it passes over.

    Raises:
        ValueError: there is none.
    """
    passed_over = []
    for place in resumable(folder):
        wrong = _unfit(place)
        if not wrong:
            return place
        logger.warning("%s is passed over: %s.", place, wrong)
        passed_over.append(f"{place.name}: {wrong}")
    why = f" ({'; '.join(passed_over)}). Start anew with `overwrite=True`." if passed_over else ". Start without it."
    raise ValueError(f"`resume_from_checkpoint`: no whole checkpoint in {folder}{why}")


def chosen_checkpoint(asked: str | os.PathLike[str] | bool | None, folder: str) -> Path | None:
    """What `resume_from_checkpoint` asks for: True is the last whole checkpoint in `folder`; None is none.

    Raises:
        ValueError: there is none, or the one that is named is damaged.
    """
    if asked is True:
        return last_checkpoint(folder)
    if not asked:
        return None
    named = Path(asked)
    if not (wrong := _unfit(named)):
        return named
    earlier = [p for p in _checkpoints(named.parent) if NAME.fullmatch(named.name) and _step(p) < _step(named)]
    good = next((p for p in earlier if not _unfit(p)), None)
    raise ValueError(
        f"`resume_from_checkpoint={str(asked)!r}` cannot be used: {wrong}. "
        + (f"The last good one before it is {good}." if good else "No good one before it is beside it: start anew.")
    )


def check_best(checkpoint: str) -> Path:
    """The checkpoint that `load_best_model_at_end` is about to load.

    Raises:
        ValueError: it is damaged.
    """
    wrong = find_damage(Path(checkpoint)) if Path(checkpoint).is_dir() else "there is no such folder"
    if wrong:
        raise ValueError(
            f"`load_best_model_at_end`: the best checkpoint, {checkpoint}, cannot be used: {wrong}. Resume without that "
            "argument to end with the last weights."
        )
    return Path(checkpoint)


def resume_hint(stop: KeyboardInterrupt, folder: Path | None) -> str:
    """What to tell at the command line after an interrupt; empty where there is nothing to resume from."""
    if str(stop):
        return f"{stop} with --resume true."
    return "Go on with --resume true." if folder is not None and any(not _unfit(p) for p in resumable(folder)) else ""


def _unfit(place: Path) -> str:
    """Why a run cannot be resumed from `place`; empty where it can."""
    if not place.is_dir():
        return "there is no such folder"
    if wrong := find_damage(place):
        return wrong
    if read_state(place)["model_only"]:
        return "`save_only_model=True` left out the optimiser and the random numbers, so that a resumed run would be another"
    return ""


# --- writing ----------------------------------------------------------------------------------------------------------


def is_checkpoint(folder: Path) -> bool:
    """Whether there is all that a run goes on from, and not a finished model alone."""
    return (folder / STATE_FILE).is_file()


def is_inside(place: Path | None, folder: str | Path) -> bool:
    """Whether what a run goes on from lies in its own output folder."""
    return place is not None and place.resolve().is_relative_to(Path(folder).resolve())


def clean_output_folder(folder: str | Path, place: Path | None, overwrite: bool) -> None:
    """Before a run that goes on from `place`: remove what killed ones left unfinished in its folder, and claims that end now.

    None of them holds for a run that starts anew, or from elsewhere, which with `overwrite` takes the checkpoints away too; and
    one that goes on from a checkpoint will have another end. What no run of this library wrote stays.
    """
    folder, goes_on = Path(folder), is_inside(place, folder)
    own = [finished_marker(folder / "model"), finished_marker(folder)]
    claims = [*own, finished_marker(folder / "retrained")] if not goes_on else own if is_checkpoint(place) else []  # type: ignore[arg-type]
    for claim in claims:
        if _is_claim(claim):
            claim.unlink()
    for left in (folder / ASIDE, *folder.glob(".model-*"), *folder.glob(".retrained-*")):
        shutil.rmtree(left, ignore_errors=True)
    for partial in folder.glob(".*.partial.*"):
        partial.unlink(missing_ok=True)
    for old in _checkpoints(folder) if overwrite and not goes_on else ():
        if is_checkpoint(old):
            _remove(old)


def _is_claim(path: Path) -> bool:
    """Whether a file is one that `keep_finished` wrote, and not somebody's of the same name."""
    try:
        return {"files", "digest", "ended"} <= set(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return False


def _remove(checkpoint: Path) -> None:
    """At once for whoever looks: renamed aside first, since a folder is emptied file by file."""
    aside = checkpoint.parent / ASIDE / f"old-{checkpoint.name}"
    aside.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """See to it that a folder's files are on the disk, should the power fail."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:
            if not path.is_dir():  # some file systems cannot flush a folder
                raise
        finally:
            os.close(handle)


def publish(staged: Path, place: Path, limit: int | None, best: str | None) -> None:
    """Move a sealed checkpoint to its place, and remove the oldest others beyond `limit`, but the best."""
    if place.exists():  # passed over when the run was resumed, or saved twice at one step
        _remove(place)
    os.replace(staged, place)
    if not limit or limit < 1:
        return
    kept = {place.name, Path(best).name if best else ""}
    held = [p for p in reversed(_checkpoints(place.parent)) if is_checkpoint(p)]
    others, surplus = [p for p in held if p.name not in kept], len(held) - limit
    if surplus > 0 and others:
        _flush(place)
    for old in others[: max(surplus, 0)]:
        _remove(old)
