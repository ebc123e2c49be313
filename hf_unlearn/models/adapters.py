"""Unlearning as a patch: a PEFT adapter over the original, which stays as it is and is the reference for free.

A patch can be saved, loaded, switched off and merged. Beside its base it is no erasure: the base still knows everything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .adapter_config import adapter_config, kind_of
from .forward import classify, eval_mode, model_inputs, unwrap
from .structure import find_heads
from .trainable import restrict, updated_names

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
UPDATE_ADAPTER = "adapter"  # what `update` is called where one moves
START = 0.02  # share of the largest logit by which an untrained adapter may move the outputs: rounding, and banks of small numbers
ADAPTER_STEP_FLOOR = 1.0  # least root mean square that a trust region's step is relative to: adapters start at zero, and are small beside what they edit


def is_adapted(model: nn.Module) -> bool:
    """Whether this is a `PeftModel`, without importing PEFT for one that is not."""
    return any(c.__name__ == "PeftModel" for c in type(unwrap(model)).__mro__)


def base_classifier(model: nn.Module) -> Any:
    """The classifier inside a `PeftModel`, adapter layers and all, or inside other wrappers."""
    inner: Any = unwrap(model)
    return inner.get_base_model() if is_adapted(inner) else inner


class Patch:
    """The adapter that a run trains. Everything else, adapters that were active before too, stays as it is.

    Args:
        model: a classifier, changed in place; or a `PeftModel`, which gets one more active adapter.
        config: see `adapter_config`.
        seed: of the adapter's initial weights, which are the same in every process and after a resume.
        probe: a batch on which it is checked that the original is there when the patch is off, and at the start when it is on.

    Attributes:
        model: the `PeftModel`.
        name: of the adapter in it.
        names: of the parameters that may move: the adapter's, and copies of `modules_to_save`.

    Raises:
        ValueError: the configuration does not fit the model.
    """

    def __init__(self, model: Any, config: Any, seed: int = 0, probe: Mapping[str, Any] | None = None) -> None:
        config = adapter_config(config, base_classifier(model))
        config.revision = config.revision or getattr(base_classifier(model).config, "_commit_hash", None)  # of the base
        self.before: list[str] = list(model.active_adapters) if isinstance(model, PeftModel) else []
        copied = [_copied(config), *(_copied(model.peft_config[n]) for n in self.before)]
        if any(copied[0] & other for other in copied[1:]):
            raise ValueError(
                f"`peft_config` makes a second copy of {', '.join(sorted(copied[0]))}, and an adapter below has its own: two cannot "
                "be active together. Leave `modules_to_save` and `task_type` out, or merge the adapter below first."
            )
        told, size = None if probe is None else _told(model, probe), len(list(model.modules()))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if isinstance(model, PeftModel):
                    self.name = next(n for i in range(1, 1000) if (n := f"patch{i}") not in model.peft_config)
                    model.add_adapter(self.name, config)
                    model.set_adapter(self.name)
                else:
                    self.name = "default"
                    model = get_peft_model(model, config)
            self.model: Any = model
            self.names = [n for n, p in model.named_parameters() if p.requires_grad]
            if not self.names:
                raise ValueError("it leaves nothing to train.")
            self._switch_on([*self.before, self.name])
            if told is not None:
                self._check(probe, told)  # type: ignore[arg-type]
        except Exception as error:  # PEFT raises all sorts
            touched = "" if len(list(model.modules())) == size else " `model` was changed: load it again."
            raise ValueError(f"`peft_config` does not fit the model: {error}{touched}") from error
        if config.task_type and self.trains_head:
            logger.warning(
                "`peft_config.task_type=%r` makes PEFT train the classification head as well.", config.task_type
            )
        if kind_of(config) == "ADALORA":
            logger.warning("AdaLoRA trains all its `init_r` ranks here: none is given up on the way.")

    def _check(self, probe: Mapping[str, Any], told: Tensor) -> None:
        """Raise ValueError where the patch, off, is not the original bit for bit, or, on, does not start there or cannot move."""
        with self.off() as model:
            off = _told(model, probe)
        with eval_mode(self.model), torch.enable_grad():
            logits = classify(self.model, _on_device(self.model, probe))
        if off is None or not torch.equal(off, told):
            raise ValueError("switched off, the outputs are not the original's bit for bit.")
        if not logits.requires_grad:
            raise ValueError("no output depends on it.")
        if (logits - told).abs().max() > START * told.abs().max():
            raise ValueError(
                "its initial weights change the outputs, so that a run would not start from the original. Choose an initialisation "
                "at which it does nothing, such as `init_weights=True`."
            )

    def _switch_on(self, adapters: list[str]) -> None:
        if self.before:
            self.model.base_model.set_adapter(adapters)
        restrict(self.model, self.names)  # PEFT lets everything that is active require a gradient

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """Inside, the model is what it was before, bit for bit, head included."""
        active = list(self.model.active_adapters)
        try:
            if self.before:
                self.model.base_model.set_adapter(self.before)
                yield self.model
            else:
                with self.model.disable_adapter():
                    yield self.model
        finally:
            self._switch_on(active)

    @property
    def trains_head(self) -> bool:
        """Whether part of the classification head moves."""
        heads = find_heads(base_classifier(self.model))
        return any(f".{head}." in f".{n}" for n in self.names for head in heads)

    def describe(self) -> dict[str, Any]:
        """For reports: kind, size and reach of the patch."""
        config = self.model.peft_config[self.name]
        size = sum(p.numel() for n, p in self.model.named_parameters() if n in set(self.names))
        rank = {"rank": config.r} if hasattr(config, "r") else {}
        return {
            "kind": kind_of(config),
            "parameters": size,
            **rank,
            "head": self.trains_head,
            "stacked_on": len(self.before),
        }


def _copied(config: Any) -> set[str]:
    """Names of the modules of which an adapter has a copy of its own."""
    head = {"classifier", "score"} if str(getattr(config.task_type, "value", config.task_type)) == "SEQ_CLS" else set()
    tokens = {"token embeddings"} if getattr(config, "trainable_token_indices", None) else set()
    return head | tokens | set(getattr(config, "modules_to_save", None) or ())


@torch.no_grad()
def _told(model: nn.Module, batch: Mapping[str, Any]) -> Tensor | None:
    """Logits; None where the model cannot run where it is now, as half precision or fused attention on a CPU."""
    with eval_mode(model):
        try:
            return classify(model, _on_device(model, batch))
        except RuntimeError:
            return None


def _on_device(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    device = next(model.parameters()).device
    return {k: v.to(device) for k, v in model_inputs(batch).items()}


def norms_to_hold(model: nn.Module, updated: Iterable[str]) -> list[nn.Module]:
    """BatchNorms whose statistics belong to the original: parameters of theirs (of a norm without any, of the model) are frozen.

    Under an adapter all of them, as no adapter file holds statistics.
    """
    model, moving = unwrap(model), set(updated)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    everything = {n for n, _ in model.named_parameters()}
    own = {n: {f"{n}.{p}" for p, _ in m.named_parameters()} or everything for n, m in norms.items()}
    return [m for n, m in norms.items() if is_adapted(model) or not own[n] <= moving]


def configurations(model: nn.Module) -> dict[str, dict[str, Any]]:
    """name -> configuration of each adapter of a `PeftModel`, JSON-ready, without where its base came from; empty for others."""
    configs: Any = unwrap(model).peft_config if is_adapted(model) else {}
    passing = ("inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version")
    return {
        name: {
            key: sorted(map(str, value)) if isinstance(value, set) else value
            for key, value in config.to_dict().items()
            if key not in passing and value is not None
        }
        for name, config in configs.items()
    }


def adapter_names(model: nn.Module, update: str = UPDATE_ADAPTER) -> list[str]:
    """Of a `PeftModel` the names of the parameters that may move, and that `update` lets; empty for other models.

    Raises:
        ValueError: there are none.
    """
    if not is_adapted(model):
        return []
    names = [n for n, p in unwrap(model).named_parameters() if p.requires_grad]
    if not names:
        raise ValueError(
            "`model` is a `PeftModel` none of whose parameters may move. Load it with `is_trainable=True`, or pass `peft_config` to put "
            "a new adapter on top."
        )
    chosen = names if update == UPDATE_ADAPTER else [n for n in updated_names(model, update) if n in set(names)]
    if not chosen:
        raise ValueError(
            f"`update={update!r}` matches no parameter that may move of the adapter of `model`. Leave it out."
        )
    return chosen


def load_adapters(model: Any, folder: str | Path, argument: str = "resume_from_checkpoint") -> None:
    """Write the saved adapters of a `PeftModel` that are active into it, strictly.

    Raises:
        ValueError: a file is missing or holds other tensors than the adapter has.
    """
    model = unwrap(model)
    for name in model.active_adapters:
        file = Path(folder) / ("" if name == "default" else name) / ADAPTER_FILE
        if not file.is_file():
            raise ValueError(f"`{argument}`: {folder} holds no adapter '{name}' ({ADAPTER_FILE} is missing).")
        saved, own = load_file(file), get_peft_model_state_dict(model, adapter_name=name)
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in own.items()}:
            raise ValueError(f"`{argument}`: {file} is of another adapter: names or shapes differ.")
        set_peft_model_state_dict(model, saved, adapter_name=name)


def load_patches(base: nn.Module, source: str | Path, revision: str | None = None) -> Any:
    """`base` with the adapter in a folder or on the Hub and all patches stacked on it there, active and frozen: a `PeftModel`.

    `PeftModel.from_pretrained` alone takes the first of several patches, and leaves out what the others forget.

    Raises:
        ValueError: a file holds other tensors than its configuration asks for.
        OSError: there is no adapter, or not as safetensors.
    """
    file = cached_file(str(source), ADAPTER_FILE, revision=revision)
    model: Any = PeftModel.from_pretrained(base, str(source), revision=revision)
    names = list(model.active_adapters)
    while find_adapter_config_file(str(source), revision=revision, subfolder=(name := f"patch{len(names)}")):
        cached_file(str(source), ADAPTER_FILE, revision=revision, subfolder=name)
        model.load_adapter(str(source), name, revision=revision, subfolder=name)
        names.append(name)
    model.base_model.set_adapter(names)
    load_adapters(model, Path(str(file)).parent, "source")
    return model.requires_grad_(False).eval()
