"""Bad input is refused, by the name of its argument, before the model is touched."""

import json
import os
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest

from hf_unlearn import (
    FeatureInformation,
    ForgetRequest,
    GradientAscent,
    GradientDifference,
    JiT,
    MarginalInformation,
    UnlearningTrainer,
)
from hf_unlearn.hub.receipt.receipt import Receipt
from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.prepare import check_folders
from hf_unlearn.training.checks import check_data
from tests.support.data import CLASSES, SIZE, class_split, image_data, image_processor, pixel_data
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments, trainer_for
from tests.training.support import ascent, make_trainer, with_labels, with_pixels


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
        make_trainer(tmp_path, **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 15], ids=["first row", "last row"])
def test_nan_pixels_are_refused(tmp_path, value, row):
    def spoil(x):
        x[row, 1, 2, 3] = value

    before = state(build("vit"))
    model = build("vit")
    with pytest.raises(ValueError, match=r"`forget_dataset`.*NaN or infinite pixels"):
        make_trainer(tmp_path, model=model, forget_dataset=with_pixels(class_split("vit").forget, spoil)).train()
    assert not changed(before, state(model))


def test_wrong_number_of_channels_or_pixels_is_refused(tmp_path):
    grey = datasets.Dataset.from_dict({"pixel_values": np.zeros((4, 1, SIZE, SIZE), np.float32), "label": [1] * 4})
    with pytest.raises(ValueError, match=r"`forget_dataset`.*\(1, 16, 16\).*\(3, height, width\)"):
        make_trainer(tmp_path, forget_dataset=grey)
    large = datasets.Dataset.from_dict({"pixel_values": np.zeros((4, 3, 32, 32), np.float32), "label": [1] * 4})
    with pytest.raises(ValueError, match=r"`forget_dataset`.*32×32 pixels.*16×16"):
        make_trainer(tmp_path, forget_dataset=large)
    make_trainer(tmp_path, arch="resnet", forget_dataset=large, retain_dataset=None)  # has no position table


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`forget_dataset`.*holds text, and `processing_class` is missing"):
        make_trainer(tmp_path, arch="bert", processing_class=None)


def test_missing_retain_set_names_the_methods_that_need_none(tmp_path):
    for method in (GradientDifference(), None):
        args = arguments(tmp_path, method="fine_tune")
        with pytest.raises(ValueError, match=r"needs `retain_dataset`.*jit, counterfactual_distillation"):
            make_trainer(tmp_path, method=method, args=args, retain_dataset=None) if method else UnlearningTrainer(
                build("vit"), args, forget_dataset=class_split("vit").forget
            )


def test_overlap_is_checked_before_anything_else_happens(tmp_path):
    split = class_split("vit")
    with pytest.raises(ValueError, match="overlap"):
        trainer_for("vit", tmp_path, JiT(), split=replace(split, retain=split.forget))
    assert not list(tmp_path.iterdir())


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["forget_dataset", "retain_dataset"])
@pytest.mark.parametrize("bad", [CLASSES, 99, -1])
@pytest.mark.parametrize("row", [0, 5], ids=["first row", "later row"])
def test_labels_outside_the_head_are_refused(tmp_path, side, bad, row):
    split = class_split("vit")
    data = split.forget if side == "forget_dataset" else split.retain
    labels = data["label"][:]
    labels[row] = bad
    with pytest.raises(ValueError, match=rf"`{side}`.*{bad}|`{side}`.*outside"):
        make_trainer(tmp_path, **{side: with_labels(data, labels)})


def test_unknown_label_names_are_refused_and_known_ones_are_read(tmp_path):
    split = class_split("vit")
    model = build("vit")
    model.config.label2id = {name: i for i, name in enumerate("abcd")}
    named = [with_labels(d, ["abcd"[i] for i in d["label"]]) for d in (split.forget, split.retain)]
    trainer = make_trainer(tmp_path, model=model, forget_dataset=named[0], retain_dataset=named[1])
    assert trainer.train_dataset[0, 0, 0]["forget"][0]["labels"].item() == 1
    with pytest.raises(ValueError, match=r"`forget_dataset`.*column 'label'.*`label2id`"):
        make_trainer(tmp_path, model=model, forget_dataset=with_labels(split.forget, ["z"] * 16))


