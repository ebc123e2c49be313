"""Pictures in every form become the pixels of the same picture in RGB, or are refused with the reason."""

import base64
import io
import pickle

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hf_unlearn import JiT, UnlearningTrainer
from hf_unlearn.models.image_inputs import ReadableSizes, check_picture
from hf_unlearn.models.processor import Processor
from tests.support.data import CLASSES, SIZE, image_data, image_processor
from tests.support.models import build
from tests.support.runs import arguments

GREY = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
COLORS = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
PICTURE = Image.fromarray(COLORS)


def encoded(picture=PICTURE, kind="PNG", **settings):
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def pixels(value, **config):
    model = build("vit")
    for name, number in config.items():
        setattr(model.config, name, number)
    return Processor(model, image_processor())({"image": value, "label": 0})["pixel_values"]


@pytest.mark.parametrize(
    "value",
    [
        encoded(),
        bytearray(encoded()),
        {"bytes": encoded(), "path": None},
        {"bytes": encoded(), "path": "gone.png"},
        {"bytes": encoded()},
        base64.b64encode(encoded()).decode(),
        "data:image/png;base64," + base64.b64encode(encoded()).decode(),
        [PICTURE],
        COLORS,
        COLORS.tolist(),
        COLORS.transpose(2, 0, 1).tolist(),
        torch.from_numpy(COLORS).permute(2, 0, 1),
        COLORS.astype(np.int64),
        COLORS.astype(np.float32),
        COLORS.astype(np.uint16) * 257,
        np.dstack([COLORS, np.full((SIZE, SIZE), 255, np.uint8)]),
        torch.from_numpy(np.dstack([COLORS, np.full((SIZE, SIZE), 255, np.uint8)])).permute(2, 0, 1),
    ],
)
def test_forms_of_one_picture_give_the_same_pixels(value):
    assert torch.allclose(pixels(value), pixels(PICTURE), atol=1e-6)


def test_files_are_read_by_path_and_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = tmp_path / "turned.png"
    file.write_bytes(encoded(exif=exif))
    expected = pixels(PICTURE.rotate(-90))
    stored = datasets.Image().decode_example({"path": str(file), "bytes": None})
    for value in (str(file), file, {"path": str(file), "bytes": None}, file.read_bytes(), stored):
        assert torch.equal(pixels(value), expected)


@pytest.mark.parametrize(
    "value",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
        GREY,
        GREY.tolist(),
        GREY[None],
        GREY[..., None],
        torch.from_numpy(GREY),
        torch.from_numpy(GREY)[None],
        GREY.astype(np.float32),
        GREY.astype(np.float32)[None],
        GREY.astype(np.uint16) * 257,
    ],
)
def test_forms_of_one_grey_picture_give_the_same_pixels(value):
    expected = pixels(Image.fromarray(GREY).convert("RGB"))
    assert torch.allclose(pixels(value), expected, atol=1e-6)


def test_black_and_white_arrays_are_black_and_white():
    mask = GREY > 127
    expected = pixels(Image.fromarray(mask).convert("RGB"))
    assert torch.equal(pixels(mask), expected)
    assert expected.max() > expected.min()


def test_a_palette_and_inks_become_their_colors():
    palette = PICTURE.quantize(64)
    assert torch.equal(pixels(palette), pixels(palette.convert("RGB")))
    assert torch.equal(pixels(PICTURE.convert("CMYK")), pixels(PICTURE.convert("CMYK").convert("RGB")))


