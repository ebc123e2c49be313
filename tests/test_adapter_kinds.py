"""What a patch may be made of: kinds of PEFT that can be switched off, saved, stacked and merged; the others are refused early."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hf_unlearn import JiT
from hf_unlearn.cli import main
from hf_unlearn.hub.card.command_lines import snippet
from hf_unlearn.hub.push.staging import prepare_folder
from hf_unlearn.models.adapter_config import adapter_config
from hf_unlearn.models.adapters import Patch, load_patches
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.pretrained import load_classifier, save_model
from tests.support.data import data_for, image_data, image_processor
from tests.support.methods import make
from tests.support.models import changed, state, trained
from tests.support.runs import SGD, forget_batch
from tests.test_adapters import logits, patched, perturb

pytestmark = pytest.mark.slow

RANDOM = {"r": 2, "init_lora_weights": False}
KINDS = [
    ("bert", {"peft_type": "IA3"}),
    ("vit", {"peft_type": "LN_TUNING"}),
    ("bert", {"peft_type": "VERA"}),
    ("vit", {"peft_type": "LOHA"}),
    ("bert", {"peft_type": "LOKR"}),
    ("vit", {"peft_type": "OFT", "oft_block_size": 4}),
    ("vit", {"peft_type": "FOURIERFT", "n_frequency": 50, "init_weights": True}),
    ("vit", {"peft_type": "ADALORA", "total_step": 10}),
    ("bert", {"target_modules": "all-linear", "rank_pattern": {"query": 4}, "lora_dropout": 0.3}),
]
UNSTACKED = {"LN_TUNING": "more than one adapter", "ADALORA": "only 1 trainable adapter"}


def adapted(arch="vit", **changes):
    """A `PeftModel` whose adapter says something."""
    targets = {"bert": ["query"], "resnet": ["convolution"]}.get(arch, ["q_proj"])
    return get_peft_model(trained(arch), LoraConfig(**{**RANDOM, "target_modules": targets, **changes}))


def row(arch="vit"):
    return forget_batch(arch, 1)["forget"]


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "config"), KINDS, ids=[config.get("peft_type", "LORA") for _, config in KINDS])
def test_other_kinds_are_trained_switched_off_saved_merged_and_stacked(tmp_path, arch, config):
    want = logits(trained(arch), arch)
    trainer = patched(arch, tmp_path / "run", make("gradient_difference"), config, **{**SGD, "learning_rate": 0.1})
    before = state(trainer.model)
    trainer.train()
    assert changed(before, state(trainer.model))
    perturb(trainer.patch)
    unlearned = logits(trainer.model, arch)
    with trainer.patch.off() as model:
        assert torch.equal(logits(model, arch), want)
    save_model(trainer.model, None, tmp_path / "patch")
    loaded = load_patches(trained(arch), tmp_path / "patch")
    assert torch.equal(logits(loaded, arch), unlearned)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), arch), unlearned, atol=1e-5, rtol=1e-4)
    if (kind := config.get("peft_type")) in UNSTACKED:
        with pytest.raises(ValueError, match=UNSTACKED[kind]):
            Patch(trainer.model, config, probe=row(arch))
        return
    second = Patch(trainer.model, config, probe=row(arch))
    perturb(second)
    with second.off() as model:
        assert torch.equal(logits(model, arch), unlearned)


def test_layer_norms_are_the_default_of_ln_tuning():
    config = adapter_config({"peft_type": "LN_TUNING"}, trained("vit"))
    assert len(config.target_modules) == 2 * 2
    assert all("layernorm" in name for name in config.target_modules)
    assert LNTuningConfig().target_modules is None
    with pytest.raises(ValueError, match="no layer to adapt"):
        adapter_config({"peft_type": "LN_TUNING"}, trained("resnet"))  # batch norms hold statistics of the data


def test_feedforward_modules_that_peft_knows_are_left_out_where_none_are_named(tmp_path):
    """Of BERT it would name layers that are no targets, and what it saves it then cannot load."""
    patch = Patch(trained("bert"), IA3Config(target_modules=["query"]))
    patch.model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_patches(trained("bert"), tmp_path), "bert"), logits(patch.model, "bert"))


def test_a_model_in_half_precision_is_patched(tmp_path):
    dtype = torch.bfloat16
    want = logits(trained("vit").to(dtype), "vit")
    trainer = patched("vit", tmp_path / "run", config="dora", model=trained("vit").to(dtype))
    trainer.train()
    with trainer.patch.off() as model:
        assert torch.equal(logits(model, "vit"), want)
    trainer.model.save_pretrained(tmp_path / "patch")
    loaded = load_patches(trained("vit").to(dtype), tmp_path / "patch")
    assert torch.equal(logits(loaded, "vit"), logits(trainer.model, "vit"))


def test_a_copy_of_the_head_in_half_precision_is_refused_with_what_helps(tmp_path):
    """PEFT leaves it in the base's precision, and in float32 the layer before would not fit it."""
    config, half = LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]), trained("vit").bfloat16()
    match = r"`peft_config.modules_to_save`.*classifier.modules_to_save.*bfloat16.*`dtype=torch.float32`.*leave out"
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path, config=config, model=half)
    patched("vit", tmp_path, config=config).train()


