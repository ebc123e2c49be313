"""`ShardedClassifier`: adapters and heads that were trained on separate shards of the rows, over one frozen base, answer together.

A row passes through the blocks that no adapter changes once, for all shards. What is behind them is there once for each shard, with
its adapter merged into it. With w_i the weight of shard i, and z_i its logits,

    log p(y | x) = Σ_i w_i log p_i(y | x) + const = log softmax(Σ_i w_i z_i)

so the mean of the log-probabilities is that of the logits, and all heads together are one linear layer over the features of all
shards side by side. That makes the whole a classifier like any other: with a last layer, features in front of it, and blocks.
"""

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ..utils.files import read_object, write_atomically
from ..utils.hub_names import file_beside, pinned
from .adapters import load_patches
from .classifier_class import classifier_class, from_pretrained_quietly
from .config_checks import HELD_ELSEWHERE, read_config
from .structure import find_blocks, find_heads, last_linear, prefixes

SHARDING = "sharding.json"
SCHEMA = "hf_unlearn/sharding/1"
COLUMNS = ("label_column", "image_column", "text_column")  # among the settings
SHARD = "shard-{:02d}"  # folder of the adapter of a shard


@dataclass(frozen=True)
class Sharding:
    """What `sharding.json` says, and nothing in it depends on a row but the numbers of rows.

    Attributes:
        base: the frozen base, a folder or a Hub id.
        base_revision: its commit on the Hub; None for a folder.
        base_weights: digest of the weights of the base.
        labels: names of the classes, in order.
        seed: seed of the training; each shard adds its number.
        slices: parts of a shard, after each of which there is a checkpoint.
        settings: epochs, learning rate, batch size and adapter, as `ShardedTrainer` was given them.
        versions: of the libraries that the shards were trained with.
        shards: for each shard its number of `rows`, the SHA-256 of its `weights`, and whether this version `trained` it anew.
        weights: weight of each shard in the mean, which sum to 1.
        fitted: True if the weights were fitted on held-out rows.
        previous: SHA-256 of the `sharding.json` of the version before this one; None for the first.
    """

    base: str
    base_revision: str | None
    base_weights: str
    labels: list[str]
    seed: int
    slices: int
    settings: dict[str, Any]
    versions: dict[str, str]
    shards: list[dict[str, Any]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    fitted: bool = False
    previous: str | None = None

    @property
    def present(self) -> list[int]:
        """The numbers of the shards that have rows; the others have no adapter and no say."""
        return [i for i, shard in enumerate(self.shards) if shard["rows"]]

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that a `Processor` is told."""
        return {name: self.settings[name] for name in COLUMNS}

    def save(self, folder: Path) -> None:
        write_atomically(folder / SHARDING, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> "Sharding":
        """Read a `sharding.json`.

        Raises:
            ValueError: it is no such file, or of another version of the library.
        """
        found = read_object(file)
        if found is None or found.pop("schema", None) != SCHEMA:
            raise ValueError(f"{file} is no description of shards ({SCHEMA}). Make one with `hf-unlearn shards train`.")
        try:
            return cls(**found)
        except TypeError as error:
            raise ValueError(f"{file} is damaged: {error}. Copy it again.") from error


def fresh_classifier(sharding: Sharding, seed: int = 0) -> tuple[Any, list[str]]:
    """Return a classifier with the weights of the base, and the names of the modules that have random weights, the head among them.

    Raises:
        ValueError: the base is of an architecture that cannot be sharded, or lacks weights in front of its last block.
    """
    config = read_config(sharding.base, sharding.base_revision, HELD_ELSEWHERE)
    config.num_labels = len(sharding.labels)
    config.id2label = dict(enumerate(sharding.labels))
    config.label2id = {name: i for i, name in enumerate(sharding.labels)}
    config.return_dict, config.use_cache = True, False
    torch.manual_seed(seed)
    model, found = from_pretrained_quietly(classifier_class(config), sharding.base, config, sharding.base_revision)
    heads, blocks = find_heads(model), find_blocks(model)
    if len(heads) > 1:
        raise ValueError(
            f"`model={sharding.base!r}` has {len(heads)} heads ({', '.join(heads)}), and one can be sharded."
        )
    if not blocks:
        raise ValueError(
            f"`model={sharding.base!r}` has no blocks, so there is nothing that shards could have in common."
        )
    absent = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    head = last_linear(model)
    fresh = list(dict.fromkeys([*(_holder(name, head) for name in sorted(absent)), head]))
    within = prefixes(blocks)
    if inside := [
        name for name in fresh if f"{name}.".startswith(within) or any(b.startswith(f"{name}.") for b in blocks)
    ]:
        raise ValueError(
            f"`model={sharding.base!r}` lacks weights of its blocks, such as {inside[0]}, so it is no pretrained base. Name one that "
            "was trained."
        )
    return model, fresh


def _holder(parameter: str, head: str) -> str:
    """Return the module that holds a parameter; the head for those inside it."""
    module = parameter.rpartition(".")[0]
    return head if f"{module}.".startswith(f"{head}.") else module


class SharedBlock(nn.Module):
    """A block that is the same for all shards: it runs for the first one, and then what it gave is returned.

    Attributes:
        kept: what it gave for the rows at hand; None before it ran.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.kept: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # some models read the kind of attention of a block
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.kept is None:
            self.kept = self.block(*args, **kwargs)
        return self.kept


class ShardCopies(nn.Module):
    """One module for each shard. A call goes to that of the shard in use."""

    def __init__(self, copies: Sequence[nn.Module]) -> None:
        super().__init__()
        self.copies, self.used = nn.ModuleList(copies), 0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            copies: Any = super().__getattr__("copies")
            return getattr(copies[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.copies[self.used](*args, **kwargs)


class ShardedConfig(PretrainedConfig):
    """Makes `ShardedClassifier` known to transformers. A model itself has the configuration of its base, with its own classes."""

    model_type = "sharded_classifier"


class ShardedClassifier(PreTrainedModel):
    """Adapters and heads over one frozen base that answer together, each trained on its own shard of the rows.

    Make one with `ShardedTrainer` or `hf-unlearn shards train`, and load it with `from_pretrained`. It is a classifier of
    transformers: `pipeline()`, `hf-unlearn audit` and everything else that reads logits take it.

    Attributes:
        sharding: what its `sharding.json` says.
        folder: where it was loaded from.
        base: the base, in which the adapted modules are `ShardCopies`, and the others `SharedBlock`.
        classifier: all heads as one linear layer over the features of all shards.

    Example:
        ```python
        model = ShardedClassifier.from_pretrained("sharded")
        pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained("sharded"))
        ```
    """

    config_class = ShardedConfig
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(
        self, config: Any, base: nn.Module, heads: Sequence[nn.Linear], sharding: Sharding, folder: Path
    ) -> None:
        super().__init__(config)
        self.base: Any = base
        self.classifier = joint_head(heads, [sharding.weights[i] for i in sharding.present])
        self._heads = tuple(heads)  # in a tuple, so that they are no modules of this one: `classifier` holds them
        self.sharding, self.folder = sharding, folder
        self.main_input_name = base.main_input_name
        self._copies = [m for m in base.modules() if isinstance(m, ShardCopies)]
        self._shared = [m for m in base.modules() if isinstance(m, SharedBlock)]
        self.eval()

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> "ShardedClassifier":
        """Load the shards in a folder or a Hub repository, over their base.

        Args:
            source: the folder, or a Hub id, which `@revision` may follow.
            revision: a revision on the Hub; by default the newest.

        Raises:
            ValueError: there is no description of shards, or its base does not fit.
            OSError: the base or a shard cannot be loaded.
        """
        name, commit = pinned(str(source), revision)
        file = file_beside(name, SHARDING, commit)
        if file is None:
            raise ValueError(f"`{source}` holds no {SHARDING}. Make one with `hf-unlearn shards train`.")
        sharding = Sharding.load(file)
        folders = [_shard_folder(name, commit, i) for i in sharding.present]
        if not folders:
            raise ValueError(f"`{source}`: every row of every shard was deleted, so nothing is left that could answer.")
        return build(sharding, folders, file.parent)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Return the logits (rows, classes), and the loss if there are `labels` (rows,)."""
        logits = self.classifier(torch.cat(self._features(inputs), -1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _features(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Return what the head of each shard reads, (rows, d)."""
        inputs.pop("return_dict", None)
        found = []
        try:
            for shard in range(len(self.sharding.present)):
                for module in self._copies:
                    module.used = shard
                found.append(self.base(**inputs).logits)  # its last layer is gone, so these are what that would read
        finally:
            for block in self._shared:
                block.kept = None
        return found

    def shard_logits(self, **inputs: Any) -> Tensor:
        """Return the logits of each shard by itself, (shards, rows, classes)."""
        features = zip(self._heads, self._features(inputs), strict=True)
        return torch.stack([head.to(x.device)(x) for head, x in features])

    def get_input_embeddings(self) -> Any:
        return self.base.get_input_embeddings()

    def save_pretrained(self, save_directory: str | Path, **ignored: Any) -> None:
        """Copy the adapters and their description; what is private to their owner stays. Changed weights are not saved.

        Args:
            save_directory: the folder.
            ignored: what transformers passes to every model, such as a size of files.
        """
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        for number in self.sharding.present:
            shutil.copytree(self.folder / SHARD.format(number), target / SHARD.format(number), dirs_exist_ok=True)
        shutil.copy2(self.folder / SHARDING, target / SHARDING)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:
        """Not here: `hf-unlearn push FOLDER --repo NAME` checks that nothing private goes with it, and takes receipt and card along."""
        raise NotImplementedError(f"Publish shards with `hf-unlearn push {self.folder} --repo ORG/NAME`.")


def _shard_folder(name: str, commit: str | None, number: int) -> Path:
    """Return the folder of the adapter of a shard, downloaded if it is on the Hub."""
    inside = SHARD.format(number)
    config, weights = (
        file_beside(name, f"{inside}/{f}", commit) for f in ("adapter_config.json", "adapter_model.safetensors")
    )
    if config is None or weights is None:
        raise OSError(f"`{name}` lacks {inside} or a file in it. Copy it again, as a whole.")
    return config.parent


def build(sharding: Sharding, folders: Sequence[Path], folder: Path) -> ShardedClassifier:
    """Return the classifier of the adapters in `folders`, which are those of `sharding.present`.

    Raises:
        ValueError: an adapter does not fit the base.
    """
    base, fresh = fresh_classifier(sharding)
    head, blocks, adapted = last_linear(base), find_blocks(base), _adapted(base, folders[0])
    first = min((blocks.index(b) for b in blocks if b in adapted), default=len(blocks))
    own = [*blocks[first:], *fresh]  # the head is the last of these
    copies: dict[str, list[Any]] = {name: [] for name in own}
    for place in folders:
        merged = load_patches(copy.deepcopy(base), str(place)).merge_and_unload()
        for name in own:  # the rest of it goes before the next one is loaded
            copies[name].append(merged.get_submodule(name))
    for name in blocks[:first]:
        base.set_submodule(name, SharedBlock(base.get_submodule(name)))
    heads = copies.pop(head)
    for name, modules in copies.items():
        base.set_submodule(name, ShardCopies(modules))
    base.set_submodule(head, nn.Identity())
    config = copy.deepcopy(base.config)
    config.architectures = [ShardedClassifier.__name__]
    return ShardedClassifier(config, base, heads, sharding, folder).requires_grad_(True)


def _adapted(base: nn.Module, folder: Path) -> set[str]:
    """Return the names of the blocks of the base that the adapter in `folder` changes."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118  it is no dictionary
    return {block for block in find_blocks(base) if any(name.startswith(f"{block}.") for name in names)}


@torch.no_grad()
def joint_head(heads: Sequence[Any], weights: Sequence[float]) -> nn.Linear:
    """Return one linear layer over the features of all shards that gives the weighted mean of their logits."""
    first = heads[0]
    joint = nn.Linear(first.in_features * len(heads), first.out_features)
    joint.weight.copy_(torch.cat([w * head.weight for w, head in zip(weights, heads, strict=True)], 1))
    biases = [w * head.bias for w, head in zip(weights, heads, strict=True) if head.bias is not None]
    joint.bias.copy_(torch.stack(biases).sum(0) if biases else torch.zeros(first.out_features))
    return joint


for auto in (AutoModelForImageClassification, AutoModelForSequenceClassification):
    auto.register(ShardedConfig, ShardedClassifier, exist_ok=True)  # otherwise `pipeline()` calls it unsupported
