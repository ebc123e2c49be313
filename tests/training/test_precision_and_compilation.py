"""bf16, accumulation, compilation and gradient checkpointing give the weights of a plain run."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_unlearn import (
    UIB,
    CounterfactualDistillation,
    FineTune,
    GradientDifference,
    JiT,
    MarginalInformation,
    UnlearningTrainer,
)
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import arguments, trainer_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_anchors")]

FAMILIES = {
    "jit": lambda: JiT(num_perturbations=2),
    "counterfactual_distillation": lambda: CounterfactualDistillation(relearning_steps=1),
    "gradient_difference": GradientDifference,
    "marginal_information": MarginalInformation,
    "uib": lambda: UIB(refresh=2),
    "fine_tune": FineTune,
}


def family(folder, key, arch="vit", **changes):
    settings = {"update": "all", "max_steps": 3, "logging_steps": 1, **changes}
    trainer = trainer_for(arch, folder, FAMILIES[key](), **settings)
    trainer.train()
    logged = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    assert len(logged) == settings["max_steps"]
    assert np.isfinite(logged).all()
    assert set(state(trainer.model)) == set(state(trained(arch))), "the names of the model's own tensors"
    return trainer


def displacement(trainer, arch="vit"):
    before, after = state(trained(arch)), state(trainer.model)
    assert all(after[n].dtype == t.dtype for n, t in before.items())
    return torch.cat([(after[n] - t).flatten() for n, t in before.items() if t.is_floating_point()])


def report_of(trainer):
    return trainer.report(test_dataset=data_for("vit", 24, seed=3)).models["unlearned"]


@pytest.mark.parametrize("key", ["jit", "gradient_difference", "uib", "fine_tune"])
def test_bf16_goes_the_same_way(tmp_path, key):
    plain, half = family(tmp_path / "32", key), family(tmp_path / "16", key, bf16=True)
    a, b = displacement(plain), displacement(half)
    assert torch.isfinite(b).all()
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > (0.6 if key == "fine_tune" else 0.95)
    assert changed(state(plain.model), state(half.model)), "bf16 was not used"
    assert half.outcome.outputs_moved == pytest.approx(plain.outcome.outputs_moved, abs=0.02)
    assert report_of(half)["test_accuracy"] == pytest.approx(report_of(plain)["test_accuracy"], abs=0.05)


@pytest.mark.parametrize("key", ["jit", "gradient_difference"])
def test_accumulated_micro_batches_give_the_same_weights(tmp_path, key):
    whole = family(tmp_path / "1", key, per_device_train_batch_size=8)
    parts = family(tmp_path / "4", key, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    a, b = displacement(whole), displacement(parts)
    assert (a - b).norm() < 1e-3 * a.norm()


@pytest.mark.parametrize(
    ("key", "backend"),
    [
        ("gradient_difference", "eager"),
        ("gradient_difference", "aot_eager"),
        pytest.param("jit", "eager", marks=pytest.mark.slow),
        pytest.param("uib", "eager", marks=pytest.mark.slow),
    ],
)
def test_compiled_models_give_the_same_weights(tmp_path, key, backend):
    import torch._dynamo.utils as dynamo

    torch._dynamo.reset()
    dynamo.counters.clear()
    compiled = family(tmp_path / "c", key, torch_compile=True, torch_compile_backend=backend)
    graphs, missed = dynamo.counters["stats"]["unique_graphs"], dict(dynamo.counters["recompile_limit"])
    torch._dynamo.reset()
    assert 0 < graphs < 6
    assert not missed
    a, b = displacement(family(tmp_path / "p", key)), displacement(compiled)
    assert (a - b).norm() <= 1e-5 * a.norm()
    assert report_of(compiled).keys() >= {"forget_accuracy", "test_accuracy"}
    compiled.save_model(str(tmp_path / "saved"))
    assert not changed(state(compiled.model), state(type(compiled.model).from_pretrained(tmp_path / "saved")))


CHECKPOINTING = {"gradient_checkpointing": True}


@pytest.mark.filterwarnings("error:None of the inputs")
@pytest.mark.parametrize(
    ("key", "arch"),
    [*((key, "vit") for key in FAMILIES), *((key, "bert") for key in ("jit", "gradient_difference", "uib"))],
)
def test_gradient_checkpointing_recomputes_and_gives_the_same_weights(tmp_path, caplog, key, arch):
    forwards = []

    def counted(folder, **changes):
        calls = [0]

        class Count(TrainerCallback):
            def on_step_begin(self, args, state_, control, model=None, **kwargs):
                if state_.global_step == 0:
                    layer = next(m for n, m in model.named_modules() if n.endswith(("attention", "self")))
                    layer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

        trainer = family(folder, key, arch, callbacks=[Count()], **changes)
        forwards.append(calls[0])
        return trainer

    plain, recomputed = counted(tmp_path / "p"), counted(tmp_path / "c", **CHECKPOINTING)
    assert not changed(state(plain.model), state(recomputed.model))
    assert forwards[1] > forwards[0]
    assert "one after another" not in caplog.text, "UIB's gradients of single samples were slowed down"


@pytest.mark.parametrize("update", ["head", "last:1", "peft"])
def test_gradient_checkpointing_above_frozen_layers_gives_the_same_weights(tmp_path, update):
    split = class_split("bert")

    def run(folder, **changes):
        own = {} if update == "peft" else {"update": update}
        trainer = UnlearningTrainer(
            trained("bert"),
            arguments(tmp_path / folder, forget_kind="class", **own, **changes),
            GradientDifference(),
            split.forget,
            split.retain,
            processing_class=processing_class("bert"),
            peft_config={"peft_type": "LORA", "r": 2} if update == "peft" else None,
        )
        trainer.train()
        return trainer

    plain, recomputed = run("p"), run("c", **CHECKPOINTING)
    assert plain.outcome.tensors_changed == recomputed.outcome.tensors_changed > 0
    assert not changed(state(plain.model), state(recomputed.model))


def test_the_form_of_checkpointing_that_loses_gradients_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`gradient_checkpointing_kwargs=\{'use_reentrant': True\}` loses"):
        arguments(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="does not support"):
        trainer_for("resnet", tmp_path, GradientDifference(), **CHECKPOINTING).train()
