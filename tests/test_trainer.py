"""Bad input is refused before the model is touched; what runs is what was asked; nothing fails in silence."""

import os
import signal
from dataclasses import dataclass, replace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import DataCollatorWithPadding, TrainerCallback, TrainingArguments

from hf_unlearn import (
    ForgetRequest,
    GradientAscent,
    GradientDifference,
    JiT,
    UnlearningArguments,
    UnlearningMethod,
    UnlearningTrainer,
)
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.prediction import predict
from tests.support.data import (
    CLASSES,
    SIZE,
    class_split,
    data_for,
    image_data,
    image_processor,
    pixel_data,
    text_data,
    tokenizer,
)
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD, KillAt, Killed, arguments, trainer_for


def make(folder, arch="vit", method=None, **changes):
    """A trainer from plain parts, so that each test spoils exactly one of them."""
    split = class_split(arch)
    parts = {
        "model": build(arch),
        "args": arguments(folder),
        "method": JiT(num_perturbations=2) if method is None else method,
        "forget_dataset": split.forget,
        "retain_dataset": split.retain,
        "processing_class": tokenizer() if arch == "bert" else image_processor(),
    }
    return UnlearningTrainer(**{**parts, **changes})


def with_pixels(dataset, edit):
    values = np.asarray(dataset.with_format("numpy")["pixel_values"][:], dtype=np.float32).copy()
    edit(values)
    features = datasets.Features({**dataset.features, "pixel_values": datasets.Array3D(values.shape[1:], "float32")})
    columns = {name: dataset[name][:] for name in dataset.column_names if name != "pixel_values"}
    return datasets.Dataset.from_dict({"pixel_values": values, **columns}, features=features)


def with_labels(dataset, labels):
    return dataset.remove_columns("label").add_column("label", labels)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": None}, "`model` is missing"),
        ({"forget_dataset": None}, "`forget_dataset` is missing"),
        ({"forget_dataset": pixel_data().select([])}, "`forget_dataset` is empty"),
        ({"forget_dataset": pixel_data().to_iterable_dataset()}, "`forget_dataset` is a stream"),
        ({"retain_dataset": pixel_data().select([])}, "`retain_dataset` is empty"),
        ({"retain_dataset": pixel_data(64)}, "`forget_dataset` and `retain_dataset` overlap: 16 of 16"),
        ({"label_column": "species"}, "`label_column='species'`"),
        (
            {"forget_dataset": pixel_data().rename_column("pixel_values", "photo")},
            "`forget_dataset`.*photo.*`image_column`",
        ),
        ({"image_column": "photo", "forget_dataset": image_data()}, "`forget_dataset`.*`image_column`"),
        ({"forget_dataset": image_data(), "processing_class": None}, "`forget_dataset`.*`processing_class` is missing"),
        (
            {"forget_dataset": image_data(), "processing_class": image_processor(8)},
            "`forget_dataset`.*8×8 pixels.*16×16.*`size`",
        ),
    ],
)
def test_bad_data_is_refused_by_the_name_of_its_argument(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        make(tmp_path, **changes)


@pytest.mark.parametrize("side", ["forget_dataset", "retain_dataset"])
@pytest.mark.parametrize("bad", [CLASSES, 99, -1])
@pytest.mark.parametrize("row", [0, 5], ids=["first row", "later row"])
def test_labels_outside_the_head_are_refused(tmp_path, side, bad, row):
    split = class_split("vit")
    data = split.forget if side == "forget_dataset" else split.retain
    labels = data["label"][:]
    labels[row] = bad
    with pytest.raises(ValueError, match=rf"`{side}`.*{bad}|`{side}`.*outside"):
        make(tmp_path, **{side: with_labels(data, labels)})


def test_unknown_label_names_are_refused_and_known_ones_are_read(tmp_path):
    split = class_split("vit")
    model = build("vit")
    model.config.label2id = {name: i for i, name in enumerate("abcd")}
    named = [with_labels(d, ["abcd"[i] for i in d["label"]]) for d in (split.forget, split.retain)]
    trainer = make(tmp_path, model=model, forget_dataset=named[0], retain_dataset=named[1])
    assert trainer.train_dataset[0, 0, 0]["forget"][0]["labels"].item() == 1
    with pytest.raises(ValueError, match=r"`forget_dataset`.*'z'.*`label2id`"):
        make(tmp_path, model=model, forget_dataset=with_labels(split.forget, ["z"] * 16))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 15], ids=["first row", "last row"])
