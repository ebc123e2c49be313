"""Which adapter: from a name, a mapping or a `PeftConfig` to a checked configuration with targets."""

from __future__ import annotations

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
    """A `PeftConfig`, a copy, from one, from a shorthand (`lora`, `dora`, `ia3`), or from its fields as a mapping or JSON.

    Raises:
        ValueError: no such kind or field, or none that can be switched off.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ImportError("`peft_config` needs PEFT: `pip install 'hf_unlearn[peft]'`.") from error

    if isinstance(given, str):
        given = SHORTHANDS[given] if given in SHORTHANDS else _parsed(given)
    if isinstance(given, Mapping):
        settings = dict(given)
        kind = str(settings.pop("peft_type", "LORA")).upper()
        kinds: Mapping[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
        if kind not in kinds:
            raise ValueError(f"`peft_config`: `peft_type={kind!r}` is unknown to the installed PEFT.")
        try:
            given = kinds[kind](**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`peft_config` is no {kind} configuration: {error}") from error
    if not isinstance(given, PeftConfig):
        raise TypeError(f"`peft_config` must be a `PeftConfig`, a mapping or a name, got {type(given).__name__}.")
    start, bias = getattr(given, "init_lora_weights", None), getattr(given, "bias", "none")
    if given.is_prompt_learning:
        raise ValueError(
            f"`peft_config`: {kind_of(given)} adds virtual tokens, which a classifier under PEFT can neither switch off nor merge, and "
            "no second request can stack. Use `lora`, or another kind that adapts layers."
        )
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        raise ValueError(
            f"`peft_config.init_lora_weights={start!r}` moves part of the weights into the adapter: switched off, the original would "
            "be lost. Leave it out."
        )
    if bias != "none":
        raise ValueError(
            f"`peft_config.bias={bias!r}` trains biases of the original itself, which switching off would not bring back. Leave "
            "it out; LoRA has `lora_bias`."
        )
    return copy.deepcopy(given)  # PEFT writes into it


def adapter_config(given: Any, model: nn.Module) -> Any:
    """`read_config`, for a classifier (what is inside a `PeftModel`): without `target_modules` it gets `default_targets`.

    Raises:
        ValueError: as `read_config`, and where there is nothing to adapt.
    """
    given = read_config(given)
    if getattr(given, "task_type", None) and not is_text_model(model):
        raise ValueError(
            f"`peft_config.task_type={given.task_type!r}` makes PEFT pass `input_ids`, which an image model does not take. Leave it "
            "unset; to train the head as well, set `modules_to_save`."
        )
    named = getattr(given, "target_parameters", None) or kind_of(given) == "TRAINABLE_TOKENS"
    if getattr(given, "target_modules", "") is None and not named:
        given.target_modules = set(default_targets(model, norms=kind_of(given) == "LN_TUNING"))
    if getattr(given, "feedforward_modules", ()) is None:
        given.feedforward_modules = []  # those that PEFT knows of an architecture need not be among the targets
    return given


def kind_of(config: Any) -> str:
    """`LORA`, `IA3`, ..."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"`peft_config={text!r}` is neither {', '.join(SHORTHANDS)} nor a mapping such as "
            '{"peft_type": "LORA", "r": 8}.'
        )
    return found
