"""Random command lines with one fault each end with 0, 1 or 2, and the message names the option and a remedy.

Nothing is loaded: reading a data set, training an original and sending to the Hub are replaced by the end of the command.
HF_UNLEARN_LINES sets the number of lines, HF_UNLEARN_SEED another seed.
"""

import os
import random
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from hf_unlearn import METHODS, UnlearningArguments
from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT
from hf_unlearn.hub.receipt.signing import generate_key
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.hub_runs import run_folder
from tests.support.receipts import write_run_receipt

CARD = Path(__file__).parents[2] / "model_cards" / "digits-vit" / "jit"
LINES, SEED = int(os.environ.get("HF_UNLEARN_LINES", "300")), int(os.environ.get("HF_UNLEARN_SEED", "0"))

# Whole command lines. A value in capitals is the name of a file or folder of `places`.
BASES = {
    "run": "--model MODEL --dataset DATA --forget_class 1 --output_dir NEW",
    "run --method fine_tune": "--model_name_or_path MODEL --dataset_name DATA --forget_column label --forget_values 1 --output_dir NEW",
    "run --config RECIPE": "--output_dir NEW",
    "audit": "--original MODEL --unlearned MODEL --forget DATA --test DATA --output_dir NEW",
    "card": "REPORT --overwrite",
    "push": "RUN --repo org/name",
    "push --dry-run": "RUN --repo org/name",
    "receipt verify": "--folder RUN",
    "receipt prove": "--private PRIVATE --rows DATA --output NEW",
    "receipt seal": "--folder RUN",
    "receipt keygen": "--output NEW",
    "receipt sign": "--receipt RECEIPT --key KEY",
    "demo": "--dataset DATA --output NEW",
}  # fmt: skip
REQUIRED = {"--model", "--model_name_or_path", "--dataset", "--dataset_name", "--forget_class", "--forget_column", "--forget_values",
            "--original", "--unlearned", "--forget", "--test", "--repo", "--folder", "--private", "--rows", "--receipt", "--key"}  # fmt: skip
SOURCES = {  # options that name a file or folder that must be there
    "run": "model dataset forget_ids_file config resume_from_checkpoint deepspeed fsdp_config",
    "audit": "original unlearned retrained forget test retain",
    "push": "sign-key",
    "receipt verify": "folder receipt public-key private",
    "receipt prove": "private rows",
    "receipt seal": "folder",
    "receipt sign": "receipt key",
    "demo": "dataset",
}
TARGETS = {"run": "output_dir", "demo": "output", "receipt keygen": "output"}  # options that name what is written
FIELDS = {
    f.name: str(f.type)
    for c in (RunArguments, UnlearningArguments, METHODS["surrogate_distillation"])
    for f in fields(c)
    if f.init
}


def of_type(*types):
    """Options of `run` whose type is one of `types`, by its name."""
    found = (name for name, kind in FIELDS.items() if set(re.findall(r"\w+", kind)) & set(types))
    return " ".join(name for name in found if name not in f"{SOURCES['run']} {TARGETS['run']}".split())


NUMBERS = {"run": f"{of_type('int', 'float')} num-processes", "audit": "alpha max_rows seed", "demo": "seed"}
SWITCHES = {"run": of_type("bool"), "audit": "use_cpu"}
CHOICES = {
    "run": " ".join(
        sorted(FIELDS.keys() - set(f"{NUMBERS['run']} {SWITCHES['run']} {SOURCES['run']} {TARGETS['run']}".split()))
    ),
    "audit": "kind",
    "demo": "task",
    "push": "revision tag repo overwrite-original base-model",
    "card": "repo",
}
BAD_NUMBERS = [
    "abc",
    "",
    "-1",
    "1e999",
    "nan",
    "1,5",
    "0x10",
    "99999999999999999999999",
    "-inf",
    "½",
    "1 2",
    "true",
    "[1]",
    "5%",
]
BAD_WORDS = [
    "abc",
    "",
    "{",
    '{"a": 1',
    "{}",
    "[1]",
    "a b",
    "../x",
    "-",
    "--",
    "nope=1",
    "null",
    "=",
    "猫",
    "\u202e",
    "x" * 300,
    "@",
]
BAD_PATHS = ["./petss", "/nowhere/at/all", "~/petss", "EMPTY", "BINARY", "TEXT", "TEXT/below", "no/such/place", "http://host/x",
             "", "a b", "x" * 300, "petss.csv", "org/name@", "@v1", "猫/犬", "LINK", "FOLDER", "."]  # fmt: skip
BAD_TARGETS = [path for path in BAD_PATHS if not path.startswith("/")]
REMEDY = re.compile(
    r"Did you mean|explains the options|=-value|[Gg]ive|Write|must |Correct|Choose|choose|needs?\b|Leave|leave|[Nn]ame |Pass|pass |Put|"
    r"Known|not one of|Use |Make |Save|Set |Start|is missing|Repeat|Bring|Copy|Download|Drop|in \[0|Select|Install|install|Load|Sign"
)


