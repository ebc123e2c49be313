"""Pictures in all forms that data sets hold them in, as the image processor reads them, and the sizes that a model reads."""

import base64
import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import nn

from .forward import classify, eval_mode, on_device, unwrap

AMBIGUOUS_MODES = {"I": "whole numbers of 32 bits", "F": "fractions"}
AS_PICTURES = "Read the column as pictures: `dataset.cast_column({column!r}, datasets.Image())`."


def read_picture(value: Any, column: str, channels: int | None = 3, rescales: bool = True) -> Any:
    """Return a picture as an image processor reads it.

    Args:
        value: A picture of Pillow, the bytes or the path of a file, a structure of both, or an array (height, width[, channels])
            or (channels, height, width).
        column: Its column, for errors.
        channels: The colors that the model reads. Pictures become RGB for 3 and grey for 1. Default: 3.
        rescales: Whether the processor divides by 255. Default: True.

    Raises:
        ValueError: The value is no picture, is damaged or too large, or the meaning of its numbers is not certain.
    """
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], Image.Image):
        value = value[0]
    picture = open_picture(value, column)
    if picture is None:
        value = _stored(value)
        return value if isinstance(value, str) else _from_array(value, column, channels, rescales)
    picture = _loaded(picture, value)
    if not isinstance(value, Image.Image) and picture.getexif().get(ExifTags.Base.Orientation) is not None:
        picture = ImageOps.exif_transpose(picture)  # as `datasets` does
    return _in_colors(picture, channels)


def check_picture(value: Any, column: str, channels: int | None = 3, rescales: bool = True) -> tuple[int, int] | None:
    """Raise ValueError where `read_picture` does, at less cost. Return width and height of a picture of Pillow."""
    if getattr(value, "tile", None) and os.path.isfile(getattr(value, "filename", None) or ""):
        value = value.filename  # a picture that waits for its file would keep its pixels in memory
    picture = open_picture(value, column)
    if picture is None or channels == 1:
        read_picture(value, column, channels, rescales)
        return None if picture is None else picture.size
    size = picture.size
    if not isinstance(value, Image.Image):
        picture.draft(None, (1, 1))  # a JPEG is then read whole but decoded at an eighth of its size
    _check_mode(_loaded(picture, value).mode)
    return size


def open_picture(value: Any, column: str) -> Any | None:
    """Return the picture of Pillow that a file, bytes or a structure hold. Its pixels are not read yet.

    None for arrays, and for addresses (`https://…`), which others load.

    Raises:
        ValueError: There is no picture, or it is larger than Pillow's limit.
    """
    held = _stored(value)
    if held is None or (isinstance(held, float) and held != held):
        raise ValueError("the picture is missing. Drop the row, or fill it in.")
    picture: Any
    if isinstance(held, Image.Image):
        picture = held
    elif isinstance(held, bytes | bytearray | memoryview):
        picture = _opened(BytesIO(held), _name(value))
    elif isinstance(held, str | os.PathLike):
        path = os.path.expanduser(held)
        if "://" in str(path):
            return None
        picture = _opened(path, _name(held)) if os.path.isfile(path) else _from_text(str(held))
    elif isinstance(held, list | tuple | np.ndarray | torch.Tensor):
        return None
    else:
        raise ValueError(
            f"it holds a {type(held).__name__}, and a picture is needed. {AS_PICTURES.format(column=column)}"
        )
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, picture.size
    if limit and width * height > limit:
        raise ValueError(
            f"{_name(value)} has {width}×{height} pixels, more than Pillow's limit of {limit:,}. Make it smaller, or raise "
            "`PIL.Image.MAX_IMAGE_PIXELS` if you trust its source."
        )
    return picture