@pytest.mark.parametrize("arch", ["resnet", "convnext"])
def test_a_convolutional_model_in_half_precision_is_evaluated(tmp_path, arch):
    model, rows = trained(arch).to(torch.bfloat16), data_for(arch, 16, seed=3)
    trainer = patched(arch, tmp_path, model=model, eval_dataset=rows, eval_strategy="steps", eval_steps=1)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    labels = torch.tensor(rows["label"])
    told = predict(trainer.model, rows, trainer.processor)[0].to(torch.bfloat16)  # as the model's own loss reads them
    assert losses[-1] == pytest.approx(F.cross_entropy(told, labels).item(), rel=1e-3)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (LoraConfig(init_lora_weights="pissa"), "the original would be lost"),
        (LoraConfig(init_lora_weights="pissa_niter_4"), "the original would be lost"),
        (LoraConfig(init_lora_weights="olora"), "the original would be lost"),
        (LoraConfig(bias="all"), "trains biases of the original itself"),
        ({"peft_type": "OFT", "bias": "oft_only"}, "trains biases of the original itself"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "SEQ_CLS"}, "neither switch off nor merge"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, "neither switch off nor merge"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 4}, "neither switch off nor merge"),
    ],
)  # fmt: skip
def test_what_cannot_be_switched_off_is_refused_before_the_model_is_touched(tmp_path, config, match):
    model = trained("bert")
    before = state(model)
    with pytest.raises(ValueError, match=match):
        patched("bert", tmp_path, config=config, model=model)
    assert not changed(before, state(model))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (LoraConfig(init_lora_weights=False), "would not start from the original.*load it again"),
        ({"peft_type": "FOURIERFT", "n_frequency": 50}, "would not start from the original"),
        ({"peft_type": "POLY", "n_tasks": 1}, "does not fit the model: task_ids.*load it again"),
        (LoraConfig(target_modules=["q_proj", "layernorm_before"]), "does not fit the model.*load it again"),
        ({"peft_type": "TRAINABLE_TOKENS"}, "does not fit the model"),
        (LoraConfig(inference_mode=True), "leaves nothing to train"),
    ],
)
def test_what_cannot_work_is_found_by_one_row_before_the_run(tmp_path, config, match):
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path, config=config)


def test_an_initialisation_that_moves_the_base_is_found_by_its_outputs(monkeypatch):
    monkeypatch.setattr("hf_unlearn.models.adapter_config.MOVES_BASE", ())
    with pytest.raises(ValueError, match="not the original's bit for bit"):
        Patch(trained("vit"), LoraConfig(init_lora_weights="pissa", r=2), probe=row())


def test_a_patch_names_the_commit_of_its_base(tmp_path):
    model = trained("vit")
    model.config._commit_hash = "a" * 40
    Patch(model, "lora").model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "a" * 40


