"""Unlearning as a patch: a PEFT adapter over the original, which stays as it is and is the reference for free.

A patch can be saved, loaded, switched off and merged. Beside its base it is no erasure: the base still knows everything.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from .processing import is_text_model, unwrap
from .scope import find_blocks, find_head, restrict

if TYPE_CHECKING:
    from .methods import UnlearningMethod

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
SHORTHANDS: dict[str, dict[str, Any]] = {
    "lora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16},
    "dora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True},
    "ia3": {"peft_type": "IA3", "feedforward_modules": []},
}
FLOOR = 1.0  # least root mean square that a trust region's step is relative to: adapters start at zero, and are small beside what they edit


def is_adapted(model: nn.Module) -> bool:
    """Whether this is a `PeftModel`, without importing PEFT for one that is not."""
    return any(c.__name__ == "PeftModel" for c in type(unwrap(model)).__mro__)


def adapter_config(given: Any, model: nn.Module) -> Any:
    """A `PeftConfig` from one, from a shorthand (`lora`, `dora`, `ia3`), or from its fields as a mapping or JSON.

    Where `target_modules` is not given it becomes `default_targets`; of a `PeftConfig` too.

    Raises:
        ValueError: no such kind or field, or nothing to adapt.
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
    given = copy.deepcopy(given)  # PEFT writes into it
    if getattr(given, "task_type", None) and not is_text_model(model):
        raise ValueError(
            f"`peft_config.task_type={given.task_type!r}` makes PEFT pass `input_ids`, which an image model does not take. Leave it "
            "unset; to train the head as well, set `modules_to_save`."
        )
    if getattr(given, "target_modules", "") is None:
        given.target_modules = set(default_targets(model))
    return given


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


def default_targets(model: nn.Module) -> list[str]:
    """Names of the modules that are adapted by default, all inside the backbone's blocks; the head is not.

    The square linear layers, which are the projections of attention; without any, all linear layers; without these, all
    ungrouped convolutions.
    """
    inner: Any = unwrap(model)
    root = inner.base_model.model if is_adapted(inner) else inner
    blocks = tuple(f"{b}." for b in find_blocks(root))
    head = find_head(root)
    inside, adapted = {}, [f"{n}." for n, m in root.named_modules() if hasattr(m, "base_layer")]
    for name, module in root.named_modules():
        name = name.removesuffix(".base_layer")
        within = name.startswith(blocks) if blocks else not f"{name}.".startswith(f"{head}.")
        if within and not name.startswith(tuple(adapted)):
            inside[name] = module
    linear = {n: m for n, m in inside.items() if isinstance(m, nn.Linear)}
    square = [n for n, m in linear.items() if m.in_features == m.out_features]
    convolutions = [n for n, m in inside.items() if isinstance(m, nn.Conv2d) and m.groups == 1]
    found = square or list(linear) or convolutions
    if not found:
        raise ValueError("`peft_config.target_modules` is missing, and no layer to adapt was found. Name them.")
    return found


def check_patch(method: UnlearningMethod, update: str | None) -> None:
    """Raise ValueError where `peft_config` contradicts the method or `update`."""
    name = method.name or type(method).__name__
    if update is not None:
        raise ValueError(
            f"`update={update!r}` and `peft_config` both say what may move. Leave `update` out: the adapter moves, and the modules "
            "in `peft_config.modules_to_save`."
        )
    if name == "retrain" or method.one_shot:
        why = "starts from fresh weights" if name == "retrain" else "trains no parameter"
        raise ValueError(f"`peft_config`: `method={name!r}` {why}, so there is nothing that an adapter could restrict.")


