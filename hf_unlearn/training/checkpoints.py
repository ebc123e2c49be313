"""Checkpoints that are whole or absent.

A checkpoint is written in a staging folder, sealed with a digest of every file, and then renamed into its place. A process
that is killed at any moment therefore leaves only whole checkpoints. Later damage is found before a checkpoint is used.
"""

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

STATE_FILE = "unlearning_state.json"  # the seal of a checkpoint, which is written last
FINISHED = ".finished.json"  # ends the name of the marker beside a finished model: `model.finished.json`
CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
RETRAINED_NAME = re.compile(r"retrained(-\d+)?")  # of a folder with a retrained model
STAGING = "_partial"  # folder for unfinished checkpoints in the output folder; a push to the Hub leaves out `_*`


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def _digest(content: Mapping[str, Any]) -> str:
    return _hash(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal_checkpoint(folder: Path, state: Mapping[str, Any], seal: Path | None = None) -> None:
    """Write `state`, the size and digest of every file in `folder`, and a digest of these, to `seal` (by default inside)."""
    seal = folder / STATE_FILE if seal is None else seal
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p != seal)
    files = {str(p.relative_to(folder)): [p.stat().st_size, file_digest(p, _hash)] for p in found}
    content = {**state, "files": files}
    write_atomically(seal, json.dumps({**content, "digest": _digest(content)}))


def finished_marker(model: Path) -> Path:
    """The file, beside the folder `model`, that seals the model that a run ended with."""
    model = model.absolute()  # "." has no name
    return model.with_name(model.name + FINISHED)