def test_missing_labels_are_refused_where_they_are_needed(tmp_path):
    forget = class_split("vit").forget.remove_columns("label")
    with pytest.raises(ValueError, match=r"`forget_dataset` has no label column.*`method='gradient_ascent'`"):
        make_trainer(tmp_path, method=GradientAscent(), forget_dataset=forget)
    trainer = make_trainer(tmp_path, forget_dataset=forget, retain_dataset=None)
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_transform_that_leaves_out_the_label_is_refused_where_labels_are_needed(tmp_path):
    data = class_split("vit").forget
    forget = data.with_transform(lambda rows: {"pixel_values": rows["pixel_values"]})
    with pytest.raises(
        ValueError, match=r"`forget_dataset`, row 0: it has no label once its transform ran.*'label' too"
    ):
        make_trainer(tmp_path, method=GradientAscent(), forget_dataset=forget)


def without_label(data, row=3, value=None):
    labels = [value if i == row else v for i, v in enumerate(data["label"])]
    return data.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize("method", [MarginalInformation(), FeatureInformation(attribute="group")])
def test_rows_without_a_label_are_refused_where_labels_are_read(method):
    split = class_split("vit")
    forget = split.forget if method.needs_forget else None
    with pytest.raises(ValueError, match="`retain_dataset`: 1 of 48 labels in column 'label' are missing"):
        check_data(method, Processor(trained("vit")), forget, without_label(split.retain))


def test_rows_without_a_label_are_no_obstacle_where_labels_are_not_read(tmp_path):
    split = class_split("vit")
    split = type(split)(without_label(split.forget), without_label(split.retain), split.forget_indices, split.request)
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), split=split, forget_kind="auto", max_steps=1)
    assert trainer.args.forget_kind == "class"
    trainer.train()


def test_labels_beside_missing_ones_are_checked_too():
    bad = without_label(without_label(pixel_data(16).cast_column("label", datasets.Value("int64")), 5, CLASSES))
    with pytest.raises(ValueError, match=f"`forget_dataset`: 1 labels .* outside .* {CLASSES} classes"):
        check_data(JiT(), Processor(trained("vit")), bad, None)


