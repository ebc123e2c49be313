"""Retrained models that runs share: the same training, from the same start on the same rows, is done once.

An entry is a folder in the cache, whose name is a digest of all that its weights depend on. It holds the model and a seal with the
digest of every file. All entries together take at most `MOST_BYTES`. The rows go into the name through an HMAC with a secret of this
cache, so nobody who sees the name alone can test a guess about a row. The models themselves were trained on kept rows: whoever must
delete such a row must empty the cache too.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from torch import nn

from ..data.sampling import has_transform
from ..models.adapters import configurations, is_adapted, load_adapters
from ..models.classifier_class import from_pretrained_quietly
from ..models.pretrained import save_model
from ..models.private_digests import digest_of_inputs, read_secret, settings_of
from ..models.snapshot import joint_digest
from ..training.checkpoints import find_damage, read_state, seal_checkpoint
from ..training.resuming import ARGUMENTS
from ..utils import VERSION

logger = logging.getLogger(__name__)

SCHEMA = "hf_unlearn/retrained/1"
VARIABLE = "HF_UNLEARN_RETRAINED_CACHE"  # of the environment, in the place of the option `retrained_cache`
NONE = "none"
KEY = re.compile("[0-9a-f]{64}")  # the name of an entry
MOST_BYTES = 20 * 2**30  # of all models; those that were not used for longest go first


@dataclass(frozen=True)
class Entry:
    """The place of one retrained model in the cache, whether the model is there or not."""

    folder: Path

    def load(self, model: nn.Module) -> dict[str, Any] | None:
        """Give `model` the weights of this entry, and return its `seconds` and `steps`; None if it is missing or damaged."""
        if not self.folder.is_dir():
            return None
        try:
            if wrong := find_damage(self.folder):
                logger.warning("The retrained model %s in the cache is passed over: %s.", self.folder, wrong)
                return None
            record = read_state(self.folder)
            if is_adapted(model):
                load_adapters(model, self.folder, "retrained_cache")
            else:
                model.load_state_dict(from_pretrained_quietly(type(model), str(self.folder), None)[0].state_dict())
        except (OSError, ValueError) as error:  # another run replaces it
            logger.warning("The retrained model %s in the cache cannot be read: %s", self.folder, error)
            return None
        with suppress(OSError):  # of another user, who may only read it
            os.utime(self.folder)
        return record

    def store(self, model: nn.Module, seconds: float, steps: int) -> None:
        """Save `model` here, unless it is here. The entry appears whole or not at all. Warn if it cannot be written."""
        record = {"seconds": seconds, "steps": steps}
        if not find_damage(self.folder):
            return
        try:
            save_model(model, None, self.folder, lambda _, partial: seal_checkpoint(partial, record))
        except OSError as error:
            if find_damage(self.folder):  # else another run was first
                logger.warning("The retrained model is not kept for other runs: %s", error)
        self._make_room()

    def _make_room(self) -> None:
        """Delete the models that were not used for longest, while all of them together are larger than `MOST_BYTES`."""
        try:
            entries = [f for f in self.folder.parent.iterdir() if KEY.fullmatch(f.name) and f.is_dir()]
            sizes = {f: sum(p.stat().st_size for p in f.rglob("*")) for f in entries}
            total = sum(sizes.values())
            for folder in sorted(sizes.keys() - {self.folder}, key=lambda f: f.stat().st_mtime):
                if total <= MOST_BYTES:
                    return
                shutil.rmtree(folder)
                total -= sizes[folder]
        except OSError as error:  # another run deletes or replaces the same one
            logger.info("The cache of retrained models is not made smaller now: %s", error)


def cache_folder(given: str | None) -> Path | None:
    """Return the folder of the cache: that of the option, of the environment, or in HF_HOME. None for the word `none`."""
    name = given or os.environ.get(VARIABLE) or os.path.join(constants.HF_HOME, "hf_unlearn", "retrained")
    return None if name == NONE else Path(name).expanduser()


def find_entry(trainer: Any, start: dict[str, str], given: str | None) -> Entry | None:
    """Return the place in the cache of the model that `trainer` would train.

    None if there is no cache, or if the rows have a transform of the user, which may be random.

    Args:
        trainer: an `UnlearningTrainer` with the method `Retrain`.
        start: the fingerprints of the weights that the training starts from.
        given: the option `retrained_cache`.
    """
    folder = cache_folder(given)
    if folder is None or has_transform(trainer.retain_dataset):
        return None
    try:
        secret = read_secret(folder)
    except OSError as error:
        logger.warning("`retrained_cache`: no retrained model is looked up or kept, because of %s", error)
        return None
    return Entry(folder / key_of(trainer, start, secret))


def key_of(trainer: Any, start: dict[str, str], secret: bytes) -> str:
    """Return a digest of all that the weights of a retrained model depend on; the arguments are those of `find_entry`.

    The forget set is not among it: a retraining does not read it, except to measure.
    """
    args = trainer.args
    described = {
        "schema": SCHEMA,
        "start": joint_digest(start),
        "model": [type(trainer.model).__name__, settings_of(trainer.model.config), configurations(trainer.model)],
        "rows": digest_of_inputs(trainer.unlearning_data.retain, trainer.processor, secret),
        "method": trainer.method.describe(),
        # What a request sets goes without effect: a retraining has no target. 1 epoch is 1.0 epochs.
        "settings": {
            name: float(value) if isinstance(value := getattr(args, name), int) else value
            for name in ARGUMENTS
            if not name.startswith("forget_")
        },
        "processes": args.world_size,
        "device": args.device.type,
        "versions": [torch.__version__, transformers.__version__, VERSION],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
