"""Runs of the trainer that train an adapter: what moves, checkpoints, half precision, the report."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from hf_unlearn import JiT, UnlearningTrainer
from hf_unlearn.models.adapter_config import adapter_config
from hf_unlearn.models.adapters import Patch
from hf_unlearn.models.prediction import predict
from tests.models.support import adapted, logits, patched
from tests.support.data import class_split, data_for, processing_class
from tests.support.methods import GRADIENT, make
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD, arguments, trainer_for, whole_and_resumed
from tests.support.tables import in_turn, slow

# Together too long for the quick tests.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_anchors")]


def base_state(model):
    """The parameters and buffers that are no adapter's, under the names of the plain model."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", ""): tensor
        for name, tensor in state(model).items()
        if not any(part in name for part in ("lora_", "ia3_", "modules_to_save"))
    }


# Every method on an architecture, in turn.
@pytest.mark.parametrize(
    ("name", "arch"), [(m, arch) for i, m in enumerate(m for m in GRADIENT if m != "retrain") for arch in in_turn(i)]
)
def test_only_the_adapter_moves_and_the_original_is_there_when_it_is_off(tmp_path, name, arch):
    original = trained(arch)
    trainer = patched(arch, tmp_path, make(name), **{**SGD, "learning_rate": 0.2})
    before = state(trainer.model)
    trainer.train()
    assert all(math.isfinite(e["loss"]) for e in trainer.state.log_history if "loss" in e)
    moved = changed(before, state(trainer.model))
    assert moved
    assert moved <= set(trainer.patch.names)
    assert all("lora_" in n for n in moved)
    assert not changed(state(original), base_state(trainer.model))
    assert not torch.equal(logits(trainer.model, arch), logits(original, arch))
    with trainer.patch.off() as model:
        assert torch.equal(logits(model, arch), logits(original, arch))
    assert {n for n, p in trainer.model.named_parameters() if p.requires_grad} == set(trainer.patch.names)
    with trainer.original_weights() as model:
        assert torch.equal(logits(model, arch), logits(original, arch))


def test_a_model_trained_with_an_adapter_is_unlearned_in_that_adapter(tmp_path):
    model = get_peft_model(trained("bert"), LoraConfig(r=4, target_modules=["query"], init_lora_weights=False))
    want = logits(model, "bert")
    trainer = trainer_for(
        "bert", tmp_path, JiT(num_perturbations=2), model=model, max_steps=2, save_strategy="steps", save_steps=1
    )
    before = state(model)
    trainer.train()
    assert all("lora_" in n for n in changed(before, state(trainer.model)))
    with trainer.original_weights() as original:
        assert torch.equal(logits(original, "bert"), want)
    ended = state(trainer.model)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert not changed(ended, state(trainer.model))


def test_an_adapter_takes_the_same_steps_however_it_is_passed(tmp_path):
    def run(folder, model, peft_config):
        settings = {"peft_config": peft_config, "trust_region": 0.01, "seed": 0}
        trainer = trainer_for("vit", tmp_path / folder, make("gradient_ascent"), model=model, **settings)
        trainer.train()
        return state(trainer.model)

    base = trained("vit")
    torch.manual_seed(0)
    wrapped = get_peft_model(base, adapter_config("lora", base))
    assert not changed(run("given", None, "lora"), run("wrapped", wrapped, None))


def test_an_adapter_is_not_retrained(tmp_path):
    with pytest.raises(ValueError, match="`method='retrain'` starts from fresh weights"):
        patched("vit", tmp_path, make("retrain"), None, model=adapted())


def test_a_new_adapter_is_trained_on_what_is_kept_if_a_function_makes_it(tmp_path):
    def untrained():
        """Its head is random, and the one below the adapter's copy of it never moves."""
        base = build("vit")
        base.vit.load_state_dict(trained("vit").vit.state_dict())
        return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["classifier"]))

    def run(folder):
        split = class_split("vit")
        trainer = UnlearningTrainer(
            args=arguments(tmp_path / folder),
            method=make("retrain"),
            forget_dataset=split.forget,
            retain_dataset=split.retain,
            processing_class=processing_class("vit"),
            model_init=untrained,
        )
        trainer.train()
        return state(trainer.model)

    ended = run("one")
    moved = changed(state(untrained()), ended)
    assert {n for n in moved if "lora_B" in n}
    assert not changed(ended, run("two"))