def test_nan_pixels_are_refused(tmp_path, value, row):
    def spoil(x):
        x[row, 1, 2, 3] = value

    before = state(build("vit"))
    model = build("vit")
    with pytest.raises(ValueError, match=r"`forget_dataset`.*NaN or infinite pixels"):
        make(tmp_path, model=model, forget_dataset=with_pixels(class_split("vit").forget, spoil)).train()
    assert not changed(before, state(model))


def test_wrong_number_of_channels_or_pixels_is_refused(tmp_path):
    grey = datasets.Dataset.from_dict({"pixel_values": np.zeros((4, 1, SIZE, SIZE), np.float32), "label": [1] * 4})
    with pytest.raises(ValueError, match=r"`forget_dataset`.*\(1, 16, 16\).*\(3, height, width\)"):
        make(tmp_path, forget_dataset=grey)
    large = datasets.Dataset.from_dict({"pixel_values": np.zeros((4, 3, 32, 32), np.float32), "label": [1] * 4})
    with pytest.raises(ValueError, match=r"`forget_dataset`.*32×32 pixels.*16×16"):
        make(tmp_path, forget_dataset=large)
    make(tmp_path, arch="resnet", forget_dataset=large, retain_dataset=None)  # has no position table


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_move_in_half_precision_are_refused(tmp_path, dtype):
    model = trained("vit").to(dtype)
    before = state(model)
    with pytest.raises(ValueError, match=r"`model`: 2 tensors .* `classifier.weight`.*`dtype=torch.float32`"):
        trainer_for("vit", tmp_path, JiT(), model=model, update="head")
    assert not changed(before, state(model))
    model.classifier.float()  # of the others no step is taken
    trainer_for("vit", tmp_path, JiT(), model=model, update="head")


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`forget_dataset`.*holds text, and `processing_class` is missing"):
        make(tmp_path, arch="bert", processing_class=None)


def test_missing_retain_set_names_the_methods_that_need_none(tmp_path):
    for method in (GradientDifference(), None):
        args = arguments(tmp_path, method="fine_tune")
        with pytest.raises(ValueError, match=r"needs `retain_dataset`.*jit, counterfactual_distillation"):
            make(tmp_path, method=method, args=args, retain_dataset=None) if method else UnlearningTrainer(
                build("vit"), args, forget_dataset=class_split("vit").forget
            )


def test_missing_labels_are_refused_where_they_are_needed(tmp_path):
    forget = class_split("vit").forget.remove_columns("label")
    with pytest.raises(ValueError, match=r"`forget_dataset` has no label column.*`method='gradient_ascent'`"):
        make(tmp_path, method=GradientAscent(), forget_dataset=forget)
    trainer = make(tmp_path, forget_dataset=forget, retain_dataset=None)
    trainer.train()
    assert trainer.state.global_step == 3


