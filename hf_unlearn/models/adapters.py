"""Unlearning as a patch: a PEFT adapter over the original, which stays unchanged and serves as the reference.

A patch can be saved, loaded, switched off and merged. It erases nothing: without it, the base still knows everything.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file, has_file

from .adapter_config import adapter_config, kind_of
from .config_checks import shapes_in
from .forward import classify, eval_mode, model_inputs, on_device, unwrap
from .structure import find_heads
from .trainable import restrict, updated_names

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
UPDATE_ADAPTER = "adapter"  # the value of `update` in a run that trains an adapter
# Largest output change (share of the largest logit) that an untrained adapter may cause. It is above zero to allow
# rounding and adapters that start with small weights.
START_TOLERANCE = 0.02
# Least root mean square that a trust region's step is relative to: adapters start at zero, small beside what they edit.
ADAPTER_STEP_FLOOR = 1.0


def is_adapted(model: nn.Module) -> bool:
    """Check whether `model` is a `PeftModel`, without importing PEFT."""
    return any(c.__name__ == "PeftModel" for c in type(unwrap(model)).__mro__)


def base_classifier(model: nn.Module) -> Any:
    """Return the classifier inside a `PeftModel`, with its adapter layers, or inside other wrappers."""
    inner: Any = unwrap(model)
    return inner.get_base_model() if is_adapted(inner) else inner


class Patch:
    """The adapter that a run trains. All other weights stay unchanged, adapters that were active before included.

    Args:
        model: a classifier, which is changed in place; or a `PeftModel`, which gets one more active adapter.
        config: a configuration as `adapter_config` takes it.
        seed: seed of the adapter's initial weights, which are the same in every process and after a resume; default 0.
        probe: a batch for two checks: with the patch off, the outputs are the original's bit for bit; with the patch
            on, they start there and depend on the patch. By default nothing is checked.

    Attributes:
        model: the `PeftModel`.
        name: name of the adapter in `model`.
        names: names of the parameters that may move: the adapter's, and copies of `modules_to_save`.
        before: names of the adapters that were active before.

    Raises:
        ValueError: the configuration does not fit the model.
    """

    def __init__(self, model: Any, config: Any, seed: int = 0, probe: Mapping[str, Any] | None = None) -> None:
        base = base_classifier(model)
        config = adapter_config(config, base)
        from peft import PeftModel, get_peft_model  # after `adapter_config`, which says how to install PEFT

        config.revision = config.revision or getattr(base.config, "_commit_hash", None)  # the revision of the base
        self.before: list[str] = list(model.active_adapters) if isinstance(model, PeftModel) else []
        copied = _copied_modules(config)
        if any(copied & _copied_modules(model.peft_config[n]) for n in self.before):
            raise ValueError(
                f"`peft_config` makes a second copy of {', '.join(sorted(copied))}, and only one copy can be active. Leave "
                "out `modules_to_save` and `task_type`, or first merge the adapter that `model` has."
            )
        original = None if probe is None else _logits(model, probe)
        size = len(list(model.modules()))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if isinstance(model, PeftModel):
                    self.name = next(n for i in range(1, 1000) if (n := f"patch{i}") not in model.peft_config)
                    PeftModel.add_adapter(model, self.name, config)  # Its subclasses also copy the head.
                    model.set_adapter(self.name)
                else:
                    self.name = "default"
                    model = get_peft_model(model, config)
            self.model: Any = model
            self.names = [n for n, p in model.named_parameters() if p.requires_grad]
            if not self.names:
                raise ValueError("it leaves nothing to train.")
            self._switch_on([*self.before, self.name])
            if probe is not None and original is not None:
                self._check_outputs(probe, original)
        except Exception as error:  # PEFT raises errors of many types
            touched = "" if len(list(model.modules())) == size else " `model` was changed: load it again."
            raise ValueError(f"`peft_config` does not fit the model: {error}{touched}") from error
        if config.task_type and self.trains_head:
            logger.warning("`peft_config.task_type=%r` makes PEFT train the head as well.", config.task_type)
        if kind_of(config) == "ADALORA":
            logger.warning("AdaLoRA trains all its `init_r` ranks here and gives up none of them during the run.")

    def _check_outputs(self, probe: Mapping[str, Any], original: Tensor) -> None:
        with self.off() as model:
            off = _logits(model, probe)
        with eval_mode(self.model), torch.enable_grad():
            logits = classify(self.model, model_inputs(on_device(self.model, probe)))
        if off is None or not torch.equal(off, original):
            raise ValueError("switched off, the outputs are not the original's bit for bit.")
        if not logits.requires_grad:
            raise ValueError("no output depends on it.")
        if (logits - original).abs().max() > START_TOLERANCE * original.abs().max():
            raise ValueError(
                "its initial weights change the outputs, so a run would not start from the original. Choose an "
                "initialization that changes nothing, such as `init_weights=True`."
            )

    def _switch_on(self, adapters: list[str]) -> None:
        if self.before:
            self.model.base_model.set_adapter(adapters)
        restrict(self.model, self.names)  # PEFT lets everything that is active require a gradient

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """Inside, the model is what it was before the patch, bit for bit, head included."""
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
        """Return the kind and size of the patch, for reports."""
        config, parameters = self.model.peft_config[self.name], dict(self.model.named_parameters())
        return {
            "kind": kind_of(config),
            "parameters": sum(parameters[n].numel() for n in self.names),
            **({"rank": config.r} if hasattr(config, "r") else {}),
            "head": self.trains_head,
            "stacked_on": len(self.before),
        }


def _copied_modules(config: Any) -> set[str]:
    """Names of the modules of which an adapter has a copy of its own."""
    head = {"classifier", "score"} if str(getattr(config.task_type, "value", config.task_type)) == "SEQ_CLS" else set()
    tokens = {"token embeddings"} if getattr(config, "trainable_token_indices", None) else set()
    return head | tokens | set(getattr(config, "modules_to_save", None) or ())


@torch.no_grad()
def _logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor | None:
    """Logits; None if the model cannot run on its present device, such as half precision or fused attention on a CPU."""
    with eval_mode(model):
        try:
            return classify(model, model_inputs(on_device(model, batch)))
        except RuntimeError:
            return None


def norms_to_hold(model: nn.Module, updated: Iterable[str]) -> list[nn.Module]:
    """Return the BatchNorms whose statistics must not change, because they belong to frozen parameters.

    These are norms with a parameter that is not in `updated`, norms without parameters in a model with such a parameter,
    and under an adapter all norms, because no adapter file holds statistics.
    """
    model, moving = unwrap(model), set(updated)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    everything = {n for n, _ in model.named_parameters()}
    own = {n: {f"{n}.{p}" for p, _ in m.named_parameters()} or everything for n, m in norms.items()}
    return [m for n, m in norms.items() if is_adapted(model) or not own[n] <= moving]


def configurations(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the configuration of each adapter of a `PeftModel` by name, for JSON; empty for other models.

    Fields that depend on where the base was loaded from are left out.
    """
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
    """Return the names of a `PeftModel`'s parameters that may move and that `update` chooses; [] for other models."""
    if not is_adapted(model):
        return []
    names = [n for n, p in unwrap(model).named_parameters() if p.requires_grad]
    if not names:
        raise ValueError(
            "`model` is a `PeftModel` none of whose parameters may move. Load it with `is_trainable=True`, or pass "
            "`peft_config` to put a new adapter on top."
        )
    chosen = names if update == UPDATE_ADAPTER else [n for n in updated_names(model, update) if n in set(names)]
    if not chosen:
        raise ValueError(f"`update={update!r}` matches no parameter of the adapter that may move. Leave it out.")
    return chosen


