"""Train one shard: an adapter and a head, stage after stage, each from the checkpoint of the stage before.

What comes out depends on the base, the settings and the rows of this shard alone, bit for bit on one machine. So a checkpoint is known
by a keyed digest of all that (`stage_key`), and a stage whose checkpoint is there is not trained again, whichever version of the model
it came from. A deletion is nothing but that: the stages before the slice of the row are found, and the later ones are not.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..models.adapter_config import adapter_config
from ..models.forward import has_batch_norm
from ..models.processor import Processor
from ..models.sharded_classifier import SHARD, Sharding, fresh_classifier
from ..models.snapshot import raw_bytes
from ..models.structure import find_blocks, prefixes
from ..training.plain_training import train_classifier, warmup_steps
from ..utils.files import file_digest, write_atomically
from .assignment import keyed
from .schedule import stage_steps

logger = logging.getLogger(__name__)

DIGEST, REPAIR = "digest", "Delete it, and give the same command again: its stage is trained anew."
CHECKPOINT = "shard-{:02d}-stage-{}-{}.safetensors"
SHARED = (
    0.2  # most of the blocks are shared: adapters change at most this share of them, from the end, and at least one
)


@dataclass
class ShardWork:
    """One shard that is to be there, and what it takes.

    Attributes:
        number: of the shard.
        keys: of its stages.
        steps: of its stages.
        start: the first stage that must be trained; the number of stages if all checkpoints are there.
        slices: number of rows of each slice.
        seconds: of the training; 0 before it.
    """

    number: int
    keys: list[str]
    steps: list[int]
    start: int
    slices: list[int]
    seconds: float = field(default=0.0)

    @property
    def steps_left(self) -> int:
        return sum(self.steps[self.start :])


def stage_keys(sharding: Sharding, number: int, ids: Sequence[Sequence[str]], key: bytes) -> list[str]:
    """Return a key for each stage of a shard: a keyed digest of all that its weights depend on.

    Args:
        sharding: base, settings and versions.
        number: of the shard.
        ids: slice -> ids of its rows in order.
        key: 32 private bytes, without which nobody can test a guess of the rows.
    """
    described = {
        "base": sharding.base_weights, "labels": sharding.labels, "seed": sharding.seed, "slices": sharding.slices,
        "settings": sharding.settings, "versions": sharding.versions, "shard": number,
    }  # fmt: skip
    found, said = [], json.dumps(described, sort_keys=True).encode()
    for part in ids:
        said = keyed(key, "stage", said, *map(bytes.fromhex, part))
        found.append(said.hex()[:32])
    return found


def plan_shard(
    sharding: Sharding, number: int, ids: Sequence[Sequence[str]], key: bytes, checkpoints: Sequence[Path]
) -> ShardWork:
    """Return what it takes to have the shard `number` with the rows `ids`, given the checkpoints in some folders."""
    keys, sizes = stage_keys(sharding, number, ids, key), [len(part) for part in ids]
    settings = sharding.settings
    steps = stage_steps(sizes, settings["num_train_epochs"], settings["batch_size"])
    known = [stage for stage, k in enumerate(keys) if find_checkpoint(number, stage, k, checkpoints) is not None]
    return ShardWork(number, keys, steps, known[-1] + 1 if known else 0, sizes)


def find_checkpoint(number: int, stage: int, key: str, folders: Sequence[Path]) -> Path | None:
    """Return the checkpoint of a stage in the first of the folders that has it."""
    name = CHECKPOINT.format(number, stage, key)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def shard_model(sharding: Sharding, number: int) -> tuple[Any, list[str]]:
    """Return the base with a fresh adapter and head for a shard, and the names of the parameters that are trained.

    Raises:
        ValueError: the base cannot be sharded, or the configuration of the adapter does not fit it.
    """
    from peft import get_peft_model

    seed = sharding.seed + number
    model, fresh = fresh_classifier(sharding, seed)
    if has_batch_norm(model):
        raise ValueError(
            f"`model={sharding.base!r}` has BatchNorm, whose statistics would learn from the rows of every shard. Use a base without it, "
            "such as a transformer."
        )
    torch.manual_seed(seed)
    peft_model: Any = get_peft_model(model, configuration(sharding, model, fresh))
    return peft_model, [name for name, p in peft_model.named_parameters() if p.requires_grad]


def configuration(sharding: Sharding, model: nn.Module, fresh: Sequence[str]) -> Any:
    """Return the PEFT configuration of a shard: by default every linear layer in the last blocks is adapted.

    The fewer blocks are adapted, the more of the base all shards share, which is what makes many of them fast.
    """
    given = dict(sharding.settings["peft_config"])
    blocks, last = find_blocks(model), sharding.settings["adapted_blocks"]
    if last > len(blocks):
        raise ValueError(f"`adapted_blocks={last}`: the base has {len(blocks)} blocks.")
    if not given.get("target_modules"):
        inside = prefixes(blocks[-last:])
        given["target_modules"] = [
            n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)
        ]
    config = adapter_config(given, model)
    config.modules_to_save = list(fresh)
    return config


def default_adapted_blocks(model: nn.Module) -> int:
    """Return how many blocks adapters change by default."""
    return max(1, int(SHARED * len(find_blocks(model))))


@contextmanager
def same_bits(device: str) -> Iterator[None]:
    """Inside, the same training gives the same bits: one thread on a CPU, and deterministic kernels."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def train_shard(
    sharding: Sharding,
    work: ShardWork,
    rows: Any,
    processor: Processor,
    checkpoints: Sequence[Path],
    folder: Path,
    use_cpu: bool,
) -> None:
    """Train the stages of a shard whose checkpoints are missing, and save its adapter.

    A checkpoint is written whole, after each stage, into the first of `checkpoints`. So a killed training goes on where it was.

    Args:
        rows: the rows of the shard, in order: slice after slice.
        processor: prepares them.
        checkpoints: folders with checkpoints; new ones go into the first.
        folder: where the folder of the adapter is made.
        use_cpu: True to train on the CPU though there is a GPU.
    """
    device = "cpu" if use_cpu or not torch.cuda.is_available() else "cuda"
    with same_bits(device):
        model, trained = shard_model(sharding, work.number)
        if work.start:
            last = work.start - 1
            found = find_checkpoint(work.number, last, work.keys[last], checkpoints)
            assert found is not None
            _load(model, read_checkpoint(found))
        seen = sum(work.slices[: work.start])
        for stage in range(work.start, len(work.keys)):
            seen += work.slices[stage]
            if work.steps[stage]:
                settings = sharding.settings
                arguments = {
                    "max_steps": work.steps[stage], "learning_rate": settings["learning_rate"], "use_cpu": device == "cpu",
                    "per_device_train_batch_size": settings["batch_size"], "seed": sharding.seed + work.number,
                    "warmup_steps": warmup_steps(work.steps[stage], 1, 1.0), "report_to": "none", "disable_tqdm": True,
                    "weight_decay": 0.0,
                }  # fmt: skip
                quiet = redirect_stdout(io.StringIO())  # what the HF Trainer prints of each training
                with tempfile.TemporaryDirectory() as scratch, quiet:
                    work.seconds += train_classifier(
                        model, rows.select(range(seen)), processor, arguments, scratch, f"shard {work.number}"
                    )
            tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if n in set(trained)}
            name = CHECKPOINT.format(work.number, stage, work.keys[stage])
            write_atomically(checkpoints[0] / name, save(tensors, {DIGEST: tensors_digest(tensors)}), mode=0o600)
        save_shard(model.cpu(), folder / SHARD.format(work.number))


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(raw_bytes(tensors[name]))
    return digest.hexdigest()


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as saved:
            said = (saved.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The checkpoint {file} cannot be read: {error}. {REPAIR}") from error
    if said != tensors_digest(tensors):
        raise ValueError(f"The checkpoint {file} is damaged. {REPAIR}")
    return tensors


@torch.no_grad()
def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def save_shard(model: Any, folder: Path) -> None:
    """Save the adapter as PEFT does, with a configuration whose bytes do not depend on the order of a set. It appears whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        partial = Path(scratch) / "adapter"
        model.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)
        file = partial / "adapter_config.json"
        found = json.loads(file.read_text("utf-8"))
        ordered = {k: sorted(v) if isinstance(v, list) else v for k, v in found.items()}
        file.write_text(json.dumps(ordered, indent=2, sort_keys=True), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)


def weights_of_shard(folder: Path, number: int) -> str:
    """Return the SHA-256 of the weights of a shard."""
    return file_digest(folder / SHARD.format(number) / "adapter_model.safetensors")


def versions(use_cpu: bool = False) -> dict[str, str]:
    """Return what bits depend on beside the rows: versions of libraries, and the device or the instructions of the CPU."""
    import peft

    on_gpu = torch.cuda.is_available() and not use_cpu
    device = torch.cuda.get_device_name() if on_gpu else f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "device": device,
    }
