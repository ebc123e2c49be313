"""Run every method once, alone or in two processes. Arguments: the folder for the results, and `zero` for ZeRO-2.

A step has the same rows in both. Alone it is one batch; two processes share it, and if `parts` is 2 each takes its half in two
micro-batches. No set divides evenly: the 17 forget rows end with a batch of one row, so one process has none.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.state import DistributedType, PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from hf_unlearn import METHODS, ForgetRequest, UnlearningArguments, UnlearningMethod, UnlearningTrainer
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import state, trained
from tests.support.runs import SGD, KillAt, Killed

ROWS = 68  # 17 of each class


@dataclass
class Poison(UnlearningMethod):
    """A method whose loss is NaN on one row of the forget set, which only one process has."""

    def loss(self, model, batch, reference):
        logits = model(**{k: v for k, v in batch["forget"].items() if k != "labels"}).logits
        return {"any": logits.mean() * (float("nan") if 3 in batch["index"].tolist() else 1.0)}


# At the rate of the other cases these diverge, and the rounding of some processors then grows past any bound that could tell.
CALM = {"learning_rate": 0.02}
# name: method, architecture, settings of the method, arguments of the run
CASES = {
    "jit": ("jit", "vit", {"num_perturbations": 3}, {}),
    "jit: head, until the target": ("jit", "bert", {}, {"update": "head", "forget_target": None, "max_steps": 40, "trust_region": 0.05}),
    "jit: sum, as published": (
        "jit", "vit", {"num_perturbations": 3, "reduction": "sum", "clamp": "batch", "relative": False, "anchors": False},
        {"parts": 2, "learning_rate": 0.005},
    ),
    "counterfactual_distillation": ("counterfactual_distillation", "vit", {}, {"parts": 2, **CALM}),
    "marginal_information": ("marginal_information", "bert", {"gamma": 2.0, "memory": 0.5}, {}),
    "marginal_information: accumulated": ("marginal_information", "vit", {"utility": "kl"}, {"parts": 2}),
    "marginal_information: averaged": (
        "marginal_information", "vit", {"gamma": 2.0}, {"max_steps": 6, "weight_average": 0.5, "check_steps": 2, **CALM},
    ),
    "feature_information": ("feature_information", "vit", {"attribute": "group"}, {"batch": 20}),
    "wasserstein_barycenter": ("wasserstein_barycenter", "vit", {"attribute": "group"}, {}),
    "uib": ("uib", "vit", {}, CALM),
    "uib: over marginal_information": ("uib", "vit", {"base": "marginal_information"}, {"parts": 2, **CALM}),
    "uib: over gradient_ascent": ("uib", "bert", {"base": "gradient_ascent", "refresh": 2}, CALM),
    "surrogate_distillation": ("surrogate_distillation", "vit", {}, {"parts": 2, "retain_per_forget": 2}),
    "surrogate_distillation: by direction": (
        "surrogate_distillation", "bert", {"contrast": 16.0}, {"parts": 2, "retain_per_forget": 2, "base_model": "none"},
    ),
    "retrain": ("retrain", "vit", {}, {"batch": 20, "learning_rate": 0.5}),
    "fine_tune": ("fine_tune", "bert", {}, {"batch": 20, "parts": 2, "learning_rate": 0.5}),
    "gradient_ascent": ("gradient_ascent", "resnet", {}, {"retain_per_forget": 3}),
    "gradient_ascent: lands on its target": (
        "gradient_ascent", "vit", {}, {"forget_kind": "samples", "forget_target": 0.5, "trust_region": 0.02, "max_steps": 40},
    ),
    "gradient_ascent: halves its steps": (
        "gradient_ascent", "vit", {},
        {"trust_region": 0.1, "max_steps": 6, "check_steps": 4, "max_retain_drop": 0.2, "max_halvings": 20},
    ),
    "gradient_difference": ("gradient_difference", "bert", {"anchors": True}, {"retain_per_forget": 2, "parts": 2}),
    "neggrad_plus": ("neggrad_plus", "vit", {}, {"parts": 2, "retain_per_forget": 2}),
    "salun": ("salun", "bert", {"saliency": 0.5}, {"retain_per_forget": 2, **CALM}),
    "scrub": ("scrub", "vit", {}, {"parts": 2, **CALM}),
    "msg": ("msg", "vit", {}, CALM),
    "cola": ("cola", "vit", {}, {"parts": 2, "retain_per_forget": 2}),
    "cola: single rows": ("cola", "bert", {}, {"retain_per_forget": 2, "forget_kind": "samples"}),
    "l1_sparse": ("l1_sparse", "bert", {"alpha": 1e-6}, {"batch": 20, "parts": 2}),
    "delete": ("delete", "vit", {}, {"parts": 2, **CALM}),
    "selective_synaptic_dampening": ("selective_synaptic_dampening", "vit", {"selection": 1.5}, {}),
    "influence_unlearning": ("influence_unlearning", "vit", {"scale": 0.1}, {}),
    "regun": ("regun", "vit", {}, {"parts": 2, "retain_per_forget": 2, "forget_kind": "samples"}),
    "boundary_shrink": ("boundary_shrink", "bert", {}, {**CALM}),
    "bad_teacher": ("bad_teacher", "vit", {}, {"parts": 2, "retain_per_forget": 2}),
    "trust region": ("gradient_difference", "vit", {}, {"trust_region": 0.01}),
}  # fmt: skip


def trainer_of(name, folder, callbacks=(), **more):
    key, arch, settings, changes = CASES[name]
    changes = {"batch": 8, "parts": 1, **changes, **more}
    batch, parts = changes.pop("batch"), changes.pop("parts")
    base_model = changes.pop("base_model", None)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    single = changes.get("forget_kind") == "samples"
    split = ForgetRequest(fraction=0.26).split(data_for(arch, ROWS)) if single else class_split(arch, ROWS)
    settings = {**settings, "base": METHODS[settings["base"]]()} if "base" in settings else settings
    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 4,
        "per_device_train_batch_size": batch // (parts * processes if processes > 1 else 1),
        "gradient_accumulation_steps": parts if processes > 1 else 1,
        "per_device_eval_batch_size": 8,
        "forget_target": -1.0,
        "forget_kind": "class",
        "max_retain_drop": 1.0,
        "logging_steps": 1,
        "update": "all",
        "dataloader_pin_memory": False,
        **SGD,
        "learning_rate": 0.05,
        **changes,
    }
    return UnlearningTrainer(
        trained(arch),
        UnlearningArguments(**arguments),
        METHODS[key](**settings),
        split.forget,
        split.retain,
        eval_dataset=data_for(arch, 30, 9),
        processing_class=processing_class(arch),
        callbacks=list(callbacks),
        base_model=base_model,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )


SHARDED = (
    "marginal_information: averaged",
    "feature_information",
    "wasserstein_barycenter",
    "retrain",
    "fine_tune",
    "gradient_ascent: lands on its target",
    "gradient_ascent: halves its steps",
    "gradient_difference",
)
ZERO = (
    "jit",
    "marginal_information: accumulated",
    "marginal_information: averaged",
    "feature_information",
    "retrain",
    "fine_tune",
    "gradient_ascent",
    "gradient_difference",
)
RESUMED = ("uib: over marginal_information",)
LAYERS = {"vit": "ViTLayer", "bert": "BertLayer"}


def sharded_trainer_of(name, *args, **settings):
    """Make the same trainer under FSDP2. Accelerate runs its own code on gloo if its state claims to have several GPUs."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
    os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
    os.environ |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": LAYERS[CASES[name][1]]}
    resolved = UnlearningArguments.resolved

    def resolved_for_gpus(self, *given):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return resolved(self, *given)

    UnlearningArguments.resolved = resolved_for_gpus
    try:
        return trainer_of(name, *args, **settings)
    finally:
        UnlearningArguments.resolved = resolved