def test_labels_are_matched_by_name_in_every_set_and_this_is_said_once(tmp_path, caplog):
    names, model = ["d", "c", "b", "a"], trained("vit")
    model.config.id2label, model.config.label2id = dict(enumerate("abcd")), {n: i for i, n in enumerate("abcd")}
    feature, rows = datasets.ClassLabel(names=names), pixel_data(64)
    turned = with_labels(rows, [3 - y for y in rows["label"]]).cast_column("label", feature)
    split = ForgetRequest(label="b").split(turned)
    trainer = trainer_for("vit", tmp_path, GradientDifference(), model=model, split=split, eval_dataset={"all": turned})
    plain = class_split("vit")
    assert trainer.forget_dataset["label"][:] == plain.forget["label"][:] == [1] * 16
    assert trainer.retain_dataset["label"][:] == plain.retain["label"][:]
    assert trainer.eval_dataset["all"]["label"][:] == rows["label"][:]
    trainer.train()
    assert trainer.reference.forgotten_classes == (1,)
    figures = trainer.report(test_dataset=turned).models["original"]
    assert figures["test_accuracy"] == figures["retain_accuracy"] == 1
    assert caplog.text.count("'d' is 0 there and 3 in the model's `label2id`. Labels are matched by name.") == 1
    receipt = Receipt.from_trainer(trainer)
    assert all(receipt.forgotten.contains(row) for row in split.forget)  # as the owner has them
    with pytest.raises(ValueError, match=r"`test_dataset`: .*'e' \(16 rows\)"):
        trainer.report(test_dataset=turned.cast_column("label", datasets.ClassLabel(names=["d", "c", "b", "e"])))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"problem_type": "multi_label_classification"}, "multi-label head.*column 'label'"),
        ({"problem_type": "regression"}, "regression head.*column 'label'"),
    ],
)
def test_heads_for_several_labels_or_scores_are_refused(tmp_path, changes, match):
    model = build("vit")
    model.config.update(changes)
    for method in (JiT(), GradientAscent(), GradientDifference()):
        with pytest.raises(ValueError, match=rf"`model` has .*{match}"):
            make_trainer(tmp_path, model=model, method=method)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0.0, 0.9, 1.9, 2.0], "2 labels in column 'label' are no whole numbers, the first in row 1"),
        ([0, 1, -1, 2], "1 labels .*, the first in row 2. They mark missing labels"),
        ([0, -100, -100, 2], "2 labels .*, the first in row 1. They mark missing labels"),
        ([1, 2, 3, 4], "1 labels .*, the first in row 3. They are counted from 1"),
        ([[1, 0], [0, 1], [1, 1], [0, 0]], "column 'label' holds lists"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_their_row(tmp_path, labels, match):
    rows = class_split("vit").retain.select(range(4))
    with pytest.raises(ValueError, match=f"`retain_dataset`: {match}"):
        make_trainer(tmp_path, retain_dataset=with_labels(rows, labels))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_missing_labels_of_a_test_set_are_said(tmp_path, caplog, value):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=1), max_steps=1)
    trainer.train()
    labels = [value if i == 3 else float(y) for i, y in enumerate(pixel_data(8)["label"])]
    figures = trainer.report(test_dataset=with_labels(pixel_data(8), labels)).models["original"]
    assert "test_accuracy" not in figures
    assert "`test_dataset`: 1 of 8 labels in column 'label' are missing, the first in row 3" in caplog.text


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


# --- the output folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["model.safetensors", "checkpoint-3/unlearning_state.json"])
def test_output_folder_that_holds_a_model_is_refused_unless_overwritten(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"`output_dir=.*already holds.*`overwrite=True`"):
        make_trainer(tmp_path).train()
    assert (tmp_path / held).read_bytes() == b"precious"
    make_trainer(tmp_path, args=arguments(tmp_path, overwrite=True)).train()


@pytest.mark.parametrize(
    "place", ["model", "retrained", "retrained-3", "original-training", "checkpoint-500", "checkpoint-500/deeper", ""]
)
def test_a_run_does_not_write_to_the_place_of_its_original(tmp_path, place):
    original = tmp_path / "out" / place
    trained("vit").save_pretrained(original)
    with pytest.raises(ValueError, match="would overwrite the original"):
        check_folders(str(original), str(tmp_path / "out"), True)
    model = type(trained("vit")).from_pretrained(original)
    with pytest.raises(ValueError, match="would overwrite the original"):
        ascent(tmp_path / "out", model=model, overwrite=True).train()
    assert not changed(state(trained("vit")), state(type(model).from_pretrained(original)))


def test_an_original_elsewhere_in_the_folder_is_fine(tmp_path):
    trained("vit").save_pretrained(tmp_path / "original")
    check_folders(str(tmp_path / "original"), str(tmp_path), False)


def test_files_of_other_programs_stay(tmp_path):
    """A run does not delete checkpoints of another trainer, or files that only have the name of a marker."""
    strange = tmp_path / "checkpoint-1"
    trained("vit").save_pretrained(strange)
    with pytest.raises(ValueError, match="holds checkpoint-1, which another trainer wrote"):
        ascent(tmp_path, overwrite=True).train()
    assert (strange / "model.safetensors").is_file()
    shutil.rmtree(strange)
    mine = [tmp_path / "job.finished.json", tmp_path / "model.finished.json"]
    for path in mine:
        path.write_text(json.dumps({"job": 7}))
    ascent(tmp_path, overwrite=True).train()
    assert all(json.loads(path.read_text()) == {"job": 7} for path in mine)