class Loaded(SystemExit):
    """The command read all of its command line."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("lines")
    run_folder(root / "run", original=("org/original", "0" * 40))
    shutil.copytree(CARD, root / "report")
    generate_key(root / "key.pem")
    write_run_receipt(root / "run").save(root / "private.json")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text('{"model_type": "vit"}')
    (root / "data.csv").write_text("text,label,user\na,0,u1\nb,1,u2\n")
    (root / "recipe.yaml").write_text(f"model: {root / 'model'}\ndataset: {root / 'data.csv'}\nforget_class: 1\n")
    (root / "text.txt").write_text("some text\n")
    (root / "binary.bin").write_bytes(bytes(range(256)) * 8)
    (root / "empty").write_text("")
    (root / "folder").mkdir()
    (root / "link").symlink_to("nowhere")
    names = {
        "RUN": "run",
        "MODEL": "model",
        "DATA": "data.csv",
        "RECIPE": "recipe.yaml",
        "TEXT": "text.txt",
        "EMPTY": "empty",
    }
    names |= {"REPORT": "report", "KEY": "key.pem", "RECEIPT": f"run/{RECEIPT}", "PRIVATE": "private.json"}
    names |= {"BINARY": "binary.bin", "FOLDER": "folder", "LINK": "link"}
    return root, {name: str(root / file) for name, file in names.items()}


@pytest.fixture
def nothing_loads(monkeypatch):
    def loaded(*_, **__):
        raise Loaded(0)

    for name in (
        "datasets.load_dataset", "hf_unlearn.data.loading._from_disk", "hf_unlearn.pipeline.prepare.train_original",
        "hf_unlearn.pipeline.data_sets.load_digits", "hf_unlearn.hub.push.run_folder.push_folder", "hf_unlearn.cli.run.launch",
    ):  # fmt: skip
        monkeypatch.setattr(name, loaded)
    monkeypatch.setattr("hf_unlearn.hub.push.run_folder.full_name", lambda repo_id, *_: repo_id)
    monkeypatch.setattr("hf_unlearn.hub.push.run_folder.license_there", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.utils._http.constants.HF_HUB_OFFLINE", True, raising=False)


def misspelt(draw, name):
    i = draw.randrange(3, len(name))
    letters = draw.choice(
        [name[:i] + name[i + 1 :], name[:i] + "x" + name[i:], name[:i] + name[i:][::-1], name[: i + 1] + name[i:]]
    )
    return letters if letters != name else name + "q"


def faulty(draw):
    """A command line with a fault, the option with the fault, and what is wrong with it."""
    start = draw.choice(list(BASES))
    command = next(c for c in ("run", "audit", "card", "push", "demo", start) if start.startswith(c))
    words = BASES[start].split()
    given = [w for w in words if w.startswith("--")]
    table = {"source": SOURCES, "target": TARGETS, "number": NUMBERS, "switch": SWITCHES, "choice": CHOICES}
    kinds = (
        [k for k, options in table.items() if command in options]
        + (["misspelt", "missing", "valueless"] if given else [])
        + ["stray"]
    )
    kind = draw.choice(kinds)
    if kind == "stray":
        word = draw.choice(["stray", "-q", "--nonsense", "--nonsense=1", "two words", "-5"])
        return [*start.split(), *words, word], word.partition("=")[0], kind
    if kind in ("misspelt", "missing", "valueless"):
        choice = [w for w in given if kind != "missing" or w in REQUIRED]
        if not choice:
            return faulty(draw)
        name = draw.choice(choice)
        at = words.index(name)
        if kind == "missing":
            gone = words[:at] + words[at + 2 :]
            return [*start.split(), *gone], name, kind
        if kind == "valueless":
            return [*start.split(), *words[:at], *words[at + 2 :], name], name, kind
        wrong = misspelt(draw, name)
        return [*start.split(), *words[:at], wrong, *words[at + 1 :]], wrong, kind
    name = "--" + draw.choice(table[kind][command].split())
    value = draw.choice({"number": BAD_NUMBERS, "source": BAD_PATHS, "target": BAD_TARGETS}.get(kind, BAD_WORDS))
    if name in words:
        at = words.index(name)
        words[at : at + 2] = [f"{name}={value}"]
        return [*start.split(), *words], name, kind
    apart = draw.random() < 0.5 and not value.startswith("-")
    return [*start.split(), *words, *([name, value] if apart else [f"{name}={value}"])], name, kind


def named(option, error):
    plain = error.replace("-", "_")
    aliases = {"--model_name_or_path": "--model", "--dataset_name": "--dataset"}
    return any(one.lstrip("-").replace("-", "_") in plain for one in (option, aliases.get(option, option)))


def complaint(words, option, capsys):
    """What is wrong with the answer to a command line; "" if all is well."""
    environment = dict(os.environ)
    try:
        code = main(words)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    error = capsys.readouterr().err
    if code not in (0, 1, 2):
        return f"code {code}: {error[-1500:]}"
    if "Traceback" in error:
        return f"traceback: {error[-1500:]}"
    if code == 2 and not named(option, error):
        return f"does not name {option}: {error}"
    if code == 2 and not REMEDY.search(error):
        return f"no remedy: {error}"
    return ""


def test_a_faulty_command_line_is_answered_with_the_option_and_a_remedy(places, nothing_loads, capsys, monkeypatch):
    root, names = places
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    wrong = []
    for number in range(LINES):
        words, option, kind = faulty(random.Random(f"{SEED}-{number}"))
        names["NEW"] = str(root / f"new-{number}")
        words = [re.sub("|".join(names), lambda found: names[found[0]], word) for word in words]
        found = complaint(words, option, capsys)
        if found:
            wrong.append(f"[{kind}] hf-unlearn {' '.join(words)}\n    {found}")
    assert not wrong, f"{len(wrong)} of {LINES} lines:\n" + "\n".join(wrong)
