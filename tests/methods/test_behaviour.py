"""One behaviour table over every method, on images and on text."""

import math
from dataclasses import fields

import pytest
import torch
import transformers

from hf_unlearn import METHODS, ForgetRequest, JiT, Split, UnlearningArguments, UnlearningMethod
from hf_unlearn.data.pairs import sample_seed
from hf_unlearn.data.sampling import EpochSampler
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.trainable import updated_names
from tests.support.data import class_split, data_for
from tests.support.methods import FROM_RETAIN, GRADIENT, IN_TRAIN_MODE, TRAINED, make
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD as PLAIN_STEPS
from tests.support.runs import KillAt, Killed, trainer_for, whole_and_resumed
from tests.support.tables import WHOLE, in_turn, slow

SGD = {**PLAIN_STEPS, "weight_average": 0.0}
UPDATES = ["all", "head", "last:1", r"layernorm|LayerNorm|layer_norm"]
pytestmark = pytest.mark.usefixtures("few_anchors")


def test_table_is_consistent():
    assert len({m.name for m in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        assert method.name == name
        assert "Example:" in method.__doc__
        instance = method()
        assert instance.describe() == {"method": name, **{f.name: getattr(instance, f.name) for f in fields(instance)}}
        assert all(f.metadata.get("help") for f in fields(method)), f"a setting of {name} has no help"
        assert "--anchor_weight" in transformers.HfArgumentParser(method).format_help()  # argparse formats each help
        assert set(method.arguments) <= {f.name for f in fields(UnlearningArguments)}


# Every method with every `update` and both architectures; each method has each `update` on one of the two.
@pytest.mark.parametrize(
    ("name", "update", "arch"),
    [
        (name, update, arch)
        for i, name in enumerate(m for m in GRADIENT if m != "retrain")
        for j, update in enumerate(UPDATES)
        for arch in in_turn(i + j)
        if name != "msg" or "norm" not in update  # it resets linear layers, and says so if none may move
    ],
)
def test_loss_is_finite_and_only_allowed_parameters_move(tmp_path, name, arch, update):
    trainer = trainer_for(arch, tmp_path, make(name), update=update, **SGD)
    before = state(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    allowed = set(updated_names(trainer.model, update))
    moved = changed(before, state(trainer.model))
    assert moved <= allowed
    assert moved
    assert trainer.outcome.tensors_changed == len(moved)
    assert {n for n, p in trainer.model.named_parameters() if p.requires_grad} == allowed


@pytest.mark.parametrize(
    ("anchors", "name"),
    [
        *(("plain", m) for m in GRADIENT if m not in IN_TRAIN_MODE),
        *slow(*(("anchors", m) for m in (GRADIENT if WHOLE else TRAINED) if m not in IN_TRAIN_MODE)),
    ],
)
def test_batch_norm_statistics_stay_and_modes_are_restored(tmp_path, name, anchors):
    trainer = trainer_for("resnet", tmp_path, make(name, anchors=anchors == "anchors"), update="all", **SGD)
    before, buffers = state(trainer.model), {n for n, _ in trainer.model.named_buffers()}
    assert buffers
    trainer.train()
    moved = changed(before, state(trainer.model))
    assert not moved & buffers
    assert moved


@pytest.mark.parametrize("name", IN_TRAIN_MODE)
def test_ordinary_training_moves_batch_norm_statistics(tmp_path, name):
    trainer = trainer_for("resnet", tmp_path, make(name), **SGD)
    before = state(trainer.model)
    trainer.train()
    assert {n for n, _ in trainer.model.named_buffers()} <= changed(before, state(trainer.model))


def test_uib_moves_the_statistics_that_its_base_moves(tmp_path):
    trainer = trainer_for("resnet", tmp_path, make("uib+fine_tune"), **SGD)
    before = state(trainer.model)
    trainer.train()
    assert {n for n, _ in trainer.model.named_buffers()} <= changed(before, state(trainer.model))


@pytest.mark.parametrize("method", ["fine_tune", "jit"])
@pytest.mark.parametrize("update", ["head", "last:1", r"embedder.*norm"])
def test_statistics_move_where_the_parameters_of_their_norm_do(tmp_path, method, update):
    settings = {"jit": {"mode": "train"}}.get(method, {})
    trainer = trainer_for("resnet", tmp_path, make(method, **settings), update=update, **SGD)
    before = state(trainer.model)
    trainer.train()
    norms = {n.rpartition(".")[0] for n, _ in trainer.model.named_buffers()}
    moving = {n.rpartition(".")[0] for n in trainer.updated} & norms
    moved = {n.rpartition(".")[0] for n in changed(before, state(trainer.model)) if "running" in n}
    assert moved == moving != norms


# Every method with its defaults, on the two architectures in turn, and settings that change the sums on both.
SUMS = [
    ("jit", {"reduction": "sum"}),
    ("gradient_difference", {"anchors": True, "forget_weight": 0.3}),
    ("marginal_information", {"conditional": True}),
    ("marginal_information", {"utility": "kl", "memory": 0.5}),
    ("feature_information", {"conditional": False, "memory": 0.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "arch"),
    [
        *((m, {}, arch) for i, m in enumerate(GRADIENT) for arch in in_turn(i)),
        *slow(*((m, settings, arch) for m, settings in SUMS for arch in ("vit", "bert"))),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v) or "defaults",
)
def test_accumulated_small_batches_equal_one_large_batch(tmp_path, name, settings, arch):
    ends, conditional = [], name == "marginal_information" and "conditional" in settings
    for size, parts in ((16, 1), (8, 2)):
        trainer = trainer_for(
            arch,
            tmp_path / str(size),
            make(name, **settings),
            # Conditional information compares rows of one class on both sides.
            split=ForgetRequest(fraction=0.4).split(data_for(arch, 128)) if conditional else class_split(arch, 128),
            forget_kind="samples" if conditional else "class",
            update="all",
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            **{**SGD, "learning_rate": 0.05},
        )
        trainer.train()
        ends.append(torch.cat([p.detach().flatten().double() for p in trainer.model.parameters()]))
        losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
        ends.append(torch.tensor(losses, dtype=torch.float64))
    start_model = build(arch) if name == "retrain" else trained(arch)
    if name == "retrain":
        start_model = trainer.fresh_model()
    start = torch.cat([p.detach().flatten().double() for p in start_model.parameters()])
    large, large_losses, small, small_losses = ends
    assert (large - start).norm() > 1e-3
    assert (large - small).norm() <= 1e-5 * large.norm()
    assert (large - small).norm() <= 1e-3 * (large - start).norm()  # a forgotten division would show here as 1.0
    assert torch.allclose(large_losses, small_losses, rtol=1e-3, atol=1e-5)


RESUMED = [
    ("jit", "vit"),
    ("gradient_difference", "roberta"),
    ("uib", "resnet"),
    ("surrogate_distillation", "resnet"),
    *slow(
        ("counterfactual_distillation", "bert"),
        ("marginal_information", "vit"),
        ("feature_information", "roberta"),
        ("fine_tune", "bert"),
        ("retrain", "resnet"),
        ("jit", "bert"),
        ("jit", "resnet"),
        ("counterfactual_distillation", "vit"),
        ("counterfactual_distillation", "swin"),
        ("marginal_information", "bert"),
        ("feature_information", "convnext"),
        ("gradient_ascent", "convnext"),
        ("gradient_difference", "swin"),
        ("uib", "bert"),
        ("uib+gradient_ascent", "vit"),
        ("uib+marginal_information", "roberta"),
        ("surrogate_distillation", "bert"),
        ("fine_tune", "vit"),
        ("retrain", "distilbert"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), RESUMED)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name, arch):
    dropout = 0.1 if name in FROM_RETAIN and arch in ("bert", "distilbert", "vit") else 0.0
    split = class_split(arch, 80)  # 20 forget rows: 3 steps an epoch, the last of 4 rows

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            arch,
            tmp_path / folder,
            make(name),
            split=split,
            model=trained(arch, dropout),
            callbacks=list(callbacks),
            update="all",
            max_steps=7,
            save_strategy="steps",
            save_steps=2,
            check_steps=3,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, resumed = whole_and_resumed(run, 5)
    assert resumed.state.global_step == whole.state.global_step == 7
    assert not changed(state(whole.model), state(resumed.model))
    assert [p["step"] for p in resumed.outcome.path] == [p["step"] for p in whole.outcome.path]
    assert resumed.outcome.path == whole.outcome.path
    assert changed(state(trained(arch, dropout)), state(whole.model))


class Recorder(UnlearningMethod):
    """Remembers the samples of every batch, and moves a little."""

    def loss(self, model, batch, reference):
        seen.append(list(zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True)))
        return {"any": model(**model_inputs(batch["forget"])).logits.mean()}


seen = []


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 3, 4, 5])
def test_resumed_run_sees_the_samples_of_the_keys_that_follow(tmp_path, killed_at):
    split = class_split("vit", 80)
    sampler, keys = EpochSampler(20, seed=3), []
    for epoch in range(3):
        sampler.epoch = epoch
        rows = [(index, sample_seed(3, epoch, index)) for _, _, index in sampler]
        keys += [rows[i : i + 8] for i in range(0, 20, 8)]

    def run(*callbacks, resume=None):
        seen.clear()
        trainer = trainer_for(
            "vit",
            tmp_path,
            Recorder(),
            split=split,
            callbacks=list(callbacks),
            max_steps=7,
            save_strategy="steps",
            save_steps=1,
            seed=3,
        )
        trainer.train(resume_from_checkpoint=resume)

    with pytest.raises(Killed):
        run(KillAt(killed_at))
    assert seen == keys[:killed_at]
    run(resume=True)
    assert seen == keys[killed_at - 1 : 7]


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_resume_restores_the_state_of_the_optimizer(tmp_path, optim):
    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit",
            tmp_path / folder,
            make("gradient_difference"),
            callbacks=list(callbacks),
            update="all",
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
            trust_region=0.0,
            optim=optim,
            momentum=0.9,
            learning_rate=1e-3,
        )
        trainer.train(resume_from_checkpoint=resume)
        return state(trainer.model)

    assert not changed(*whole_and_resumed(run, 3))


def test_resume_with_a_retain_stream_and_accumulation(tmp_path):
    split = class_split("vit", 80)

    def run(folder, *callbacks, resume=None):
        streamed = Split(
            split.forget,
            split.retain.to_iterable_dataset().shuffle(seed=1, buffer_size=16),
            split.forget_indices,
            split.request,
        )
        trainer = trainer_for(
            "vit",
            tmp_path / folder,
            make("gradient_difference"),
            split=streamed,
            callbacks=list(callbacks),
            max_steps=6,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            retain_per_forget=2,
            save_strategy="steps",
            save_steps=2,
        )
        trainer.train(resume_from_checkpoint=resume)
        return state(trainer.model)

    assert not changed(*whole_and_resumed(run, 5))


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    def run(folder, seed):
        trainer = trainer_for("vit", tmp_path / folder, JiT(num_perturbations=3), update="all", seed=seed)
        trainer.train()
        return state(trainer.model)

    first = run("a", 0)
    torch.rand(7)  # the global generator must not matter
    assert not changed(first, run("b", 0))
    assert changed(first, run("c", 1))
