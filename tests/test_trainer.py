"""A run does what was asked, logs what it did, and never fails in silence."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from transformers import DataCollatorWithPadding, TrainingArguments

from hf_unlearn import ForgetRequest, GradientAscent, GradientDifference, JiT, UnlearningMethod, UnlearningTrainer
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.training.hyperparameter_search import tuned
from tests.support.data import class_split, data_for, image_data, image_processor, pixel_data, text_data, tokenizer
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD, arguments, trainer_for
from tests.training.support import make_trainer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_move_in_half_precision_are_refused(tmp_path, dtype):
    model = trained("vit").to(dtype)
    before = state(model)
    with pytest.raises(ValueError, match=r"`model`: 2 tensors .* `classifier.weight`.*`dtype=torch.float32`"):
        trainer_for("vit", tmp_path, JiT(), model=model, update="head")
    assert not changed(before, state(model))
    model.classifier.float()  # of the others no step is taken
    trainer_for("vit", tmp_path, JiT(), model=model, update="head")


def test_unknown_method_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"`method='jitt'` is unknown\. Known: auto, surrogate_distillation"):
        UnlearningTrainer(build("vit"), arguments(tmp_path, method="jitt"), forget_dataset=class_split("vit").forget)
    with pytest.raises(TypeError, match=r"`args` must be `UnlearningArguments`, got TrainingArguments"):
        make_trainer(tmp_path, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))


def test_model_and_method_may_be_names(tmp_path, monkeypatch):
    trained("vit").save_pretrained(tmp_path / "original")
    image_processor().save_pretrained(tmp_path / "original")
    split = ForgetRequest(label=1).split(image_data(32))
    monkeypatch.setenv("HOME", str(tmp_path))
    args = arguments(tmp_path / "out", max_steps=2)
    whole = UnlearningTrainer(trained("vit"), args, JiT(), split.forget, processing_class=image_processor())
    whole.train()
    for model in (tmp_path / "original", str(tmp_path / "original"), "~/original"):
        trainer = UnlearningTrainer(model, args, "jit", split.forget)
    trainer.train()
    assert isinstance(trainer.method, JiT)
    assert trainer.processing_class.size == image_processor().size
    assert trainer.given["processing_class"] is trainer.processing_class
    assert not changed(state(whole.model), state(trainer.model))
    again = tuned(trainer, {"method.sigma": 0.5})
    assert (again.method.sigma, again.processing_class) == (0.5, trainer.processing_class)


def test_a_processing_class_that_is_given_or_not_needed_is_not_looked_for(tmp_path):
    trained("vit").save_pretrained(tmp_path / "original")
    own = image_processor()
    given = UnlearningTrainer(
        str(tmp_path / "original"), arguments(tmp_path), "jit", image_data(8), processing_class=own
    )
    assert given.processing_class is own
    assert (
        UnlearningTrainer(str(tmp_path / "original"), arguments(tmp_path), "jit", pixel_data(8)).processing_class
        is None
    )
    with pytest.raises(ValueError, match=r"`model`: .* holds no image processor"):
        UnlearningTrainer(str(tmp_path / "original"), arguments(tmp_path), "jit", image_data(8))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "./petss"}, ValueError, r"`model='./petss'`: there is no such file or folder"),
        ({"method": "jitt"}, ValueError, r"`method='jitt'` is unknown.*Did you mean `jit`\?"),
        ({"method": JiT}, TypeError, r"`method` must be a name or an `UnlearningMethod` such as `JiT\(\)`, got <class"),
    ],
)
def test_a_name_that_is_wrong_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        UnlearningTrainer(
            **{"model": "missing", "args": arguments(tmp_path), "forget_dataset": image_data(8), **changes}
        )


def test_a_model_that_is_broken_already_is_refused(tmp_path):
    model = build("vit")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="`model` gives NaN"):
        make_trainer(tmp_path, model=model).train()


@dataclass(kw_only=True)
class Private(UnlearningMethod):
    """A user's own method: cross-entropy away from the label; with a NaN in one of its terms if `fault` is "nan"."""

    fault: str = ""

    def loss(self, model, batch, reference):
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        value = -F.cross_entropy(logits, batch["forget"]["labels"])
        return {"forget": value, "extra": value * (torch.nan if self.fault == "nan" else 0.5)}


def test_private_method_needs_no_registration(tmp_path):
    trainer = make_trainer(tmp_path, method=Private())
    trainer.train()
    assert trainer.outcome.steps == 3
    assert trainer.outcome.tensors_changed > 0
    with pytest.raises(NotImplementedError, match="UnlearningMethod must define `loss`"):
        make_trainer(tmp_path / "base", method=UnlearningMethod()).train()


def test_nan_loss_ends_the_run_names_its_term_and_writes_no_model(tmp_path):
    trainer = make_trainer(
        tmp_path, method=Private(fault="nan"), args=arguments(tmp_path, save_strategy="steps", save_steps=1)
    )
    with pytest.raises(FloatingPointError, match=r"step 0 \(term: extra\)"):
        trainer.train()
    assert not list(tmp_path.rglob("*.safetensors"))
    assert trainer.outcome.stopped == "failed"
    assert not trainer.outcome.ok


def test_report_before_training_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match=r"`report\(\)`.*`train\(\)`"):
        trainer.report()
    with pytest.raises(RuntimeError, match=r"`train\(\)` has not run"), trainer.original_weights():
        pass


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


def test_a_custom_collator_gets_prepared_rows_in_evaluation_too(tmp_path):
    def run(folder, **given):
        trainer = make_trainer(folder, "bert", eval_dataset=text_data(12, seed=3), **given)
        return trainer.evaluate()["eval_loss"]

    pad = DataCollatorWithPadding(tokenizer())
    assert run(tmp_path / "own", data_collator=pad) == pytest.approx(run(tmp_path / "plain"))


def test_text_with_extra_columns(tmp_path):
    data = text_data(40).add_column("user", [f"user-{i}" for i in range(40)])
    split = ForgetRequest(label=2).split(data)
    trainer = make_trainer(
        tmp_path, arch="bert", model=trained("bert"), forget_dataset=split.forget, retain_dataset=split.retain
    )
    trainer.train()
    assert set(trainer.evaluate(split.retain)) >= {"eval_loss"}


def test_original_weights_are_there_inside_and_gone_afterwards(tmp_path):
    trainer = make_trainer(tmp_path, model=trained("vit"), args=arguments(tmp_path, update="all"))
    trainer.train()
    after = state(trainer.model)
    with trainer.original_weights() as model:
        assert not changed(state(trained("vit")), state(model))
    assert not changed(after, state(trainer.model))
    assert changed(after, state(trained("vit")))


def test_evaluation_rows_may_have_columns_named_like_ours(tmp_path):
    test = pixel_data(16, 3)
    named = test.add_column("seed", list(range(16))).add_column("index", list(range(16)))
    plain, ours = (make_trainer(tmp_path, eval_dataset=data).evaluate()["eval_loss"] for data in (test, named))
    assert plain == ours


def test_a_trainer_without_arguments_runs_and_reports_after_others_were_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    trained("vit").save_pretrained("original")
    image_processor().save_pretrained("original")
    split = ForgetRequest(label=1).split(image_data(64))
    trainer = UnlearningTrainer("original", forget_dataset=split.forget, retain_dataset=split.retain)
    trainer.train()
    TrainingArguments(
        output_dir="other", use_cpu=True
    )  # the retrained model's; it resets the state that accelerate keeps
    report = trainer.report(retain_dataset=split.retain)
    assert report.outcome["steps"] > 0
    assert (tmp_path / "unlearned").is_dir()
