"""Unlearning as a patch: adapters over a frozen original."""

import copy
import json
import math

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from hf_unlearn import JiT, MarginalInformation, UnlearningTrainer
from hf_unlearn.models.adapter_config import adapter_config
from hf_unlearn.models.adapters import Patch
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.models.reference import FrozenOriginal
from hf_unlearn.models.structure import default_targets
from tests.support.data import class_split, processing_class
from tests.support.methods import GRADIENT, make
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD, KillAt, Killed, arguments, forget_batch, trainer_for

KINDS = ("lora", "dora", "ia3")
ARCHES = ("vit", "resnet", "convnext", "swin", "bert", "distilbert", "roberta")
HEAD = {"vit": "classifier", "bert": "classifier", "resnet": "classifier.1"}


def patched(arch, folder, method=None, config="lora", **changes):
    """A trainer of an adapter."""
    return trainer_for(arch, folder, method or JiT(num_perturbations=2), peft_config=config, **changes)


@torch.no_grad()
def logits(model, arch, n=8):
    with eval_mode(model):
        return classify(model, model_inputs(forget_batch(arch, n)["forget"]))


def base_state(model):
    """The parameters and buffers that are no adapter's, under the names of the plain model."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", ""): tensor
        for name, tensor in state(model).items()
        if not any(part in name for part in ("lora_", "ia3_", "modules_to_save"))
    }


# --- the behaviour table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["vit", "bert"])
@pytest.mark.parametrize("name", [m for m in GRADIENT if m != "retrain"])
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHES)
def test_a_patch_on_every_architecture_is_switched_off_bit_for_bit_and_stacked(arch, kind):
    model = trained(arch)
    want = logits(model, arch)
    first = Patch(model, kind)
    assert not first.trains_head
    torch.testing.assert_close(logits(first.model, arch), want, atol=1e-5, rtol=1e-5)
    perturb(first)
    once = logits(first.model, arch)
    second = Patch(first.model, kind)
    assert not set(first.names) & set(second.names)
    perturb(second)
    twice = logits(second.model, arch)
    assert not torch.equal(once, want)
    assert not torch.equal(twice, once)
    with second.off() as now:
        assert torch.equal(logits(now, arch), once)
    with second.model.disable_adapter():
        assert torch.equal(logits(second.model, arch), want)
    assert second.describe()["stacked_on"] == 1


def perturb(patch):
    """Move what may move, as a run does."""
    parameters = dict(patch.model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in patch.names:
            parameters[name].add_(0.3 * torch.randn(parameters[name].shape, generator=generator))


def test_the_initial_adapter_is_the_same_in_every_process_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    first = Patch(trained("vit"), "lora", seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert not changed(state(first.model), state(Patch(trained("vit"), "lora", seed=3).model))
    assert changed(state(first.model), state(Patch(trained("vit"), "lora", seed=4).model))


# --- saved, loaded, merged, stacked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*KINDS, LoraConfig(r=2, modules_to_save=["classifier"])])
@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_a_saved_patch_is_loaded_switched_off_and_merged(tmp_path, arch, config):
    trainer = patched(arch, tmp_path / "run", config=config)
    trainer.train()
    unlearned = logits(trainer.model, arch)
    save_model(trainer.model, processing_class(arch), tmp_path / "patch")
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {f.name for f in (tmp_path / "patch").iterdir()}
    assert not {"README.md", "model.safetensors"} & {f.name for f in (tmp_path / "patch").iterdir()}
    loaded = PeftModel.from_pretrained(trained(arch), tmp_path / "patch")
    assert torch.equal(logits(loaded, arch), unlearned)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded, arch), logits(trained(arch), arch))
    merged = loaded.merge_and_unload()
    assert not isinstance(merged, PeftModel)
    assert set(merged.state_dict()) == set(trained(arch).state_dict())
    torch.testing.assert_close(logits(merged, arch), unlearned, atol=1e-5, rtol=1e-4)


def test_two_requests_are_two_patches_each_of_which_can_be_taken_off(tmp_path):
    first = patched("vit", tmp_path / "1", split=class_split("vit", label=1))
    first.train()
    once = logits(first.model, "vit")
    second = patched("vit", tmp_path / "2", model=first.model, split=class_split("vit", label=2))
    held = {n: t for n, t in state(second.model).items() if ".default" in n}
    second.train()
    twice = logits(second.model, "vit")
    assert not torch.equal(twice, once)
    torch.testing.assert_close(second.reference.logits, predict_forget(first, second), atol=1e-6, rtol=1e-5)
    assert all(torch.equal(t, state(second.model)[n]) for n, t in held.items()), "the first patch moved"
    with second.patch.off() as model:
        assert torch.equal(logits(model, "vit"), once)

    second.model.save_pretrained(tmp_path / "both")
    loaded = PeftModel.from_pretrained(trained("vit"), tmp_path / "both")
    loaded.load_adapter(tmp_path / "both" / second.patch.name, second.patch.name)
    assert torch.equal(logits(loaded, "vit"), once)
    loaded.base_model.set_adapter(["default", second.patch.name])
    assert torch.equal(logits(loaded, "vit"), twice)
    merged = loaded.merge_and_unload(adapter_names=["default", second.patch.name])
    torch.testing.assert_close(logits(merged, "vit"), twice, atol=1e-5, rtol=1e-4)


def predict_forget(first, second):
    """What the model with the first patch alone says about the second forget set."""
    from hf_unlearn.models.prediction import predict

    with second.patch.off() as model:
        return predict(model, second.forget_dataset, first.processor)[0]


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


def test_a_vit_b_patch_of_rank_8_takes_at_most_3_mb():
    from transformers import ViTConfig, ViTForImageClassification

    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=1000))
    targets = default_targets(model)
    assert len(targets) == 12 * 4
    size = sum(4 * 8 * (m.in_features + m.out_features) for m in map(model.get_submodule, targets))
    assert adapter_config("lora", model).r == 8
    assert size <= 3_000_000


def test_the_file_is_no_larger_than_its_parameters(tmp_path):
    trainer = patched("vit", tmp_path / "run")
    trainer.train()
    save_model(trainer.model, None, tmp_path / "patch")
    file = tmp_path / "patch" / "adapter_model.safetensors"
    assert sum(t.numel() for t in load_file(file).values()) == trainer.patch.describe()["parameters"]
    assert file.stat().st_size <= 4 * trainer.patch.describe()["parameters"] + 4096


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arch", "config"),
    [
        ("jit", "vit", "lora"),
        ("jit", "resnet", "dora"),
        ("marginal_information", "bert", "lora"),
        ("uib", "vit", "lora"),
        ("fine_tune", "resnet", "ia3"),
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

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(3))
    resumed = run("killed", resume=True)
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
            "vit", folder, model=model, callbacks=list(callbacks), max_steps=4, save_strategy="steps", save_steps=2
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = second(tmp_path / "whole")
    with pytest.raises(Killed):
        second(tmp_path / "2", KillAt(3))
    assert not changed(state(whole.model), state(second(tmp_path / "2", resume=True).model))
    other = patched("vit", tmp_path / "3", config={"peft_type": "LORA", "r": 2})
    with pytest.raises(ValueError, match="of another adapter"):
        other._load_from_checkpoint(str(tmp_path / "2" / "checkpoint-2"))
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


# --- what must not move -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"), [("fine_tune", {}), ("jit", {"mode": "train"}), ("gradient_difference", {})]
)
def test_batch_norm_statistics_stay_under_a_patch(tmp_path, name, settings):
    trainer = patched("resnet", tmp_path, make(name, **settings))
    before = {n: b.clone() for n, b in trainer.model.named_buffers()}
    trainer.train()
    assert before
    assert not changed(before, dict(trainer.model.named_buffers()))


def test_the_head_is_frozen_unless_it_is_asked_for(tmp_path, caplog):
    assert not patched("bert", tmp_path / "a").patch.trains_head
    saved = patched("vit", tmp_path / "b", config=LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]))
    assert saved.patch.trains_head
    assert not [r for r in caplog.records if "head" in r.message]
    assert patched("bert", tmp_path / "c", config=LoraConfig(task_type="SEQ_CLS")).patch.trains_head
    assert "task_type" in caplog.text


@pytest.mark.parametrize("head", ["cls_classifier", "distillation_classifier"])
def test_either_head_of_a_distilled_model_is_its_head(head):
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=16, patch_size=8, num_labels=4, **small))
    assert not Patch(copy.deepcopy(model), "lora").trains_head
    assert Patch(model, LoraConfig(target_modules=["q_proj"], modules_to_save=[head])).trains_head


@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_the_frozen_base_is_the_reference(tmp_path, arch):
    trainer = patched(arch, tmp_path, MarginalInformation(utility="kl"))
    trainer.train()
    inputs = model_inputs(forget_batch(arch)["forget"])
    frozen = FrozenOriginal(trainer.model, trainer.patch)
    assert frozen.model is trainer.model
    assert torch.equal(frozen.logits(inputs), logits(trained(arch), arch))
    assert trainer.model.training or not torch.equal(logits(trainer.model, arch), logits(trained(arch), arch))


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


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "changes", "match"),
    [
        ("lora", {"update": "head"}, "`update='head'` and `peft_config`"),
        ("lora", {"method": "retrain"}, "`method='retrain'` starts from fresh weights"),
        ("nonsense", {}, "neither lora, dora, ia3"),
        ({"peft_type": "NONSENSE"}, {}, "'NONSENSE'` is unknown"),
        ({"peft_type": "LORA", "rank": 8}, {}, "no LORA configuration: .*rank"),
        ('["r", 8]', {}, "neither lora, dora, ia3"),
        (LoraConfig(task_type="SEQ_CLS"), {}, "an image model does not take"),
        (LoraConfig(target_modules=["no_such_layer"]), {}, "does not fit the model: .*no_such_layer"),
        (LoraConfig(r=0), {}, "does not fit the model"),
    ],
)
def test_bad_configurations_are_refused_by_name(tmp_path, config, changes, match):
    model = trained("vit")
    before = state(model)
    method = make(changes.pop("method", "jit"))
    with pytest.raises((ValueError, TypeError), match=match):
        patched("vit", tmp_path, method, config, model=model, **changes)
    assert not changed(before, state(model))


def test_other_things_than_configurations_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`peft_config` must be"):
        patched("vit", tmp_path, config=3)


def test_a_peft_model_that_cannot_move_is_refused(tmp_path):
    model = get_peft_model(trained("vit"), IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    with pytest.raises(ValueError, match="none of whose parameters may move"):
        trainer_for("vit", tmp_path, JiT(), model=model.requires_grad_(False))


def test_an_adapter_put_in_by_transformers_is_refused(tmp_path):
    get_peft_model(build("vit"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    model = trained("vit")
    model.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"Load it with `PeftModel\.from_pretrained"):
        patched("vit", tmp_path, model=model)


# --- report and command line ------------------------------------------------------------------------------------------


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
