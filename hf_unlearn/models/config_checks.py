"""Checks of a model's `config.json` against its file of weights, before a model of that size is built."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..utils.files import read_object

# Settings that count layers, each of which has at least one tensor, and other settings that count.
LAYERS = re.compile(r"(num_|n_)?(hidden_|encoder_|decoder_)?(layers?|blocks?|experts)|depths?")
COUNTS = re.compile(r"(num|n)_\w+")
SPARE_LAYERS, SPARE_COUNT = 1_000, 10**6  # settings that a model does not read may be this much larger than its file
INFINITE = ("time_step_limit",)  # settings of Mamba that may be infinite
SLACK = 10**8  # values that a model may have beyond its file's: a new head, a table of positions
# A file of weights may hold fewer values than the model: shared ones stand there once, and quantized ones are packed.
PACKED = 10


class Held(NamedTuple):
    """What a file of weights holds: the number of its tensors, and of their bytes."""

    tensors: int
    size: int


FRESH = Held(10_000, 10**8)  # the most that a model without a file of weights may ask for
HELD_ELSEWHERE = Held(10_000, 10**12)  # for a configuration that says only what kind of model it is


def weights_file(source: str, revision: str | None = None) -> Path:
    """Return the path of a classifier's safetensors file, or of the index of several.

    Raises:
        OSError: there is none, or the Hub cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        found = next((p for n in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME) if (p := folder / n).is_file()), None)
        if found is not None:
            return found
        pickles = sorted(p.name for p in (*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt")))
        if not pickles:
            raise OSError(f"{source} holds no {SAFE_WEIGHTS_NAME}. Save the whole model with `save_pretrained`.")
        raise OSError(
            f"{source} holds {pickles[0]} and no {SAFE_WEIGHTS_NAME}. A pickle can run any code, so it is not loaded. Load it "
            "with transformers where you trust it, and save it again with `save_pretrained`, which writes safetensors."
        )
    try:
        return Path(str(cached_file(source, SAFE_WEIGHTS_NAME, revision=revision)))
    except OSError as error:
        try:
            return Path(str(cached_file(source, SAFE_WEIGHTS_INDEX_NAME, revision=revision)))
        except OSError:
            raise error from None


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file by name. Only its header is read."""
    with safe_open(file, "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def held_by(file: Path) -> Held:
    """Return what the safetensors file `file`, or the files of the index `file`, hold."""
    if file.name != SAFE_WEIGHTS_INDEX_NAME:
        return Held(len(shapes_in(file)), os.path.getsize(file))
    index = read_object(file) or {}
    return Held(len(index.get("weight_map", {})), int(index.get("metadata", {}).get("total_size", 0)) or 10**12)


def raw_config(source: str, revision: str | None = None) -> dict[str, Any]:
    """Return the settings in the config.json of `source`, a folder, a file or a repository, as they stand there.

    Raises:
        ValueError: config.json holds no settings.
        OSError: there is no config.json.
    """
    if Path(source).is_dir() and not Path(source, "config.json").is_file():
        inside = [p.parent.name for p in Path(source).glob("*/config.json")]
        best = max(inside, key=_promise, default="")
        hint = f" Did you mean {os.path.join(source, best)!r}?" if inside else ""
        raise OSError(f"{source} is no folder of a model: it holds no config.json.{hint}")
    if Path(source).is_dir():
        return read_object(Path(source, "config.json")) or {}
    raw, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    return raw


def _promise(folder: str) -> tuple[bool, list[int]]:
    """Order folders inside a folder by how likely the model is meant: `model` of a run, or the last checkpoint of a training."""
    return folder == "model", [int(n) for n in re.findall(r"\d+", folder)]


def read_config(source: str, revision: str | None = None, held: Held = FRESH) -> Any:
    """Return the configuration in `source`, after a look at its numbers.

    Args:
        held: what the file of weights holds; default `FRESH`, for a model that will be trained from nothing.

    Raises:
        ValueError: a number is not finite or asks for far more layers than `held` has, or the model needs code of its own.
        OSError: there is no config.json.
    """
    raw = raw_config(source, revision)
    for name, value in _numbers(raw):
        _check_number(name, value, held)
    for name in ("id2label", "label2id"):
        _check_class_names(name, raw.get(name) or {})
    kind = raw.get("model_type")
    if not isinstance(kind, str | None) or kind not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise ValueError(
                f"{source} needs code of its own (`auto_map` in config.json), which is never run here. Use a model that "
                "transformers itself knows."
            )
        raise ValueError(
            f"config.json in {source} names {'no model type' if kind is None else f'the model type {kind!r}'}, which this "
            "version of transformers does not know. Save the model again, or install a newer transformers."
        )
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    config.architectures = config.architectures or []  # the Auto classes cannot look into None
    return config


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield all numbers in a configuration, each with the name of its setting."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _check_number(name: str, value: int | float, held: Held) -> None:
    if not math.isfinite(value):
        if math.isnan(value) or name not in INFINITE:
            raise ValueError(f"config.json: `{name}` is {value}. Give a finite number.")
        return
    layers = LAYERS.fullmatch(name)
    limit = held.tensors + SPARE_LAYERS if layers else held.size + SPARE_COUNT
    if value > limit and (layers or COUNTS.fullmatch(name)):
        allowed = f"at most {limit:,} can be built" if held is FRESH else f"its weights are {held.tensors:,} tensors"
        raise ValueError(f"config.json: `{name}` is {value:,}, and {allowed}. Correct it.")
    if value < 0 and layers:
        raise ValueError(f"config.json: `{name}` is {value:,}. Give a number of layers.")


def _check_class_names(name: str, given: Any) -> None:
    pairs = given.items() if isinstance(given, dict) else [(None, None)]
    for key, value in pairs:
        number, text = (key, value) if name == "id2label" else (value, key)
        if not str(number).isdecimal() or not isinstance(text, str | int):
            example = '{"0": "cat", "1": "dog"}' if name == "id2label" else '{"cat": 0, "dog": 1}'
            raise ValueError(
                f"config.json: `{name}` must give class numbers and class names, such as {example}. Correct it."
            )


def check_size(kind: Any, config: Any, held: Held) -> torch.nn.Module:
    """Return the model of the Auto class `kind` without memory for its weights (on the `meta` device).

    Raises:
        ValueError: it has far more weights than `held`, or more than the memory of this machine.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = kind.from_config(config)
    asked = sum(p.numel() for p in model.parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if held is FRESH and 4 * asked > memory:
        raise ValueError(f"config.json asks for {asked:,} weights, which do not fit into the memory of this machine.")
    if held is not FRESH and asked > PACKED * held.size + SLACK:
        raise ValueError(
            f"config.json asks for {asked:,} weights, and the files hold {held.size:,} bytes. Correct config.json, such as "
            "`hidden_size` and `vocab_size`."
        )
    return model