# --- what a model holds already ---------------------------------------------------------------------------------------


def reused(folder):
    base = trained("vit")
    Patch(base, "lora")
    return base


def injected(folder):
    adapted().save_pretrained(folder / "adapter")
    model = trained("vit")
    model.load_adapter(str(folder / "adapter"))
    return model


def merged(folder):
    model = adapted()
    model.merge_adapter()
    return model


def off(folder):
    model = adapted()
    model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize("config", [None, "lora"])
@pytest.mark.parametrize(
    ("build", "match"),
    [(reused, "trainer.model"), (injected, "not be saved"), (merged, "merged in"), (off, "switched")],
)
def test_adapters_that_would_be_lost_are_refused(tmp_path, build, match, config):
    model = build(tmp_path)
    before = state(model)
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path / "run", config=config, model=model)
    assert not changed(before, state(model))


@pytest.mark.parametrize("second", [{"modules_to_save": ["classifier"]}, {"task_type": "SEQ_CLS"}])
def test_two_copies_of_the_head_are_refused_and_one_below_stays(tmp_path, second):
    model = adapted("bert", modules_to_save=["classifier"])
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(0.1)
    once = logits(model, "bert")
    with pytest.raises(ValueError, match="second copy of classifier"):
        patched("bert", tmp_path, config=LoraConfig(target_modules=["query"], **second), model=model)
    patch = Patch(model, "lora", probe=row("bert"))
    assert not patch.trains_head
    perturb(patch)
    with patch.off() as now:
        assert torch.equal(logits(now, "bert"), once)


def test_only_copies_of_the_head_count_as_the_head():
    patch = Patch(trained("bert"), LoraConfig(target_modules=["query"], modules_to_save=["pooler"]))
    assert not patch.trains_head
    assert any("pooler" in n for n in patch.names)


def test_of_several_adapters_the_active_ones_are_the_original(tmp_path):
    model = adapted()
    for name in ("two", "three"):
        model.add_adapter(name, LoraConfig(target_modules=["q_proj"], **RANDOM))
    model.base_model.set_adapter(["default", "three"])
    want = logits(model, "vit")
    trainer = patched("vit", tmp_path, make("fine_tune"), model=model, **SGD)
    trainer.train()
    assert trainer.patch.before == ["default", "three"]
    with trainer.patch.off() as now:
        assert torch.equal(logits(now, "vit"), want)
        with trainer.patch.off():  # as the report does inside
            assert torch.equal(logits(now, "vit"), want)
        assert torch.equal(logits(now, "vit"), want), "the patch was on again"
    assert not torch.equal(logits(trainer.model, "vit"), want)


def test_statistics_of_batch_norms_below_any_adapter_stay(tmp_path):
    trainer = patched("resnet", tmp_path / "run", make("fine_tune"), None, model=adapted("resnet"), **SGD)
    before = {n: b.clone() for n, b in trainer.model.named_buffers()}
    trainer.train()
    assert not changed(before, dict(trainer.model.named_buffers()))
    trainer.model.save_pretrained(tmp_path / "adapter")
    loaded = load_patches(trained("resnet"), tmp_path / "adapter")
    assert torch.equal(logits(loaded, "resnet"), logits(trainer.model, "resnet"))


def test_update_chooses_among_the_parameters_of_a_given_adapter(tmp_path):
    trainer = patched("vit", tmp_path / "a", JiT(), None, model=adapted(), update="lora_B")
    assert trainer.updated
    assert all("lora_B" in n for n in trainer.updated)
    assert patched("vit", tmp_path / "b", JiT(), None, model=adapted()).args.update == "adapter"
    with pytest.raises(ValueError, match="matches no parameter"):
        patched("vit", tmp_path / "c", JiT(), None, model=adapted(), update="head")


