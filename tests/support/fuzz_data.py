"""Spoiled rows, data files, model folders and lists of ids."""

import json
import math
import os
import shutil
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.data import SIZE
from tests.support.fuzz import PERSON, ROWS, STREAMS

ROW = (r"\brow \d+", r"\d+ rows?\b", r"\d+ of \d+", r"\d+ labels")
LABELS = [None, 0.9, 1.0, "1", "cat", "", -1, -100, 4, 10**18, True, math.nan, [1], [0, 1, 0, 0], {"a": 1}]
TEXTS = [
    None,
    "",
    " ",
    5,
    1.5,
    True,
    ["w1", "w2"],
    {"a": "w1"},
    "w1 " * 20_000,
    "\x00",
    "日本語",
    "[SEP] [PAD]",
    math.nan,
    [],
]
IDS = [
    None,
    [],
    [2, -1, 3],
    [2, 9999, 3],
    [[2, 5, 3]],
    ["2", "5"],
    [2.5, 3.0],
    "2 5 3",
    [2, *[5] * 200, 3],
    7,
    [None, 3],
    [True],
]


def picture(mode="RGB", size=(SIZE, SIZE), form="PNG"):
    held = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 4), dtype=np.uint8)
    if mode in ("I;16", "F", "I"):
        kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
        image = Image.fromarray(pixels[..., 0].astype(kind) * kind(200))
    else:
        image = Image.fromarray(pixels, "RGBA").convert(mode)
    image.save(held, form)
    return held.getvalue()