def _stored(value: Any) -> Any:
    """Return the bytes or the path in a structure of both, as `datasets` stores pictures. Anything else as it is."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        return value.get("path") if value.get("bytes") is None else value["bytes"]
    return value


def _opened(file: Any, name: str) -> Any:
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has more pixels than Pillow's limit. Make the picture smaller, or raise `PIL.Image.MAX_IMAGE_PIXELS`. "
            f"{error}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read as a picture: damaged or of another kind. Repair or drop it."
        ) from error


def _from_text(text: str) -> Any:
    """Return the picture that a text holds in base 64."""
    try:
        return Image.open(BytesIO(base64.decodebytes(text.partition(",")[2].encode() or text.encode())))
    except Exception as error:
        raise ValueError(
            "its text is not the path of a file here. Write whole paths, or load the pictures with "
            "`load_dataset('imagefolder', data_dir=...)`."
        ) from error


def _name(value: Any) -> str:
    """Return what an error calls a picture."""
    path = value.get("path") if isinstance(value, Mapping) else getattr(value, "filename", value)
    return f"file `{os.path.basename(path)}`" if path and isinstance(path, str | os.PathLike) else "the picture"


def _loaded(picture: Any, value: Any) -> Any:
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, EOFError and others
        raise ValueError(f"{_name(value)} is damaged: {error}. Repair or drop it.") from error
    return picture


def _check_mode(mode: str) -> None:
    if mode in AMBIGUOUS_MODES:
        raise ValueError(
            f"the picture has mode {mode!r} ({AMBIGUOUS_MODES[mode]}), so its brightest value is not certain. Scale the column "
            "to 8 bits, for example with `Image.fromarray((255 * x / highest).astype('uint8'))`."
        )


def _in_colors(picture: Any, channels: int | None) -> Any:
    """Return a picture in RGB for 3 `channels` and in grey for 1."""
    _check_mode(picture.mode)
    if picture.mode.startswith("I;16"):  # Pillow itself would cut all values at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
    wanted = {3: "RGB", 1: "L"}.get(3 if channels is None else channels)
    if wanted is None or picture.mode == wanted:
        return picture
    try:
        colors = picture.convert("RGB")
    except ValueError as error:
        raise ValueError(f"a picture of mode {picture.mode!r} does not become RGB. Convert the column.") from error
    if wanted == "RGB":
        return colors
    pixels = np.asarray(colors)
    if (pixels != pixels[..., :1]).any():
        raise ValueError("the picture is in color, and the model reads grey ones. Convert it: `picture.convert('L')`.")
    return Image.fromarray(pixels[..., 0])


def _from_array(value: Any, column: str, channels: int | None, rescales: bool) -> Any:
    """Return an array of a picture as 8 bits. Arrays with as many colors as the model reads stay arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        pixels = (value.float() if value.is_floating_point() else value).numpy()
    elif not isinstance(value, np.ndarray) and any(isinstance(v, Image.Image) for v in value):
        raise ValueError(f"it holds {len(value)} pictures, and one is needed. Make a row of each.")
    else:
        try:
            pixels = np.asarray(value)
        except ValueError:  # lists of unequal length
            pixels = np.empty(0, dtype=object)
    if pixels.dtype.kind not in "biuf":
        held = f"{len(value)} values that are no numbers" if len(value) else "an empty list"
        raise ValueError(f"it holds {held}, and one picture is needed. {AS_PICTURES.format(column=column)}")
    last = next((i for i in (-1, 0) if pixels.ndim == 3 and pixels.shape[i] in (1, 2, 3, 4)), None)
    if 0 in pixels.shape or (pixels.ndim != 2 and last is None):
        raise ValueError(
            f"its array has shape {pixels.shape}, and (height, width), (height, width, colors) or (colors, height, width) is needed."
        )
    whole = _eight_bits(pixels, rescales)
    colors = 1 if last is None else pixels.shape[last]
    if channels != 1 and (colors in (3, channels) or (whole.dtype.kind == "f" and colors != 1)):
        return value if whole is pixels and not isinstance(value, list | tuple) else whole
    if whole.dtype.kind == "f" and channels == 1:
        return whole
    if whole.dtype.kind == "f":
        return np.repeat(whole if whole.ndim == 3 else whole[..., None], 3, -1 if last is None else last)
    whole = np.moveaxis(whole, 0, -1) if last == 0 else whole
    return _in_colors(Image.fromarray(whole[..., 0] if whole.shape[2:] == (1,) else whole), channels)


def _eight_bits(pixels: np.ndarray, rescales: bool) -> np.ndarray:
    """Return the values of a picture in 0..255; fractions as they are."""
    if pixels.dtype == np.uint8 or (pixels.dtype.kind == "f" and not rescales):
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return (pixels.astype(np.float32) / 257).round().astype(np.uint8)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):  # not: NaN too
        raise ValueError(
            f"its values lie in {low:.4g}..{high:.4g}, and 0..255 is needed. Scale them, or name the column `pixel_values` if "
            "the model reads them as they are."
        )
    if pixels.dtype.kind != "f":
        return pixels.astype(np.uint8)
    if 0 < high <= 1:
        raise ValueError(
            "its values lie in 0..1, and the image processor would divide them by 255 again. Store 0..255, set "
            "`do_rescale=False` in the processor, or name the column `pixel_values` if the model reads them as they are."
        )
    return pixels


class ReadableSizes:
    """The sizes of pictures that a model reads. A forward pass decides where a size differs from the configuration.

    Many models interpolate their table of positions, so `config.image_size` alone decides nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: nn.Module | None = unwrap(model)
        size = getattr(getattr(self.model, "config", None), "image_size", None)
        self.declared = (
            (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else None
        )
        self.known: dict[tuple[int, ...], bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a data loader sends to a worker: all but the model."""
        return {**vars(self), "model": None}

    def __str__(self) -> str:
        return "×".join(map(str, self.declared or ("any",)))

    def __contains__(self, shape: tuple[int, ...]) -> bool:
        """Check whether the model reads pixels of a shape (channels, height, width)."""
        if self.declared is None or shape[1:] == self.declared or self.model is None:
            return True
        if shape not in self.known:
            self.known[shape] = self._tried(self.model, shape)
        return self.known[shape]

    def _tried(self, model: nn.Module, shape: tuple[int, ...]) -> bool:
        if any(p.numel() == 0 for p in model.parameters()):  # divided among processes
            return True
        try:
            with torch.no_grad(), eval_mode(model):
                classify(model, on_device(model, {"pixel_values": torch.zeros(1, *shape)}))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # each architecture has its own way to refuse a size
            return False
        return True
