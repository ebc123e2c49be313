"""Spoiled recipes: values of any kind for any key, unknown keys, and files that are no recipe."""

import re
from dataclasses import fields

import yaml

from hf_unlearn.methods import METHODS as TABLE
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.training.arguments import UnlearningArguments
from tests.support.fuzz import PERSON

NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "0.5",
    "2",
    "1e400",
    "1e-300",
    "9" * 20,
    "1_000",
    "0x10",
    "１２",
    "1,5",
    "-0.0",
    "4294967296",
]
TEXTS = [
    "", " ", "none", "null", "true", "no", "é日本\u202ex", "a" * 5000, "%s %d {0}", "--max_steps=1", "-h", "../x", "/dev/null",
    "~/x", "$HOME", "a/b/c", "user", "text", "image", "label", "group", "nope", "1", "9", "cat", "id:1", "name:1", "id:9", "LABEL_1",
    "\x07bell", "a,b", "0123", "2020-01-01", "[a", "(", "*", "all", "head", "last:0", "last:9", "auto", "train", "{", "lora", "every",
    "epoch", "steps", "best", "adafactor", "cosine_with_restarts", "reduce_lr_on_plateau", "greedy",
]  # fmt: skip
LISTS = [
    ["a", "b"],
    [],
    ["1", "1"],
    [["a"]],
    ["1", None],
    ["1", "2"],
    ["0", "1", "2", "3"],
    [f"{PERSON}-2", f"{PERSON}-nobody"],
    ["x=1", "x=1"],
]
MAPPINGS = [
    {"a": 1}, {}, {"a": {"b": [1, 2]}}, {"peft_type": "LORA", "r": 0}, {"peft_type": "LORA", "r": 2}, {"peft_type": "cat"},
    {"use_reentrant": "x"}, {"use_reentrant": True}, {"split_batches": "x"}, {"num_cycles": "x"}, {"num_cycles": float("nan")},
]  # fmt: skip
# Larger numbers ask for more work, and a run that was asked to work for days is right to do so.
WORK = {
    "max_steps", "num_train_epochs", "train_epochs", "num_perturbations", "relearning_steps", "samples", "refresh",
}  # fmt: skip
PROCESSES = {"dataloader_num_workers", "dataloader_multiprocessing_context"}  # these start processes
COMPILES = {"torch_compile"}


def keys_of(method):
    """Return the names of all keys of a recipe, in groups that are drawn equally often."""
    own = [f.name for f in fields(UnlearningArguments) if f.name in UnlearningArguments.__annotations__]
    others = [f.name for f in fields(UnlearningArguments) if f.init and f.name not in (*own, *COMPILES)]
    run = [f.name for f in fields(RunArguments)]
    return [run, run, run, [f.name for f in fields(TABLE[method]) if f.init], own, others, others]


def drawn_value(rng, key):
    value = rng.choice(rng.choice([NUMBERS, NUMBERS, TEXTS, TEXTS, TEXTS, LISTS, MAPPINGS]))
    if key in WORK | PROCESSES and isinstance(value, str):
        try:
            if not float(value) <= (2 if key in WORK else 0):
                return "nan"
        except ValueError:
            pass
    return value


def spoil_value(case):
    method = case.keys["method"] if case.keys["method"] in TABLE else "jit"
    key = case.rng.choice(case.rng.choice(keys_of(method)))
    value = drawn_value(case.rng, key)
    case.keys[key] = value
    others = [key]
    if key == "method" or key in (
        "forget_column",
        "attribute",
    ):  # what stands beside it may then be missing or too much
        others += ["method", "attribute", "forget_", *case.keys]
    elif key.startswith("forget_"):
        others += ["forget_", "method", "attribute", *(key[7:], "label", "column", "request")]
    case.what = f"{key}: {value!r:.80}"
    names = [rf"\b{name.replace('_', '[_-]')}" for name in others]
    if "weight" in key or value == "9" * 20:
        names.append("loss is NaN")
    if key.endswith("_column"):
        names += [re.escape(repr(value)), "features do not vary"]
    case.must_name.append(tuple(names))


def spoil_two_values(case):
    spoil_value(case)
    first = case.what
    spoil_value(case)
    case.what = f"{first}; {case.what}"
    case.must_name = [case.must_name[0] + case.must_name[1]]


def add_unknown_key(case):
    known = case.rng.choice(case.rng.choice(keys_of(case.keys["method"])))
    key = case.rng.choice(
        [
            known + "s",
            known[1:],
            known.upper(),
            known.replace("_", "-"),
            f" {known}x",
            "é",
            "x" * 300,
            "-h",
            "--help",
            "1",
        ]
    )
    if any(key in keys for keys in keys_of(case.keys["method"])):
        key += "s"
    case.keys[key] = drawn_value(case.rng, key)
    case.what = f"unknown key {key!r:.60}"
    case.must_name.append((r"in the recipe", "has no value", "--config", "names"))
    case.fine = (2,)


def leave_out(case):
    """Leave out a key that has no default."""
    key = case.rng.choice(
        ["model", "dataset", "output_dir", "forget_class", "forget_column", "forget_values", "attribute"]
    )
    case.keys.pop(key, None)
    case.what = f"no {key}"
    case.must_name.append((rf"\b{key}", r"forget_", r"\battribute", r"\bvalues"))


def spoil_file(case):
    text = yaml.safe_dump(case.keys)
    line = case.rng.choice(text.splitlines())
    spoiled = {
        "twice": f"{text}{line}\n",
        "tabs": text.replace(": ", ":\t\t\n\t"),
        "no colon": text.replace(":", " ", 1),
        "empty": "",
        "null": "null\n",
        "a list": "- a\n- b\n",
        "cut": text[: case.rng.randrange(len(text))],
        "binary": "\x00\x01" + text,
        "object": f"{text}seed: !!python/object/apply:os.system ['true']\n",
        "alias": f"{text}seed: *a\n",
        "bomb": "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\n" + text,
        "deep": f"{text}seed: {'[' * 500}1{']' * 500}\n",
        "two documents": f"{text}---\n{text}",
        "null value": f"{text}seed:\n",
        "null key": f"{text}null: 1\n",
        "list as key": f"{text}[a, b]: 1\n",
        "long": text + "#" * 2_000_000,
    }
    name = case.rng.choice(list(spoiled))
    case.text = spoiled[name]
    case.what = f"recipe: {name}"
    case.must_name.append(("--config", "recipe", r"\bmodel", r"\bdataset", "seed"))
    if name != "cut":
        case.fine = (2,)


def spoil_recipe(case):
    kinds = [spoil_value] * 12 + [spoil_two_values] * 4 + [add_unknown_key] * 2 + [leave_out, spoil_file]
    case.rng.choice(kinds)(case)
