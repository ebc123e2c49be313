"""`ShardSettings`: how a sharded classifier is trained."""

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

from ..data.class_names import names_of_classes
from ..data.columns import find_label_column
from ..methods.base import setting
from ..models.adapter_config import SHORTHANDS, read_config
from ..models.pretrained import load_processing_class
from ..models.sharded_classifier import COLUMNS, Sharding, fresh_classifier
from ..models.snapshot import fingerprints, joint_digest
from ..utils.argument_checks import check_counts, check_positive
from ..utils.hub_names import pinned
from ..utils.loading_errors import loading, located
from .shard_training import default_adapted_blocks, versions

logger = logging.getLogger(__name__)

MOST_SHARDS = 100  # the names of their folders have two digits


@dataclass(kw_only=True)
class ShardSettings:
    """How a sharded classifier is trained. The texts below are those of `hf-unlearn shards train --help`."""

    num_shards: int = setting(
        8, "Shards. A deletion costs one of them, and each adds a little to the time of an answer."
    )
    slices: int = setting(
        4, "Parts of a shard with a checkpoint after each, so that a deletion restarts from before its row."
    )
    group_column: str | None = setting(
        None,
        "Column whose rows stay together, such as a user id, so that deleting a user costs one shard. None: each row by itself.",
    )
    peft_config: str = setting(
        "lora", 'Adapter of each shard: lora, dora, ia3, or a PEFT configuration such as {"peft_type": "LORA", "r": 8}.'
    )
    adapted_blocks: int | None = setting(
        None,
        "Blocks of the base that adapters change, from its end. All others run once for all shards. None: a fifth of them.",
    )
    num_train_epochs: float = setting(10.0, "Passes over the rows of a shard, in all stages together.")
    learning_rate: float = setting(2e-3, "Learning rate of AdamW.")
    batch_size: int = setting(8, "Rows of a step.")
    seed: int = setting(0, "Seed of the training. Each shard adds its number.")
    label_column: str = setting("label", "Column of class ids or names.")
    image_column: str | None = setting(None, "Column of images, if it is not `image` or `img`.")
    text_column: str | None = setting(None, "Column of texts, if it does not have a usual name.")

    def __post_init__(self) -> None:
        check_counts(self, "num_shards", "slices", "adapted_blocks", "batch_size")
        check_positive(self, "num_train_epochs", "learning_rate")
        if self.num_shards > MOST_SHARDS:
            raise ValueError(f"`num_shards` must be at most {MOST_SHARDS}, got {self.num_shards}.")
        read_config(self.peft_config)

    def recorded(self, adapted_blocks: int) -> dict[str, Any]:
        """Return what the bits of a shard depend on, ready for JSON."""
        given = self.peft_config
        return {
            "peft_config": SHORTHANDS[given] if given in SHORTHANDS else json.loads(given),
            "adapted_blocks": adapted_blocks,
            "num_train_epochs": self.num_train_epochs,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "group_column": self.group_column is not None,
            **{name: getattr(self, name) for name in COLUMNS},
        }


def sharding_of(
    model: str, rows: Any, settings: ShardSettings, processing_class: Any | None = None, use_cpu: bool = False
) -> tuple[Sharding, Any]:
    """Return the description of a model that is still to be trained, and its processing class.

    Args:
        model: the base, a folder or a Hub id, which `@revision` may follow.
        rows: the rows to train on, which tell the classes.
        settings: how shards are trained.
        processing_class: tokenizer or image processor. Default None: the base's.
        use_cpu: True to train on the CPU though there is a GPU. Default False.

    Raises:
        ValueError: the base cannot be loaded or sharded, or the rows have no classes.
    """
    source = located(model, "model")
    with loading("model", source):
        name, commit = pinned(source)
        if os.path.isdir(name):
            logger.warning(
                "`model=%r` is a folder, so nobody else can tell which base it is. A deletion is exact for the rows of the shards, if the "
                "base never saw them.",
                model,
            )
        elif commit is None:
            raise ValueError(
                f"`model={model!r}` could not be pinned to a commit, because the Hub does not answer. Without a commit nobody can tell later "
                "which base the shards are of. Try again, or give a folder."
            )
        column = find_label_column(rows, settings.label_column)
        if column is None:
            raise ValueError(
                f"`label_column={settings.label_column!r}` is not in the rows. Name the column of classes."
            )
        labels = names_of_classes(rows, column)
        draft = Sharding(name, commit, "", labels, settings.seed, settings.slices, {}, versions(use_cpu))
        classifier, fresh = fresh_classifier(draft)
        if processing_class is None:
            processing_class = load_processing_class(name, rows, commit)
    prints = {
        n: digest for n, digest in fingerprints(classifier).items() if not n.startswith(tuple(f"{m}." for m in fresh))
    }
    blocks = settings.adapted_blocks or default_adapted_blocks(classifier)
    shards = [{"rows": 0, "weights": None, "trained": False} for _ in range(settings.num_shards)]
    known = {"base_weights": joint_digest(prints), "settings": settings.recorded(blocks), "shards": shards}
    return Sharding(**{**vars(draft), **known}), processing_class