def pictures(good):
    """Return pictures that are damaged or unusual, by name."""
    return {
        "none": None,
        "cut": good[: len(good) // 2],
        "header only": good[:40],
        "html": b"<html>not found</html>",
        "no bytes": b"",
        "16 bit": picture("I;16"),
        "32 bit": picture("I", form="TIFF"),
        "fractions": picture("F", form="TIFF"),
        "cmyk": picture("CMYK", form="JPEG"),
        "palette": picture("P"),
        "alpha": picture("LA"),
        "one bit": picture("1"),
        "gif": picture("P", form="GIF"),
        "1×1": picture(size=(1, 1)),
        "1×3000": picture(size=(1, 3000)),
        "no file": {"path": "/nowhere/cat.png", "bytes": None},
        "nothing": {"path": None, "bytes": None},
    }


def some_split(case):
    return case.rng.choice(["train", "train", "test"])


def set_cell(case, split, column, value):
    """Put a value into one row, or in some cases into all rows."""
    cells = case.splits[split][column]
    whole = case.rng.random() < 0.2
    rows = range(ROWS) if whole else [case.rng.randrange(ROWS)]
    for row in rows:
        cells[row] = value
    case.must_name.append((rf"\b{column}\b", "`dataset`") if whole else (rf"\b{column}\b",))
    if not whole:
        case.must_name.append(ROW)
    return "all rows" if whole else f"row {rows[0]}"


def spoil_label(case):
    value, split = case.rng.choice(LABELS), some_split(case)
    case.form = "jsonl" if case.task == "text" else "parquet"
    if case.task == "image" and isinstance(value, bool | str | list | dict):
        case.splits[split]["label"] = [value] * ROWS  # a column of one kind
        case.must_name.append((r"\blabel", "`dataset`"))
        where = "all rows"
    else:
        where = set_cell(case, split, "label", value)
    if isinstance(value, float) and value % 1 > 0 and split == "train":
        case.fine = (2,)
    case.what = f"label {value!r} in {split}, {where}"
    mixed(case)


def mixed(case):
    """A reader of JSON refuses values of several kinds in one column, and names it, but no row."""
    if case.form == "jsonl":
        case.must_name = [(*names, r"`dataset`.*column") if names is ROW else names for names in case.must_name]


def spoil_text(case):
    value, split = case.rng.choice(TEXTS), some_split(case)
    case.form = case.rng.choice(["jsonl", "disk" if isinstance(value, str | None) else "jsonl"])
    where = set_cell(case, split, "text", value)
    case.what = f"text {value!r:.40} in {split}, {where} as {case.form}"
    if value is None and split == "train":
        case.fine = (2,)
    mixed(case)


def spoil_tokens(case):
    value, split = case.rng.choice(IDS), some_split(case)
    alone = case.rng.random() < 0.5
    for columns in case.splits.values():
        columns["input_ids"] = [[2, 4 + label, 3] for label in columns["label"]]
        if alone:
            columns.pop("text")
    case.form = "jsonl"
    where = set_cell(case, split, "input_ids", value)
    case.what = f"input_ids {value!r:.40} in {split}, {where}"
    mixed(case)


def spoil_picture(case):
    good = case.splits["train"]["image"][0]["bytes"]
    name, held = case.rng.choice(list(pictures(good).items()))
    split = some_split(case)
    value = (
        held if isinstance(held, dict) or held is None else {"bytes": held, "path": case.rng.choice([None, "cat.png"])}
    )
    where = set_cell(case, split, "image", value)
    case.form = "parquet" if isinstance(value, dict) and not value["bytes"] else case.rng.choice(["parquet", "disk"])
    case.what = f"picture {name} in {split}, {where}"
    if name in ("none", "cut", "html", "no bytes", "nothing", "header only") and split == "train":
        case.fine = (2,)


def arrays(case):
    """Store pictures as arrays of numbers, of which one is wrong."""
    kinds = {
        "uint8": lambda x: x,
        "ragged": lambda x: [[1, 2], [3]],
        "empty": lambda x: [],
        "none": lambda x: None,
        "flat": lambda x: [1, 2, 3],
        "large": lambda x: (np.asarray(x) * 1000).tolist(),
        "negative": lambda x: (-1 - np.asarray(x)).tolist(),
    }
    name, split = case.rng.choice(list(kinds)), some_split(case)
    for columns in case.splits.values():
        columns["image"] = [np.asarray(Image.open(BytesIO(v["bytes"]))).tolist() for v in columns["image"]]
    case.form = "jsonl"
    case.features.pop("image")
    where = set_cell(case, split, "image", kinds[name](case.splits[split]["image"][3]))
    case.what = f"arrays, {name} in {split}, {where}"
    mixed(case)


def spoil_columns(case):
    column, split, rng = case.rng.choice([case.task, "label", "user"]), some_split(case), case.rng
    columns = case.splits[split]
    change = rng.choice(
        ["drop", "rename", "upper", "nested", "empty", "labels too", "all columns", "names", "strings", "bytes"]
    )
    case.what = f"column {column} of {split}: {change}"
    names = (rf"\b{column}\b", r"\b(forget|text|image|label)_column", r"`dataset`")
    if change == "drop":
        columns.pop(column)
    elif change == "rename":
        columns["é" if rng.random() < 0.5 else "x.y z"] = columns.pop(column)
    elif change == "upper":
        columns[column.upper()] = columns.pop(column)
    elif change == "nested":
        columns[column] = [{"a": [v if isinstance(v, str | int) else 1]} for v in columns[column]]
        case.features.pop(column, None)
    elif change == "empty":
        columns[column] = [None] * ROWS
        names = (*names, "empty")
    elif change == "labels too":
        columns["labels"] = [None] * ROWS
    elif change == "all columns":
        for name in list(columns):
            columns[f"{name}_x"] = columns.pop(name)
        names = (*names, "column")
    elif change == "names":
        for part in case.splits.values():
            part["label"] = ["cat", "dog", "é", "ape"] * (ROWS // 4)
        names = (r"\blabel", "forget_class")
    elif change == "bytes":
        columns[column] = [str(v).encode() for v in columns[column]]
        case.features.pop(column, None)
    elif column != "image":
        columns[column] = [str(v) for v in columns[column]]
    case.must_name.append(names)


def spoil_size(case):
    split, rows = some_split(case), case.rng.choice([0, 1, 2])
    case.splits[split] = {name: values[:rows] for name, values in case.splits[split].items()}
    case.what = f"{rows} rows in {split}"
    case.form = case.rng.choice(["parquet", "jsonl"]) if case.task == "text" else "parquet"
    case.must_name.append((r"\bdataset", split, "forget_", r"\bvalues", r"\blabel", r"\battribute", r"\bgroup"))


def no_split(case):
    case.splits[case.rng.choice(["dev", "Test"])] = case.splits.pop(some_split(case))
    case.what = f"splits {list(case.splits)}"
    case.must_name.append((r"\btrain_split", r"\btest_split", r"\bdataset"))


def spoil_ids(case):
    """Ids of persons that are missing, numbers, or those of everybody."""
    value = case.rng.choice([None, "", 1.5, True, [PERSON], "same", "spaces", "unicode"])
    users = case.splits["train"]["user"]
    users = {
        "same": [f"{PERSON}-1"] * ROWS,
        "spaces": [f" {u} " for u in users],
        "unicode": [f"{u}\u202e" for u in users],
    }.get(value if isinstance(value, str) else "", [value if i % 8 == 1 else u for i, u in enumerate(users)])
    case.splits["train"]["user"] = users
    case.form = "jsonl" if case.task == "text" else "parquet"
    if case.task == "image" and len({type(u) for u in users}) > 1 and value is not None:
        case.splits["train"]["user"] = [value] * ROWS
    case.forget_by(forget_column="user", forget_values=[f"{PERSON}-1"])
    case.what = f"user {value!r}"
    case.must_name.append((r"\buser\b", r"\bforget_(column|values)", r"\bvalues"))


def spoil_file(case):
    """Damage a file of the data set, or put another beside it."""
    case.form = case.rng.choice(["jsonl", "parquet"]) if case.task == "text" else "parquet"
    how = case.rng.choice(["cut", "empty", "noise", "other kind", "link", "folder", "csv ;", "latin-1", "line"])
    case.what = f"data file {how} ({case.form})"
    case.must_name.append((r"`dataset`", r"\bdataset=", "_split", r"\bcolumn", "model"))

    def spoil(case):
        file = next(case.data.glob(f"train.{case.form}"))
        held = file.read_bytes()
        if how == "cut":
            file.write_bytes(held[: case.rng.randrange(1, len(held))])
        elif how == "empty":
            file.write_bytes(b"")
        elif how == "noise":
            at = case.rng.randrange(len(held) - 8)
            file.write_bytes(held[:at] + case.rng.randbytes(8) + held[at + 8 :])
        elif how == "other kind":
            (case.data / "train.csv").write_text("text,label\nw1 w2,0\n")
        elif how == "link":
            file.unlink()
            file.symlink_to("/nowhere/train")
        elif how == "folder":
            file.unlink()
            file.mkdir()
        elif how == "line":
            file.write_bytes(held + b'{"text": \n')
        else:
            shutil.rmtree(case.data)
            case.data.mkdir()
            sign, text = (";", "w1") if how == "csv ;" else (",", "é")
            lines = ["text", "label", "user"], *([text, str(i % 4), f"{PERSON}-{i}"] for i in range(ROWS))
            (case.data / "train.csv").write_bytes("\n".join(map(sign.join, lines)).encode("latin-1"))

    case.after.append(spoil)


WRONG = [
    None,
    "x",
    "",
    -1,
    0,
    1,
    3,
    10**9,
    0.5,
    1e400,
    math.nan,
    True,
    [],
    [1],
    {},
    {"a": 1},
    {"0": "a", "1": "a"},
    "relu",
    "é",
]


def spoil_settings(case):
    """Change a value in config.json, or in the settings of the image processor or tokenizer."""
    folder = case.own_model()
    files = ["config.json"] * 3 + (
        ["preprocessor_config.json"] if case.task == "image" else ["tokenizer_config.json", "tokenizer.json"]
    )
    file = folder / case.rng.choice(files)
    settings = json.loads(file.read_text())
    key = case.rng.choice([*settings, "quantization_config", "auto_map", "problem_type", "return_dict", "dtype"])
    value = case.rng.choice(WRONG)
    settings[key] = value
    file.write_text(json.dumps(settings))
    case.what = f"{case.task} {file.name}: {key} {value!r}"
    case.must_name.append(
        (rf"\b{key}\b", "`model`", r"`processing_class`", file.name, r"`tokenizer", r"\bmodel\b", r"image processor")
    )


def spoil_model_file(case):
    folder = case.own_model()
    file = folder / case.rng.choice(sorted(p.name for p in folder.iterdir()))
    held = file.read_bytes()
    how = case.rng.choice(["gone", "cut", "empty", "noise", "text", "link", "folder", "list", "deep"])
    file.unlink()
    if how == "cut":
        file.write_bytes(held[: case.rng.randrange(len(held))])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "noise":
        at = case.rng.randrange(min(len(held), 3000))
        file.write_bytes(held[:at] + case.rng.randbytes(4) + held[at + 4 :])
    elif how == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "link":
        file.symlink_to("/nowhere/file")
    elif how == "folder":
        file.mkdir()
    elif how == "list":
        file.write_text("[1, 2]")
    elif how == "deep":
        file.write_text("[" * 5_000)
    case.what = f"{case.task} {file.name}: {how}"
    case.must_name.append((file.name, "`model", r"`processing_class`"))


def spoil_weights(case):
    file = case.own_model() / "model.safetensors"
    tensors = load_file(file)
    name = case.rng.choice(sorted(tensors))
    how = case.rng.choice(
        ["nan", "infinite", "gone", "renamed", "shape", "whole numbers", "half", "more", "zeros", "empty", "8 bit"]
    )
    tensor = tensors.pop(name)
    changed = {
        "nan": lambda: {name: torch.full_like(tensor, math.nan)},
        "infinite": lambda: {name: torch.full_like(tensor, math.inf)},
        "gone": dict,
        "renamed": lambda: {f"x.{name}": tensor},
        "shape": lambda: {
            name: tensor[:1].clone() if tensor.shape[:1] > (1,) else tensor.repeat(2, *[1] * (tensor.ndim - 1))
        },
        "whole numbers": lambda: {name: tensor.to(torch.int64)},
        "half": lambda: {name: tensor.half()},
        "more": lambda: {name: tensor, "extra.weight": torch.zeros(3)},
        "zeros": lambda: {name: torch.zeros_like(tensor)},
        "empty": lambda: {name: tensor.flatten()[:0].clone()},
        "8 bit": lambda: {name: tensor.to(torch.float8_e4m3fn)},
    }[how]()
    save_file({**tensors, **changed}, file, metadata={"format": "pt"})
    case.what = f"{case.task} weights {name}: {how}"
    case.must_name.append((name, "weights", "`model"))
    if how in ("nan", "infinite", "gone", "renamed", "shape", "empty"):
        case.fine = (2,)


def spoil_ids_file(case):
    by_number = case.rng.random() < 0.5
    good = ["1", "5", "9"] if by_number else [f"{PERSON}-1", f"{PERSON}-3"]
    lines = "\n".join(good)
    contents = {
        "empty": b"",
        "blank": b" \n\n\t\n",
        "bom": b"\xef\xbb\xbf" + lines.encode(),
        "utf-16": lines.encode("utf-16"),
        "latin-1": f"{lines}\n{PERSON}-é".encode("latin-1"),
        "binary": bytes(range(256)),
        "crlf": lines.replace("\n", "\r\n").encode(),
        "unknown": f"{lines}\n{PERSON}-nobody".encode(),
        "outside": f"{lines}\n999".encode(),
        "negative": f"{lines}\n-1".encode(),
        "fraction": f"{lines}\n1.5".encode(),
        "huge": f"{lines}\n{'9' * 30}".encode(),
        "nan": f"{lines}\nnan".encode(),
        "digits of another script": f"{lines}\n１２".encode(),
        "underscores": f"{lines}\n1_0".encode(),
        "long line": (PERSON * 50_000).encode(),
        "twice": f"{lines}\n{lines}".encode(),
        "commas": ",".join(good).encode(),
        "quotes": "\n".join(f'"{g}"' for g in good).encode(),
        "all": "\n".join(map(str, range(ROWS)) if by_number else (f"{PERSON}-{i}" for i in range(8))).encode(),
        "header": f"user\n{lines}".encode(),
    }
    name = case.rng.choice([*contents, "folder", "gone", "link", "fifo"])
    file = case.folder / "ids.txt"
    if name == "folder":
        file.mkdir()
    elif name == "link":
        file.symlink_to("/nowhere/ids")
    elif name == "fifo":
        os.mkfifo(file)
    elif name != "gone":
        file.write_bytes(contents[name])
    case.forget_by(forget_ids_file=str(file), **({} if by_number else {"forget_column": "user"}))
    case.what = f"ids file {name}, {'row numbers' if by_number else 'ids'}"
    case.must_name.append((r"\b(forget_)?ids_file", r"\bvalues", "forget_", "selects"))
    if name in (
        "unknown",
        "outside",
        "negative",
        "fraction",
        "huge",
        "nan",
        "empty",
        "blank",
        "binary",
        "quotes",
        "header",
        "commas",
    ):
        case.fine = (2,)


def streamed(spoil):
    """The same data, read as a stream."""

    def spoil_stream(case):
        if case.keys["method"] not in STREAMS:
            case.forget_by(forget_class=["1"])
        spoil(case)
        case.keys["streaming"] = "true"
        case.fine = (0, 1, 2)  # rows to keep are read as they come
        case.form = "parquet" if case.form == "disk" else case.form
        case.what += ", streamed"

    return spoil_stream


def spoil_data(case):
    rows = [spoil_text, spoil_tokens] if case.task == "text" else [spoil_picture, spoil_picture, arrays]
    kinds = [*rows * 3, *[streamed(r) for r in rows], spoil_label, spoil_label, spoil_label, streamed(spoil_label)]
    kinds += [spoil_columns] * 3 + [spoil_size, no_split, spoil_ids, spoil_file, spoil_file, streamed(spoil_columns)]
    kinds += [spoil_settings] * 4 + [spoil_model_file] * 3 + [spoil_weights] * 2 + [spoil_ids_file] * 3
    case.rng.choice(kinds)(case)