def test_grey_models_read_grey_pictures_of_every_mode_and_refuse_colors():
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            image_size=SIZE, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8, num_channels=1, num_labels=CLASSES,
        )
    )  # fmt: skip
    one = transformers.ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.5], image_std=[0.5])
    processor, grey = Processor(model, one), Image.fromarray(GREY)
    expected = processor({"image": grey})["pixel_values"]
    assert expected.shape == (1, SIZE, SIZE)
    forms = [grey.convert(mode) for mode in ("RGB", "RGBA", "LA", "P")]
    for value in (*forms, Image.fromarray(GREY.astype(np.uint16) * 257), GREY, GREY[None], np.dstack([GREY] * 3)):
        assert torch.equal(processor({"image": value})["pixel_values"], expected)
    with pytest.raises(ValueError, match=r"column `image`: .*in color, and the model reads grey"):
        processor({"image": PICTURE})


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "is missing"),
        (float("nan"), "is missing"),
        ({"bytes": None, "path": None}, "is missing"),
        (b"", "cannot be read as a picture"),
        (b"<html>404</html>", "cannot be read as a picture"),
        (encoded()[:400], "is damaged"),
        (encoded(kind="JPEG")[:-60], "is damaged"),
        ({"bytes": encoded()[:400], "path": "a/b/7.png"}, "file `7.png` is damaged"),
        ("photos/7.png", "not the path of a file"),
        ("a red fox", "not the path of a file"),
        (7, r"holds a int.*cast_column\('image', datasets.Image\(\)\)"),
        ({"url": "x"}, "holds a dict.*cast_column"),
        ([PICTURE, PICTURE], "2 pictures, and one is needed"),
        ([], "no numbers|shape"),
        ([[1, 2], [3]], "no numbers"),
        (np.zeros((0, 0, 3), np.uint8), r"shape \(0, 0, 3\)"),
        (np.zeros(9, np.uint8), r"shape \(9,\)"),
        (np.zeros((2, 3, SIZE, SIZE), np.uint8), "shape"),
        (COLORS / 255, "0..1.*do_rescale=False"),
        (COLORS / 127.5 - 1, "0..255 is needed.*pixel_values"),
        (np.full((SIZE, SIZE, 3), np.nan), "0..255 is needed"),
        (COLORS.astype(np.int32) * 257, "0..255 is needed"),
        (Image.fromarray(GREY.astype(np.float32)), "mode 'F'"),
        (Image.fromarray(GREY.astype(np.int32)), "mode 'I'"),
    ],
)
def test_other_values_are_refused_with_the_reason(value, match):
    with pytest.raises(ValueError, match=f"^column `image`: .*{match}"):
        pixels(value)


def test_fractions_are_read_where_the_processor_does_not_divide():
    plain = transformers.ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_rescale=False)
    found = Processor(build("vit"), plain)({"image": (COLORS / 255).astype(np.float32)})["pixel_values"]
    assert torch.allclose(found, pixels(PICTURE), atol=1e-5)


def test_pictures_beyond_the_limit_of_pillow_are_refused(monkeypatch):
    for limit in (SIZE * SIZE - 1, SIZE):  # Pillow warns of the first and raises at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for value in (PICTURE, encoded()):
            with pytest.raises(ValueError, match=r"column `image`: .*more .*Pillow's limit.*MAX_IMAGE_PIXELS"):
                pixels(value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    pixels(encoded())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_the_cheap_check_finds_cut_files_of_every_kind(kind):
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    whole = encoded(picture, kind)
    assert check_picture(whole, "image") == (48, 64)
    with pytest.raises(ValueError, match="damaged"):
        check_picture(whole[: len(whole) // 2], "image")


def test_the_cheap_check_leaves_an_open_picture_as_it_is(tmp_path):
    file = tmp_path / "photo.jpg"
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    file.write_bytes(encoded(picture, "JPEG"))
    waiting = Image.open(file)
    assert check_picture(waiting, "image") == (48, 64)
    assert waiting.tile, "its pixels were read, and would stay in memory"
    assert np.array_equal(np.asarray(waiting), np.asarray(Image.open(file)))


# --- sizes ------------------------------------------------------------------------------------------------------------

COMMON = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_labels": CLASSES, "image_size": 32}


def models():
    t = transformers
    yield t.Dinov2ForImageClassification(t.Dinov2Config(patch_size=8, **COMMON)), True
    yield t.Dinov2WithRegistersForImageClassification(t.Dinov2WithRegistersConfig(patch_size=8, **COMMON)), True
    swin = {"patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4}
    yield t.SwinForImageClassification(t.SwinConfig(image_size=32, num_labels=CLASSES, **swin)), True
    yield build("convnext"), True
    yield t.ViTForImageClassification(t.ViTConfig(patch_size=8, intermediate_size=8, **COMMON)), False
    yield t.DeiTForImageClassification(t.DeiTConfig(patch_size=8, intermediate_size=8, **COMMON)), False


def test_a_forward_pass_decides_which_sizes_a_model_reads():
    for model, reads in models():
        sizes, mode = ReadableSizes(model), model.training
        assert ((3, 24, 24) in sizes) is reads, type(model).__name__
        assert model.training is mode
        assert (3, model.config.image_size, model.config.image_size) in sizes
        assert (3, 24, 24) in pickle.loads(pickle.dumps(ReadableSizes(model))), "a worker has no model to ask"


def test_a_model_that_interpolates_runs_at_the_size_of_its_processor(tmp_path):
    model = next(models())[0]
    args = arguments(tmp_path, forget_kind="samples", max_steps=1)
    UnlearningTrainer(model, args, JiT(), image_data(4), processing_class=image_processor()).train()


def test_pictures_of_several_sizes_in_one_batch_are_refused():
    processor = Processor(build("resnet"))
    rows = [{"pixel_values": np.zeros((3, SIZE, width), np.float32)} for width in (SIZE, 20)]
    with pytest.raises(ValueError, match=r"\(3, 16, 16\) and \(3, 16, 20\).*`do_center_crop=True`"):
        processor.collate(rows)