def test_an_adapter_is_not_retrained(tmp_path):
    with pytest.raises(ValueError, match="`method='retrain'` starts from fresh weights"):
        patched("vit", tmp_path, make("retrain"), None, model=adapted())


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path):
    """A base and two patches on it, in folders, with the outputs of all three."""
    trained("vit").save_pretrained(tmp_path / "base")
    first = Patch(load_classifier(str(tmp_path / "base"), data_for("vit", 4)), "dora")
    perturb(first)
    first.model.save_pretrained(tmp_path / "one")
    once = logits(first.model, "vit")
    second = Patch(first.model, "dora", seed=1)
    perturb(second)
    save_model(second.model, image_processor(), tmp_path / "two")
    return tmp_path, once, logits(second.model, "vit")


def test_a_folder_of_patches_is_loaded_whole(stack):
    folder, once, twice = stack
    rows = data_for("vit", 4)
    assert torch.equal(logits(load_classifier(str(folder / "one"), rows), "vit"), once)
    loaded = load_classifier(str(folder / "two"), rows)
    assert torch.equal(logits(loaded, "vit"), twice)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(logits(PeftModel.from_pretrained(trained("vit"), folder / "two"), "vit"), once), "PEFT alone"
    third = Patch(loaded, "dora", seed=2)
    assert (third.name, third.before) == ("patch2", ["default", "patch1"])
    with third.off() as now:
        assert torch.equal(logits(now, "vit"), twice)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), "vit"), twice, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("where", ["", "patch1"])
def test_a_patch_that_lacks_tensors_or_is_a_pickle_is_refused(stack, where):
    folder, _, _ = stack
    file = folder / "two" / where / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="of another adapter"):
        load_classifier(str(folder / "two"), data_for("vit", 4))
    torch.save(tensors, file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        load_classifier(str(folder / "two"), data_for("vit", 4))


def test_a_stack_is_not_pushed_without_what_is_on_top(stack):
    folder, _, twice = stack
    with (
        pytest.raises(ValueError, match="patches stacked on each other"),
        prepare_folder(folder / "two", base_model="alice/base"),
    ):
        pass
    run = {"task": "image-classification", "adapter": True, "patch": {"stacked_on": 1}, "original": {"id": "base"}}
    code = snippet(run, None)
    assert "load_patches(" in code
    names = {}
    exec(code.replace('"base"', repr(str(folder / "base"))).replace('"model"', repr(str(folder / "two"))), names)
    assert torch.equal(logits(names["model"], "vit"), twice)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def words(stack):
    folder = stack[0]
    image_processor().save_pretrained(folder / "base")
    (folder / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(48, seed).to_parquet(folder / "data" / f"{split}.parquet")

    def of(**changes):
        keys = {
            "model": folder / "two", "dataset": folder / "data", "forget_class": 1, "output_dir": folder / "out",
            "use_cpu": "true", "disable_tqdm": "true", "figures": "false", "max_steps": 2, **changes,
        }  # fmt: skip
        return ["run", *(str(w) for k, v in keys.items() for w in (f"--{k}", v))]

    return of


def test_a_run_puts_a_patch_on_patches_and_retrains_what_is_below(stack, words):
    folder, _, twice = stack
    assert main(words(peft_config="dora", retrain="true", train_epochs=1)) in (0, 1)
    loaded = load_classifier(str(folder / "out" / "model"), data_for("vit", 4))
    assert loaded.active_adapters == ["default", "patch1", "patch2"]
    loaded.base_model.set_adapter(["default", "patch1"])
    assert torch.equal(logits(loaded, "vit"), twice)
    retrained = load_classifier(str(folder / "out" / "retrained"), data_for("vit", 4))
    assert not isinstance(retrained, PeftModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "pass `peft_config`"),  # its own layers are in no file of an adapter
        ({"peft_config": "lorra", "model": "nowhere"}, "neither lora, dora, ia3"),
        ({"peft_config": '{"init_lora_weights": "pissa"}', "model": "nowhere"}, "would be lost"),
        ({"peft_config": '{"peft_type": "PROMPT_TUNING"}', "model": "nowhere"}, "virtual tokens"),
    ],
)
def test_bad_patches_end_a_run_with_2(words, capsys, changes, message):
    assert main(words(**changes)) == 2
    assert message in capsys.readouterr().err