def test_the_adapter_in_a_folder_moves_unless_another_is_put_on_top(tmp_path):
    adapted().save_pretrained(tmp_path / "adapter")
    trained("vit").save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    own, on_top = (
        trainer_for("vit", tmp_path / "out", JiT(), model=str(tmp_path / "adapter"), peft_config=peft_config).updated
        for peft_config in (None, "lora")
    )
    assert own
    assert all(".default." in name for name in own)
    assert all(".patch1." in name for name in on_top)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arch", "config"),
    [
        ("jit", "vit", "lora"),
        ("fine_tune", "resnet", "ia3"),
        *slow(("jit", "resnet", "dora"), ("marginal_information", "bert", "lora"), ("uib", "vit", "lora")),
    ],
)
def test_a_resumed_patch_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name, arch, config):
    def run(folder, *callbacks, resume=None):
        trainer = patched(
            arch, tmp_path / folder, make(name), config, callbacks=list(callbacks), max_steps=5, save_strategy="steps",
            save_steps=2, check_steps=2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, resumed = whole_and_resumed(run, 3)
    assert not changed(state(whole.model), state(resumed.model))
    assert resumed.outcome.path == whole.outcome.path
    held = {f.name for f in (tmp_path / "killed" / "checkpoint-4").iterdir()}
    assert "adapter_model.safetensors" in held
    assert "model.safetensors" not in held


def test_a_stacked_patch_is_resumed_and_a_foreign_one_refused(tmp_path):
    first = patched("vit", tmp_path / "1")
    first.train()
    held = state(first.model)

    def second(folder, *callbacks, resume=None):
        base = trained("vit")
        model = Patch(base, "lora").model
        model.load_state_dict(held)
        trainer = patched(
            "vit", tmp_path / folder, model=model, callbacks=list(callbacks), max_steps=4, save_strategy="steps",
            save_steps=2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return state(trainer.model)

    assert not changed(*whole_and_resumed(second, 3))
    other = patched("vit", tmp_path / "3", config={"peft_type": "LORA", "r": 2})
    with pytest.raises(ValueError, match="of another adapter"):
        other._load_from_checkpoint(str(tmp_path / "killed" / "checkpoint-2"))
    with pytest.raises(ValueError, match="holds no adapter 'default'"):
        other._load_from_checkpoint(str(tmp_path))


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_the_best_patch_is_restored(tmp_path, arch):
    split = class_split(arch)
    trainer = UnlearningTrainer(
        trained(arch),
        arguments(
            tmp_path, max_steps=4, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
            load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False, update=None,
        ),
        make("gradient_ascent"),
        split.forget,
        eval_dataset=split.retain,
        processing_class=processing_class(arch),
        peft_config="lora",
    )  # fmt: skip
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/adapter_model.safetensors")
    own = {n.replace(".default", ""): t for n, t in state(trainer.model).items() if ".default" in n}
    assert not changed(best, own)


# --- memory and precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_gradient_checkpointing_trains_the_same_patch(tmp_path, arch):
    plain = patched(arch, tmp_path / "plain", **SGD)
    plain.train()
    saving = patched(arch, tmp_path / "saving", gradient_checkpointing=True, **SGD)
    before = state(saving.model)
    saving.train()
    assert changed(before, state(saving.model))
    for name, tensor in state(plain.model).items():
        torch.testing.assert_close(state(saving.model)[name], tensor, atol=1e-6, rtol=1e-5)


def test_checkpointing_that_would_train_nothing_is_refused(tmp_path):
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="loses the gradients of a layer above frozen ones"):
        patched("vit", tmp_path, **reentrant).train()


@pytest.mark.parametrize("arch", ["resnet", "convnext"])
def test_a_convolutional_model_in_half_precision_is_evaluated(tmp_path, arch):
    model, rows = trained(arch).to(torch.bfloat16), data_for(arch, 16, seed=3)
    trainer = patched(arch, tmp_path, model=model, eval_dataset=rows, eval_strategy="steps", eval_steps=1)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    labels = torch.tensor(rows["label"])
    bfloat_logits = predict(trainer.model, rows, trainer.processor)[0].to(torch.bfloat16)  # the precision of the loss
    assert losses[-1] == pytest.approx(F.cross_entropy(bfloat_logits, labels).item(), rel=1e-3)


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_report_says_that_a_patch_is_no_erasure(tmp_path):
    trainer = patched("vit", tmp_path / "run")
    trainer.train()
    split = class_split("vit")
    report = trainer.report(split.retain, split.retain)
    assert report.run["patch"] == {"kind": "LORA", "parameters": 2048, "rank": 8, "head": False, "stacked_on": 0}
    json.dumps(report.as_dict())
    for text in (report.to_markdown(), report.to_html(figures=False)):
        assert "publishing a patch is no erasure" in text
    plain = trainer_for("vit", tmp_path / "plain", JiT(num_perturbations=2))
    plain.train()
    assert "no erasure" not in plain.report(split.retain).to_markdown()
