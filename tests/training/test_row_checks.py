"""Every row of every set is checked once, before the model changes."""

import datasets
import numpy as np
import pytest
import torch
import transformers

from hf_unlearn import GradientDifference, JiT, UnlearningTrainer
from hf_unlearn.models.processor import Processor
from hf_unlearn.training.row_checks import check_every_row
from tests.support.data import SIZE, class_split, image_data, image_processor, pixel_data, text_data, tokenizer
from tests.support.models import build, trained
from tests.support.runs import arguments
from tests.training.support import make_trainer, with_pixels


def with_cell(data, column, row, value):
    cells = [value if i == row else v for i, v in enumerate(data[column])]
    features = data.features[column]
    return data.remove_columns(column).add_column(column, cells, feature=features)


def stored_pictures(edit=None, n=8, row=5):
    """Pictures as they are stored, of which one is edited."""
    data = image_data(n).cast_column("image", datasets.Image(decode=False))
    cells = [cell["bytes"] for cell in data["image"]]
    cells[row] = cells[row] if edit is None else edit(cells[row])
    held = [None if cell is None else {"bytes": cell, "path": None} for cell in cells]
    return datasets.Dataset.from_dict(
        {"image": held, "label": data["label"]},
        features=datasets.Features({"image": datasets.Image(), "label": data.features["label"]}),
    )


@pytest.mark.parametrize("method", [JiT(num_perturbations=2), GradientDifference()])
@pytest.mark.parametrize("side", ["retain_dataset", "eval_dataset"])
def test_an_empty_text_is_found_before_the_run(tmp_path, method, side):
    split = class_split("bert")
    sets = {"retain_dataset": split.retain, "eval_dataset": text_data(40, 3)}
    sets[side] = with_cell(sets[side], "text", 17, None)
    with pytest.raises(ValueError, match=rf"^`{side}`, row 17, column `text`: it is empty"):
        make_trainer(tmp_path, arch="bert", method=method, **sets)
    make_trainer(tmp_path, arch="bert", method=method, args=arguments(tmp_path, check_rows=False), **sets)


def test_sets_in_a_dictionary_are_named_by_their_key(tmp_path):
    bad = with_cell(text_data(20, 3), "text", 4, None)
    with pytest.raises(ValueError, match=r"^`eval_dataset\['test'\]`, row 4, column `text`"):
        make_trainer(tmp_path, arch="bert", eval_dataset={"validation": text_data(20, 4), "test": bad})


@pytest.mark.parametrize("edit", [lambda b: b[:120], lambda b: b"<html>", lambda b: None], ids=["cut", "html", "none"])
@pytest.mark.parametrize("form", [None, "torch", "transform", "list"])
def test_a_damaged_picture_is_found_in_every_form_of_a_set(edit, form):
    data, processor = stored_pictures(edit), Processor(trained("vit"), image_processor())
    if form == "torch":
        data = data.with_format("torch")
    elif form == "transform":
        data = data.with_transform(lambda batch: 1 / 0)
    elif form == "list":
        data = list(data.cast_column("image", datasets.Image(decode=False)))
    with pytest.raises(ValueError, match=r"^`test_dataset`, row 5, column `image`: "):
        check_every_row(processor, data, "test_dataset")


def test_good_sets_pass_and_are_read_once(monkeypatch):
    data, processor = stored_pictures(), Processor(trained("vit"), image_processor())
    read = []
    monkeypatch.setattr(Processor, "check_cell", lambda self, row: read.append(row))
    check_every_row(processor, data, "x")
    check_every_row(Processor(trained("vit"), image_processor()), data, "y")
    assert len(read) == 8
    check_every_row(Processor(trained("vit"), image_processor(), image_column="photo"), data, "z")
    assert len(read) == 16


def test_no_picture_is_prepared(monkeypatch):
    prepared = []
    monkeypatch.setattr(Processor, "__call__", lambda self, row: prepared.append(row))
    check_every_row(Processor(trained("vit"), image_processor()), stored_pictures(), "x")
    assert not prepared