def _seal_of(folder: Path) -> Path:
    """The seal of a checkpoint or of a finished model."""
    inside = folder / STATE_FILE
    return inside if inside.exists() else finished_marker(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state that is sealed with a checkpoint or a finished model; raise ValueError if the seal is unusable."""
    seal = _seal_of(folder)
    if not seal.is_file():
        raise ValueError(f"it has no {STATE_FILE}, so its writing was cut off, or another trainer wrote it")
    try:
        content = json.loads(seal.read_text())
        whole = content.pop("digest") == _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{seal.name} is damaged")
    return content


def find_damage(folder: Path) -> str:
    """Say what is damaged in a checkpoint or a finished model, by file; return "" if every byte is as it was sealed."""
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
        if file_digest(path, _hash) != digest:
            return f"{name} does not hold the bytes that were written"
    return ""


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    found = [p for p in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.is_dir() and CHECKPOINT_NAME.fullmatch(p.name)]
    return sorted(found, key=_step, reverse=True)


def resumable(folder: str | Path) -> list[Path]:
    """List what a run may resume from, without checks of damage: the finished model, then the checkpoints, newest first."""
    folder = Path(folder)
    _place_sealed(folder)
    finished = [p for p in (folder / "model", folder) if p.is_dir() and _seal_of(p).is_file()]
    return [*finished, *_checkpoints(folder)]


def _place_sealed(folder: Path) -> None:
    """Move sealed checkpoints out of the staging folder. A run can be killed between the seal and this move."""
    for staged in (folder / STAGING).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        place = folder / staged.name
        if not place.exists() and not find_damage(staged):
            with suppress(FileNotFoundError):  # another process was first
                os.replace(staged, place)


def last_checkpoint(folder: str | Path) -> Path:
    """Return the finished model in `folder`, or the newest whole checkpoint; raise ValueError if there is neither."""
    passed_over = []
    for place in resumable(folder):
        wrong = _why_unusable(place)
        if not wrong:
            return place
        logger.warning("%s is passed over: %s.", place, wrong)
        passed_over.append(f"{place.name}: {wrong}")
    why = f" ({'; '.join(passed_over)}). Start anew with `overwrite=True`." if passed_over else ". Start without it."
    raise ValueError(f"`resume_from_checkpoint`: no whole checkpoint in {folder}{why}")


def chosen_checkpoint(asked: str | os.PathLike[str] | bool | None, folder: str) -> Path | None:
    """Return the checkpoint that `resume_from_checkpoint` asks for: a folder, or True for the last whole one in `folder`.

    Raise ValueError if there is no whole checkpoint, or if the named one is damaged.
    """
    if asked is True:
        return last_checkpoint(folder)
    if not asked:
        return None
    named = Path(asked)
    if not (wrong := _why_unusable(named)):
        return named
    earlier = [
        p for p in _checkpoints(named.parent) if CHECKPOINT_NAME.fullmatch(named.name) and _step(p) < _step(named)
    ]
    good = next((p for p in earlier if not _why_unusable(p)), None)
    raise ValueError(
        f"`resume_from_checkpoint={str(asked)!r}` cannot be used: {wrong}. "
        + (f"The last good one before it is {good}." if good else "No good one before it is beside it: start anew.")
    )


def check_best(checkpoint: str) -> Path:
    """Return the best checkpoint as a path; raise ValueError if it is damaged or missing."""
    wrong = find_damage(Path(checkpoint)) if Path(checkpoint).is_dir() else "there is no such folder"
    if wrong:
        raise ValueError(
            f"`load_best_model_at_end`: the best checkpoint, {checkpoint}, cannot be used: {wrong}. Resume without that "
            "argument to end with the last weights."
        )
    return Path(checkpoint)


def resume_hint(stop: KeyboardInterrupt, folder: Path | None) -> str:
    """Say how to resume after an interrupt, at the command line; return "" if there is nothing to resume from."""
    if str(stop):
        return f"{stop} with --resume true."
    return (
        "Go on with --resume true."
        if folder is not None and any(not _why_unusable(p) for p in resumable(folder))
        else ""
    )


def _why_unusable(place: Path) -> str:
    """Say why a run cannot be resumed from `place`; return "" if it can."""
    if not place.is_dir():
        return "there is no such folder"
    if wrong := find_damage(place):
        return wrong
    if read_state(place)["model_only"]:
        return "`save_only_model=True` left out the optimizer and the random state, so a resumed run would differ"
    return ""


def is_checkpoint(folder: Path) -> bool:
    """Return True for a checkpoint of this library, and False for a finished model, which has no optimizer state."""
    return (folder / STATE_FILE).is_file()


def is_inside(place: Path | None, folder: str | Path) -> bool:
    """Return True if there is a `place` to resume from, and it is in `folder`."""
    return place is not None and place.resolve().is_relative_to(Path(folder).resolve())


def clean_output_folder(folder: str | Path, place: Path | None, overwrite: bool) -> None:
    """Clean the output folder before training.

    Delete partial files of killed runs. Delete the markers of finished models that this run, which resumes from `place`,
    makes invalid. With `overwrite`, on a fresh start, delete old checkpoints too. Files that this library did not write stay.
    """
    folder, resumes = Path(folder), is_inside(place, folder)
    names = ["model", "."] if not resumes or is_checkpoint(place) else []  # type: ignore[arg-type]
    retrained = [p for p in folder.glob("retrained*") if RETRAINED_NAME.fullmatch(p.name.removesuffix(FINISHED))]
    for marker in (*(finished_marker(folder / name) for name in names), *(() if resumes else retrained)):
        if _is_finished_marker(marker):
            marker.unlink()
    for partial in (folder / STAGING, *folder.glob(".model-*"), *folder.glob(".retrained-*")):
        shutil.rmtree(partial, ignore_errors=True)
    for partial in folder.glob(".*.partial.*"):
        partial.unlink(missing_ok=True)
    # A resumed run would take a checkpoint of an earlier run in the folder of a retrained model for its own.
    places = [folder, *retrained] if overwrite and not resumes else []
    for old in (checkpoint for place in places for checkpoint in _checkpoints(place)):
        if is_checkpoint(old):
            _remove(old)


def _is_finished_marker(path: Path) -> bool:
    """Return True if `save_finished` wrote this file, and False for another file of the same name."""
    try:
        return {"files", "digest", "ended"} <= set(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return False


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint in one step: files are deleted one by one, so it is renamed into the staging folder first."""
    removed = checkpoint.parent / STAGING / f"old-{checkpoint.name}"
    removed.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, removed)
    shutil.rmtree(removed, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Write a folder's files through to the disk, so that a power failure cannot lose them."""
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
    """Move a sealed checkpoint to its place, and delete the oldest others beyond `limit`, but never the best."""
    if place.exists():  # a damaged one that the run did not resume from, or a second save at one step
        _remove(place)
    os.replace(staged, place)
    if not limit or limit < 1:
        return
    kept = {place.name, Path(best).name if best else ""}
    held = [p for p in reversed(_checkpoints(place.parent)) if is_checkpoint(p)]
    surplus = [p for p in held if p.name not in kept][: max(len(held) - limit, 0)]
    if surplus:
        _flush(place)
    for old in surplus:
        _remove(old)