def zero_trainer_of(name, *args, **settings):
    """Make the same trainer under DeepSpeed, which accelerate otherwise allows only on GPUs."""
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    os.environ |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"}
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_CPU)
    torch.accelerator.is_available = lambda: True
    return trainer_of(name, *args, use_cpu=False, **settings)


class SeesShards(TrainerCallback):
    """Assert in each step that the model is sharded."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        assert any(isinstance(p, DTensor) for p in model.parameters())


def result_of(trainer):
    return {
        "weights": state(trainer.model),
        "log": [{k: v for k, v in e.items() if "loss" in k} for e in trainer.state.log_history if "loss" in e],
        "evaluation": {k: v for k, v in trainer.evaluate().items() if k in ("eval_loss", "eval_accuracy")},
        "outcome": trainer.outcome.as_dict(),
        "processes": trainer.args.world_size,
    }


def killed_and_resumed(make, name, key, results, folder):
    """Make a run in one go, and again with a kill after its partial batch and a resume."""
    trainer = make(name, folder / f"whole-{len(results)}", max_steps=5)
    trainer.train()
    where, saving = folder / f"killed-{len(results)}", {"save_strategy": "steps", "save_steps": 1, "max_steps": 5}
    results[f"whole: {key}"] = result_of(trainer)
    try:
        make(name, where, [KillAt(4)], **saving).train()
    except Killed:
        trainer = make(name, where, **saving)
        trainer.train(resume_from_checkpoint=True)
        results[f"resumed: {key}"] = result_of(trainer)


def every_case(folder, results):
    for name in CASES:
        trainer = trainer_of(name, folder / str(len(results)))
        trainer.train()
        results[name] = result_of(trainer)
    for name in RESUMED:
        killed_and_resumed(trainer_of, name, name, results, folder)
    # BatchNorm uses each process's own rows: the result differs from one process, but must be equal in both.
    CASES["batch norm"] = ("fine_tune", "resnet", {}, {"check_steps": 2})
    trainer = trainer_of("batch norm", folder / "batch-norm")
    trainer.train()
    results["batch norm"] = result_of(trainer)
    CASES["poison"] = ("poison", "vit", {}, {})
    METHODS["poison"] = Poison
    try:
        trainer_of("poison", folder / "poison").train()
    except FloatingPointError as error:
        results["poison"] = str(error)


def sharded_cases(folder, results):
    for name in SHARDED:
        trainer = sharded_trainer_of(name, folder / f"sharded-{len(results)}", [SeesShards()])
        trainer.train()
        results[f"fsdp: {name}"] = result_of(trainer)
    killed_and_resumed(sharded_trainer_of, "trust region", "fsdp: trust region", results, folder)
    # Resume when no step is left: the model is read from the whole weights, which lie beside the shards.
    name, saving = "gradient_ascent: lands on its target", {"save_strategy": "steps", "save_steps": 1}
    sharded_trainer_of(name, folder / "landed", **saving).train()
    trainer = sharded_trainer_of(name, folder / "landed", **saving)
    trainer.train(resume_from_checkpoint=True)
    results[f"resumed: fsdp: {name}"] = result_of(trainer)


def zero_cases(folder, results):
    for name in ZERO:
        trainer = zero_trainer_of(name, folder / f"zero-{len(results)}")
        assert trainer.is_deepspeed_enabled
        trainer.train()
        results[f"zero: {name}"] = result_of(trainer)
    killed_and_resumed(zero_trainer_of, "gradient_difference", "zero: gradient_difference", results, folder)


def run_all(folder, *words):
    """Run the cases, and save their results."""
    found = {}
    if "zero" in words:
        zero_cases(folder, found)
    else:
        every_case(folder, found)
        if "RANK" in os.environ:
            sharded_cases(folder, found)
    torch.save(found, folder / f"results-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an interpreter that shuts down in the normal way