class Patch:
    """The adapter that a run trains. Everything else, adapters that were active before too, stays as it is.

    Args:
        model: a classifier, changed in place; or a `PeftModel`, which gets one more active adapter.
        config: see `adapter_config`.
        seed: of the adapter's initial weights, which are the same in every process and after a resume.

    Attributes:
        model: the `PeftModel`.
        name: of the adapter in it.
        names: of the parameters that may move: the adapter's, and copies of `modules_to_save`.

    Raises:
        ValueError: the configuration does not fit the model.
    """

    def __init__(self, model: nn.Module, config: Any, seed: int = 0) -> None:
        config = adapter_config(config, model)
        from peft import PeftModel, get_peft_model

        if getattr(model, "_hf_peft_config_loaded", False) and not isinstance(model, PeftModel):
            raise ValueError(
                "`model` holds an adapter that `load_adapter` put in. Load it with `PeftModel.from_pretrained(base, folder)`, so "
                "that it can be switched off, or merge it first."
            )
        self.before: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                if isinstance(model, PeftModel):
                    self.before = list(model.active_adapters)
                    self.name = next(n for i in range(1, 1000) if (n := f"patch{i}") not in model.peft_config)
                    model.add_adapter(self.name, config)
                    model.set_adapter(self.name)
                else:
                    self.name = "default"
                    model = get_peft_model(model, config)
            except (ValueError, TypeError) as error:
                raise ValueError(f"`peft_config` does not fit the model: {error}") from error
        self.model: Any = model
        self.names = [n for n, p in model.named_parameters() if p.requires_grad]
        if not self.names:
            raise ValueError("`peft_config` leaves nothing to train on this model.")
        if config.task_type and self.trains_head:
            logger.warning(
                "`peft_config.task_type=%r` makes PEFT train the classification head as well.", config.task_type
            )
        self._norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._switch_on()

    def _switch_on(self) -> None:
        if self.before:
            self.model.base_model.set_adapter([*self.before, self.name])
        restrict(self.model, self.names)  # PEFT lets everything that is active require a gradient

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """Inside, the model is what it was before, bit for bit, head included."""
        try:
            if self.before:
                self.model.base_model.set_adapter(self.before)
                yield self.model
            else:
                with self.model.disable_adapter():
                    yield self.model
        finally:
            self._switch_on()

    def freeze_statistics(self) -> None:
        """BatchNorm statistics belong to the original: hold them, in training mode too."""
        for module in self._norms:
            module.eval()

    @property
    def trains_head(self) -> bool:
        """Whether part of the classification head moves."""
        return any("modules_to_save" in n for n in self.names) or any(
            f".{find_head(self.model)}." in n for n in self.names
        )

    def describe(self) -> dict[str, Any]:
        """For reports: kind, size and reach of the patch."""
        config = self.model.peft_config[self.name]
        size = sum(p.numel() for n, p in self.model.named_parameters() if n in set(self.names))
        out = {"kind": str(getattr(config.peft_type, "value", config.peft_type)), "parameters": size}
        if hasattr(config, "r"):
            out["rank"] = config.r
        return {**out, "head": self.trains_head, "stacked_on": len(self.before)}


def adapter_names(model: nn.Module) -> list[str]:
    """Of a `PeftModel` the names of the parameters that may move; empty for other models.

    Raises:
        ValueError: none may.
    """
    if not is_adapted(model):
        return []
    names = [n for n, p in unwrap(model).named_parameters() if p.requires_grad]
    if not names:
        raise ValueError(
            "`model` is a `PeftModel` none of whose parameters may move. Load it with `is_trainable=True`, or pass `peft_config` to put "
            "a new adapter on top."
        )
    return names


def load_adapters(model: Any, folder: str | Path) -> None:
    """Write the saved adapters of a `PeftModel` that are active into it, strictly.

    Raises:
        ValueError: a file is missing or holds other tensors than the adapter has.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    model = unwrap(model)
    for name in model.active_adapters:
        file = Path(folder) / ("" if name == "default" else name) / ADAPTER_FILE
        if not file.is_file():
            raise ValueError(
                f"`resume_from_checkpoint`: {folder} holds no adapter '{name}' ({ADAPTER_FILE} is missing)."
            )
        saved, own = load_file(file), get_peft_model_state_dict(model, adapter_name=name)
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in own.items()}:
            raise ValueError(f"`resume_from_checkpoint`: {file} is of another adapter: names or shapes differ.")
        set_peft_model_state_dict(model, saved, adapter_name=name)