def with_adapter_like(model: nn.Module, classifier: Any) -> Any:
    """Return `classifier` with an untrained adapter of the kind and size of the first one of the `PeftModel` `model`."""
    from peft import get_peft_model

    peft_model: Any = unwrap(model)
    config = copy.deepcopy(next(iter(peft_model.peft_config.values())))
    config.inference_mode = False
    return get_peft_model(classifier, config)


def let_adapter_move(model: nn.Module) -> None:
    """Let a run change the adapter of a `PeftModel` that was loaded from a folder, and its copy of the head. Other models stay as they are.

    Raises:
        ValueError: `model` has several adapters. To change those that forgot something could bring it back.
    """
    if not is_adapted(model):
        return
    peft_model: Any = unwrap(model)
    names = list(peft_model.active_adapters)
    if len(names) > 1:
        raise ValueError(
            f"`model` has {len(names)} adapters on top of one another, and to change those of earlier requests could bring back what "
            "they forgot: pass `peft_config` to put a new one on top."
        )
    peft_model.set_adapter(names[0])


def load_adapters(model: Any, folder: str | Path, argument: str = "resume_from_checkpoint") -> None:
    """Load the saved weights of the active adapters of a `PeftModel` into it. A ValueError names `argument`."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    model = unwrap(model)
    for name in model.active_adapters:
        file = Path(folder) / ("" if name == "default" else name) / ADAPTER_FILE
        if not file.is_file():
            raise ValueError(f"`{argument}`: {folder} holds no adapter '{name}' ({ADAPTER_FILE} is missing).")
        saved, own = load_file(file), get_peft_model_state_dict(model, adapter_name=name)
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in own.items()}:
            raise ValueError(f"`{argument}`: {file} is of another adapter: names or shapes differ.")
        set_peft_model_state_dict(model, saved, adapter_name=name)


def whole_tensors(source: str, revision: str | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of the adapter in `source` by their names in the base, such as those of a whole head.

    Raises:
        OSError: there is no safetensors file of an adapter.
    """
    if Path(source, ADAPTER_FILE).with_suffix(".bin").is_file() and not Path(source, ADAPTER_FILE).is_file():
        raise OSError(
            f"{source} holds adapter_model.bin and no {ADAPTER_FILE}. A pickle can run any code, so it is not loaded. Load it "
            "with PEFT where you trust it, and save it again with `save_pretrained`."
        )
    shapes = shapes_in(Path(str(cached_file(source, ADAPTER_FILE, revision=revision))))
    return {n.removeprefix("base_model.model.").replace(".modules_to_save.", "."): s for n, s in shapes.items()}