def test_unknown_method_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"`method='jitt'` is unknown\. Known: jit, counterfactual_distillation"):
        UnlearningTrainer(build("vit"), arguments(tmp_path, method="jitt"), forget_dataset=class_split("vit").forget)
    with pytest.raises(TypeError, match=r"`args` must be `UnlearningArguments`, got TrainingArguments"):
        make(tmp_path, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor`"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha`"),
        ({"forget_kind": "rows"}, "`forget_kind='rows'`"),
        ({"trust_region": 1.0}, "`trust_region`"),
        ({"trust_region": -0.1}, "`trust_region`"),
        ({"forget_target": 5}, "`forget_target`"),
        ({"check_steps": 0}, "`check_steps`"),
        ({"retain_per_forget": 0}, "`retain_per_forget`"),
    ],
)
def test_bad_arguments_are_refused_by_name(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        arguments(tmp_path, **changes)


def test_every_own_argument_has_help_and_unset_ones_take_the_methods_value(tmp_path):
    own = set(UnlearningArguments.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert {"update", "trust_region", "forget_target"} <= own
    for name in own:
        assert len(UnlearningArguments.__dataclass_fields__[name].metadata["help"]) > 20
    unset = UnlearningArguments(output_dir=str(tmp_path), use_cpu=True)
    for key, value in JiT.arguments.items():
        assert getattr(unset.resolved(JiT(), "class"), key) == value
    resolved = UnlearningArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=0.1, num_train_epochs=2
    ).resolved(JiT(), "class")
    assert (resolved.trust_region, resolved.learning_rate, resolved.num_train_epochs, resolved.max_steps) == (
        0.0,
        0.1,
        2,
        -1,
    )
    assert unset.update is None


@pytest.mark.parametrize("held", ["model.safetensors", "checkpoint-3/unlearning_state.json"])
def test_output_folder_that_holds_a_model_is_refused_unless_overwritten(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"`output_dir=.*already holds.*`overwrite=True`"):
        make(tmp_path).train()
    assert (tmp_path / held).read_bytes() == b"precious"
    make(tmp_path, args=arguments(tmp_path, overwrite=True)).train()


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(ValueError, match="`resume_from_checkpoint`: no whole checkpoint"):
        make(tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-5").mkdir()  # a save that was cut off
    with pytest.raises(ValueError, match="`resume_from_checkpoint`: no whole checkpoint"):
        make(tmp_path).train(resume_from_checkpoint=True)


def test_a_model_that_is_broken_already_is_refused(tmp_path):
    model = build("vit")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="`model` gives NaN"):
        make(tmp_path, model=model).train()


# --- what must never look like success --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Private(UnlearningMethod):
    """A user's own method: cross-entropy away from the label, with a fault to choose."""

    fault: str = ""

    def loss(self, model, batch, reference):
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        value = -F.cross_entropy(logits, batch["forget"]["labels"])
        return {"forget": value, "extra": value * (torch.nan if self.fault == "nan" else 0.5)}

    def adjust_gradients(self, model):
        if self.fault == "stray":
            with torch.no_grad():
                next(p for p in model.parameters() if not p.requires_grad).view(-1)[0] += 1
        if self.fault == "zero":
            for p in model.parameters():
                p.grad = None if p.grad is None else torch.zeros_like(p.grad)


def test_private_method_needs_no_registration(tmp_path):
    trainer = make(tmp_path, method=Private())
    trainer.train()
    assert trainer.outcome.steps == 3
    assert trainer.outcome.tensors_changed > 0
    with pytest.raises(NotImplementedError, match="UnlearningMethod must define `loss`"):
        make(tmp_path / "base", method=UnlearningMethod()).train()


def test_stray_change_of_a_frozen_parameter_is_an_error(tmp_path):
    trainer = make(tmp_path, method=Private(fault="stray"), args=arguments(tmp_path, update="head"))
    frozen = next(n for n, p in trainer.model.named_parameters() if not p.requires_grad)
    with pytest.raises(RuntimeError, match=f"`update='head'`.*{frozen}"):
        trainer.train()
    assert trainer.outcome is None or not trainer.outcome.ok


def test_nan_loss_ends_the_run_names_its_term_and_writes_no_model(tmp_path):
    trainer = make(tmp_path, method=Private(fault="nan"), args=arguments(tmp_path, save_strategy="steps", save_steps=1))
    with pytest.raises(FloatingPointError, match=r"step 0 \(term: extra\)"):
        trainer.train()
    assert not list(tmp_path.rglob("*.safetensors"))
    assert trainer.outcome.stopped == "failed"
    assert not trainer.outcome.ok


def test_run_that_changes_nothing_is_a_warning(tmp_path, caplog):
    trainer = make(tmp_path, method=Private(fault="zero"))
    trainer.train()
    assert "no parameter changed: the model is the original" in trainer.outcome.warnings
    assert "no parameter changed" in caplog.text
    assert not trainer.outcome.ok


def test_report_before_training_is_refused(tmp_path):
    trainer = make(tmp_path)
    with pytest.raises(RuntimeError, match=r"`report\(\)`.*`train\(\)`"):
        trainer.report()
    with pytest.raises(RuntimeError, match=r"`train\(\)` has not run"), trainer.original_weights():
        pass


# --- losses, logs and evaluation --------------------------------------------------------------------------------------


def test_terms_are_logged_and_add_up_to_the_loss(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientDifference(anchors=True), max_steps=4, logging_steps=2, **SGD)
    trainer.train()
    entries = [e for e in trainer.state.log_history if "loss" in e]
    assert len(entries) == 2
    for entry in entries:
        terms = {k: v for k, v in entry.items() if k.startswith("loss/")}
        assert set(terms) == {"loss/forget", "loss/retain", "loss/anchors"}
        assert sum(terms.values()) == pytest.approx(entry["loss"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_logged_loss_is_that_of_the_whole_step_however_it_is_accumulated(tmp_path, parts):
    split = class_split("vit")
    trainer = trainer_for(
        "vit",
        tmp_path,
        GradientAscent(),
        split=split,
        max_steps=1,
        per_device_train_batch_size=16 // parts,
        gradient_accumulation_steps=parts,
        train_sampling_strategy="sequential",
        **SGD,
    )
    batch = trainer.processor.collate(list(split.forget))
    with torch.no_grad():
        expected = -trained("vit")(**batch).loss.item()
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert entry["loss"] == pytest.approx(expected, rel=1e-4)
    assert entry["loss/forget"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
def test_evaluation_loss_is_the_plain_model_loss(tmp_path, arch):
    test = data_for(arch, 24, seed=3)
    trainer = trainer_for(arch, tmp_path, JiT(), per_device_eval_batch_size=8, gradient_accumulation_steps=4)
    measured = trainer.evaluate(test)
    model = trained(arch)
    with torch.no_grad():
        expected = model(**trainer.processor.collate(list(test))).loss.item()
    assert measured["eval_loss"] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_evaluation_by_name_with_raw_images_and_columns_that_no_model_reads(tmp_path):
    split = ForgetRequest(column="user", values=["user-1", "user-5", "user-9"]).split(image_data())
    test = image_data(12, seed=4)
    model = trained("vit")
    trainer = UnlearningTrainer(
        model,
        arguments(tmp_path, eval_strategy="steps", eval_steps=3, forget_kind="samples"),
        JiT(num_perturbations=2, remembered_only=False),
        split.forget,
        split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain, "test": test},
        processing_class=image_processor(),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    assert trainer.args.remove_unused_columns
    trainer.train()
    logged = {k: v for e in trainer.state.log_history for k, v in e.items() if k.startswith("eval_")}
    for name, data in (("forget", split.forget), ("retain", split.retain), ("test", test)):
        batch = trainer.processor.collate(list(data))
        with eval_mode(model), torch.no_grad():
            right = model(**model_inputs(batch)).logits.argmax(-1) == batch["labels"]
        assert logged[f"eval_{name}_accuracy"] == pytest.approx(right.float().mean().item())


def test_a_collator_of_ones_own_gets_prepared_rows_in_evaluation_too(tmp_path):
    def run(folder, **given):
        trainer = make(folder, "bert", eval_dataset=text_data(12, seed=3), **given)
        return trainer.evaluate()["eval_loss"]

    pad = DataCollatorWithPadding(tokenizer())
    assert run(tmp_path / "own", data_collator=pad) == pytest.approx(run(tmp_path / "plain"))


def test_text_with_extra_columns(tmp_path):
    data = text_data(40).add_column("user", [f"user-{i}" for i in range(40)])
    split = ForgetRequest(label=2).split(data)
    trainer = make(
        tmp_path, arch="bert", model=trained("bert"), forget_dataset=split.forget, retain_dataset=split.retain
    )
    trainer.train()
    assert set(trainer.evaluate(split.retain)) >= {"eval_loss"}


def test_forgotten_classes_are_found_from_the_two_sets(tmp_path):
    def found(request, retain=True, kind="auto"):
        split = request.split(pixel_data(64))
        trainer = trainer_for(
            "vit",
            tmp_path / os.urandom(4).hex(),
            JiT(num_perturbations=1),
            split=split,
            retain=retain,
            forget_kind=kind,
            max_steps=1,
        )
        trainer.train()
        return trainer.reference.forgotten_classes

    assert found(ForgetRequest(label=2)) == (2,)
    assert found(ForgetRequest(label=[0, 3])) == (0, 3)
    assert found(ForgetRequest(label=2, fraction=0.5)) == ()
    assert found(ForgetRequest(fraction=0.2)) == ()
    assert found(ForgetRequest(label=2), retain=False) == (2,)
    assert found(ForgetRequest(fraction=0.5), retain=False) == ()
    assert found(ForgetRequest(label=2), kind="samples") == ()
    assert found(ForgetRequest(label=2, fraction=0.5), kind="class") == (2,)


# --- interruption -----------------------------------------------------------------------------------------------------


class Interrupt(TrainerCallback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("strategy", ["no", "steps"])
@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_interrupt_saves_a_checkpoint_and_resumes_to_the_same_weights(tmp_path, arch, strategy):
    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            arch,
            tmp_path / folder,
            JiT(num_perturbations=2),
            callbacks=list(callbacks),
            update="all",
            max_steps=6,
            save_strategy=strategy,
            save_steps=4,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, former = run("whole"), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"[Rr]esume from the checkpoint"):
        run("stopped", Interrupt(3))
    assert signal.getsignal(signal.SIGINT) is former
    assert (tmp_path / "stopped" / "checkpoint-3").is_dir()
    resumed = run("stopped", resume=True)
    assert not changed(state(whole.model), state(resumed.model))
    assert resumed.seconds > 0


def test_half_written_checkpoint_is_passed_over(tmp_path):
    def trainer(*callbacks):
        return trainer_for(
            "vit",
            tmp_path,
            JiT(num_perturbations=2),
            callbacks=list(callbacks),
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
        )

    with pytest.raises(Killed):
        trainer(KillAt(5)).train()
    (tmp_path / "checkpoint-4" / "unlearning_state.json").unlink()
    resumed = trainer()
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    resumed.add_callback(Count())
    resumed.train(resume_from_checkpoint=True)
    assert steps == [3, 4, 5, 6]


@pytest.mark.parametrize("arch", ["vit", "swin", "bert"])
def test_best_model_is_restored_exactly(tmp_path, arch):
    split = class_split(arch)
    trainer = UnlearningTrainer(
        trained(arch),
        arguments(
            tmp_path,
            max_steps=4,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            update="all",
            trust_region=0.05,
        ),
        GradientAscent(),
        split.forget,
        split.retain,
        eval_dataset=split.forget,
        processing_class=tokenizer() if arch == "bert" else None,
    )
    trainer.train()
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(set(losses)) > 1
    assert trainer.state.best_metric == min(losses) < losses[-1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    logits, original = (predict(m, split.forget, trainer.processor)[0] for m in (trainer.model, trained(arch)))
    moved = 0.5 * (logits.softmax(-1) - original.softmax(-1)).abs().sum(-1).mean().item()
    assert trainer.outcome.outputs_moved == pytest.approx(moved, rel=1e-4), "the outcome speaks of another model"


def test_checkpoints_hold_no_row_of_the_forget_set(tmp_path):
    data = text_data(40).add_column("user", [f"secret-{i}" for i in range(40)])
    split = ForgetRequest(column="user", values=["secret-7", "secret-11"]).split(data)
    make(
        tmp_path,
        arch="bert",
        model=trained("bert"),
        forget_dataset=split.forget,
        retain_dataset=split.retain,
        args=arguments(tmp_path, save_strategy="steps", save_steps=1, forget_kind="samples"),
    ).train()
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert any(f.suffix == ".safetensors" for f in files)
    for f in files:
        content = f.read_bytes()
        assert b"secret-" not in content, f.name
        assert not any(text.encode() in content for text in split.forget["text"]), f.name


def test_saved_model_loads_with_from_pretrained_to_the_same_weights(tmp_path):
    for arch in ("vit", "swin", "bert"):
        trainer = trainer_for(arch, tmp_path / arch, JiT(num_perturbations=2))
        trainer.train()
        trainer.save_model(str(tmp_path / arch / "saved"))
        assert not changed(state(trainer.model), state(type(trainer.model).from_pretrained(tmp_path / arch / "saved")))


def test_original_weights_are_there_inside_and_gone_afterwards(tmp_path):
    trainer = make(tmp_path, model=trained("vit"), args=arguments(tmp_path, update="all"))
    trainer.train()
    after = state(trainer.model)
    with trainer.original_weights() as model:
        assert not changed(state(trained("vit")), state(model))
    assert not changed(after, state(trainer.model))
    assert changed(after, state(trained("vit")))


def test_overlap_is_checked_before_anything_else_happens(tmp_path):
    split = class_split("vit")
    with pytest.raises(ValueError, match="overlap"):
        trainer_for("vit", tmp_path, JiT(), split=replace(split, retain=split.forget))
    assert not list(tmp_path.iterdir())


def test_evaluation_rows_may_have_columns_named_like_ours(tmp_path):
    test = pixel_data(16, 3)
    named = test.add_column("seed", list(range(16))).add_column("index", list(range(16)))
    plain, ours = (make(tmp_path, eval_dataset=data).evaluate()["eval_loss"] for data in (test, named))
    assert plain == ours


def test_resuming_with_another_original_is_refused(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer_for("vit", tmp_path, JiT(num_perturbations=2), **settings).train()
    other = trained("vit")
    with torch.no_grad():
        other.classifier.bias.add_(0.1)
    with pytest.raises(ValueError, match="`model` is not the one"):
        trainer_for("vit", tmp_path, JiT(num_perturbations=2), model=other, **settings).train(True)