def test_the_random_state_and_a_transform_are_left_alone():
    calls = []
    data = stored_pictures().with_transform(lambda batch: calls.append(1) or {"pixel_values": torch.rand(1, 3, 4, 4)})
    before = torch.get_rng_state()
    check_every_row(Processor(trained("vit"), image_processor()), data, "x")
    assert not calls
    assert torch.equal(torch.get_rng_state(), before)


def test_prepared_pixels_are_numbers_of_one_shape():
    def spoil(x):
        x[11, 1, 2, 3] = np.nan

    processor = Processor(trained("vit"))
    check_every_row(processor, pixel_data(16), "x")
    with pytest.raises(ValueError, match=r"^`x`, row 11, column `pixel_values`: .*NaN"):
        check_every_row(processor, with_pixels(pixel_data(16), spoil), "x")
    ragged = datasets.Dataset.from_dict({"pixel_values": [np.zeros((3, SIZE, w)).tolist() for w in (SIZE, SIZE, 20)]})
    with pytest.raises(ValueError, match=r"^`x`, row 2, column `pixel_values`: .*\(3, 16, 20\).*one shape"):
        check_every_row(Processor(build("resnet")), ragged, "x")


def test_pictures_that_do_not_fit_into_one_batch_are_found():
    shortest = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 448}, crop_pct=1.0)
    keeps = transformers.ViTImageProcessorPil(do_resize=False)
    rows = [
        {"image": picture.resize((16, 16 + 4 * (i == 3))), "label": 0}
        for i, picture in enumerate(image_data(5)["image"])
    ]
    check_every_row(Processor(build("resnet"), shortest), rows, "x")
    with pytest.raises(ValueError, match=r"^`x`, row 3, column `image`: .*`do_center_crop=True`"):
        check_every_row(Processor(build("resnet"), keeps), rows, "x")


def test_rows_of_a_list_that_lack_the_column_are_named():
    rows = [*({"text": "w1", "label": 0} for _ in range(70)), {"label": 0}, ("w1", 0)]
    processor = Processor(build("bert"), tokenizer())
    with pytest.raises(ValueError, match=r"^`x`, row 70: no text column among label"):
        check_every_row(processor, rows, "x")
    with pytest.raises(ValueError, match=r"^`x`, row 70: it is a tuple"):
        check_every_row(processor, rows[:70] + rows[71:], "x")


def test_streams_are_left_to_the_run():
    check_every_row(Processor(build("bert"), tokenizer()), iter([{"text": None}]), "x")


@pytest.mark.parametrize("side", ["forget_dataset", "retain_dataset", "eval_dataset"])
def test_splits_and_nameless_rows_are_refused_by_the_name_of_the_argument(tmp_path, side):
    tuples = torch.utils.data.TensorDataset(torch.zeros(4, 3, SIZE, SIZE), torch.zeros(4))
    with pytest.raises(ValueError, match=rf"^`{side}`, row 0: it is a tuple"):
        make_trainer(tmp_path, **{side: tuples})
    if side != "eval_dataset":  # a dictionary of evaluation sets is allowed
        with pytest.raises(ValueError, match=rf"^`{side}` is a dictionary of splits"):
            make_trainer(tmp_path, **{side: datasets.DatasetDict(train=pixel_data(4))})


def test_a_damaged_forget_row_is_found_before_anything_changes(tmp_path):
    args = arguments(tmp_path, forget_kind="samples", max_steps=1)
    bad = stored_pictures(lambda b: b[:120])
    trainer = UnlearningTrainer(trained("vit"), args, JiT(), bad, processing_class=image_processor())
    with pytest.raises(ValueError, match=r"^`forget_dataset`, row 5, column `image`: it cannot be read"):
        trainer.train()
    assert not list(tmp_path.glob("**/*.safetensors"))
