"""Bases in folders, rows with owners, and small sharded models for the tests of this room."""

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from hf_unlearn.shards.settings import ShardSettings
from hf_unlearn.shards.trainer import ShardedTrainer
from tests.support.data import data_for, processing_class
from tests.support.models import build

KEY = bytes(range(32))
OWNERS = 12
SMALL = {"num_shards": 3, "slices": 2, "group_column": "owner", "num_train_epochs": 2.0, "batch_size": 8}


def rows_for(arch, n=72, seed=0):
    """Rows of `OWNERS` owners, who have as many each."""
    return data_for(arch, n, seed).add_column("owner", [f"u{i % OWNERS}" for i in range(n)])


def save_base(arch, folder, dropout=0.1):
    """Save the body of an untrained model, without a head, as the public base."""
    model = build(arch, dropout=dropout)
    model.base_model.save_pretrained(folder)
    processing_class(arch).save_pretrained(folder)
    return str(folder)


def trainer(**more):
    return ShardedTrainer(use_cpu=True, **more)


@lru_cache
def shared(arch="bert"):
    """Train one small model for all tests of this process. Returns its folder, its base and its rows: they are not to be changed."""
    place = Path(mkdtemp(prefix="shards-"))
    base, rows = save_base(arch, place / "base"), rows_for(arch)
    trainer().train(base, rows, place / "v1", settings=ShardSettings(**SMALL), key=KEY)
    return place / "v1", base, rows


def weights(folder):
    """The SHA-256 of the weights of each shard."""
    from hf_unlearn.models.sharded_classifier import SHARDING, Sharding

    return [shard["weights"] for shard in Sharding.load(Path(folder) / SHARDING).shards]
