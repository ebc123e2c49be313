"""Configurations of adapters: a name, a mapping or a `PeftConfig` becomes a checked `PeftConfig` with target layers."""

import contextlib
import copy
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from .forward import is_text_model
from .structure import default_targets

SHORTHANDS: dict[str, dict[str, Any]] = {
    "lora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16},
    "dora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True},
    "ia3": {"peft_type": "IA3", "feedforward_modules": []},
}
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of `init_lora_weights`


def read_config(given: Any) -> Any:
    """Return a checked copy of the configuration of an adapter.

    Args:
        given: a `PeftConfig`, the name of a shorthand (`lora`, `dora`, `ia3`), or the fields as a mapping or as JSON.

    Raises:
        ValueError: the kind or a field is unknown, or the adapter could not be switched off.
        TypeError: `given` is none of these.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ImportError("`peft_config` needs PEFT: `pip install 'hf_unlearn[peft]'`.") from error

    if isinstance(given, str):
        given = SHORTHANDS[given] if given in SHORTHANDS else _parse(given)
    if isinstance(given, Mapping):
        settings = dict(given)
        kind = str(settings.pop("peft_type", "LORA")).upper()
        kinds: Mapping[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
        if kind not in kinds:
            raise ValueError(f"`peft_config`: the installed PEFT does not know `peft_type={kind!r}`.")
        try:
            given = kinds[kind](**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`peft_config` is not a {kind} configuration: {error}") from error
    if not isinstance(given, PeftConfig):
        raise TypeError(f"`peft_config` must be a `PeftConfig`, a mapping or a name, got {type(given).__name__}.")
    start, bias = getattr(given, "init_lora_weights", None), getattr(given, "bias", "none")
    if given.is_prompt_learning:
        raise ValueError(
            f"`peft_config`: {kind_of(given)} adds virtual tokens. PEFT can neither switch them off nor merge them in a "
            "classifier, and cannot stack a second request on them. Use `lora`, or another kind that adapts layers."
        )
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        raise ValueError(
            f"`peft_config.init_lora_weights={start!r}` moves part of the weights into the adapter: without it, the original "
            "would be lost. Leave this setting out."
        )
    if bias != "none":
        raise ValueError(
            f"`peft_config.bias={bias!r}` trains biases of the original itself, which stay changed when the adapter is "
            "switched off. Leave it out; LoRA has `lora_bias`."
        )
    return copy.deepcopy(given)  # PEFT writes into the configuration


def adapter_config(given: Any, model: nn.Module) -> Any:
    """Return `read_config(given)` for a classifier, with its `default_targets` if no layers are named."""
    config = read_config(given)
    if getattr(config, "task_type", None) and not is_text_model(model):
        raise ValueError(
            f"`peft_config.task_type={config.task_type!r}` makes PEFT pass `input_ids`, which an image model does not "
            "take. Leave it out; to train the head as well, set `modules_to_save`."
        )
    needs_no_layers = getattr(config, "target_parameters", None) or kind_of(config) == "TRAINABLE_TOKENS"
    if getattr(config, "target_modules", "") is None and not needs_no_layers:
        config.target_modules = set(default_targets(model, norms=kind_of(config) == "LN_TUNING"))
    if getattr(config, "feedforward_modules", ()) is None:
        config.feedforward_modules = []  # PEFT's defaults for an architecture need not be among the targets
    return config


def kind_of(config: Any) -> str:
    """The kind of adapter, such as `LORA` or `IA3`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _parse(text: str) -> Mapping[str, Any]:
    found = None
    with contextlib.suppress(json.JSONDecodeError):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(
            f"`peft_config={text!r}` is neither {', '.join(SHORTHANDS)} nor a mapping such as "
            '{"peft_type": "LORA", "r": 8}. Give one of these, or leave it out to train the weights themselves.'
        )
    return found