def load_patches(base: nn.Module, source: str | Path, revision: str | None = None) -> Any:
    """Return `base` with the adapter of `source` and all patches that are stacked on it there, active and frozen.

    `PeftModel.from_pretrained` would load the first of several patches only, so what the others forget would come back.

    Args:
        source: a folder or a repository on the Hub.
        revision: a revision on the Hub; by default the newest.

    Raises:
        ValueError: a file holds other tensors than its configuration asks for.
        OSError: there is no adapter, or no safetensors file of it.
    """
    from peft import PeftConfig, PeftModel

    file = cached_file(str(source), ADAPTER_FILE, revision=revision)
    config = PeftConfig.from_pretrained(str(source), revision=revision)
    task = config.task_type
    if not config.is_prompt_learning:
        config.task_type = None  # PEFT's class for the task would give every stacked patch a head of its own.
    model: Any = PeftModel.from_pretrained(base, str(source), config=config, revision=revision)
    config.task_type = task
    names = list(model.active_adapters)
    while has_file(str(source), f"{(name := f'patch{len(names)}')}/{ADAPTER_CONFIG_NAME}", revision=revision):
        cached_file(str(source), ADAPTER_FILE, revision=revision, subfolder=name)
        model.load_adapter(str(source), name, revision=revision, subfolder=name)
        names.append(name)
    model.base_model.set_adapter(names)
    load_adapters(model, Path(str(file)).parent, "source")
    return model.requires_grad_(False).eval()
