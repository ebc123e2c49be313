"""`hf-unlearn shards`: from training to an exact deletion, its queue and its checks, by the command line alone."""

import json
import re
import shutil

import pytest

from hf_unlearn import UnlearningArguments, UnlearningTrainer
from hf_unlearn.cli import main, shards
from hf_unlearn.hub.layout import RECEIPT
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FOLDER
from hf_unlearn.models.pretrained import load_classifier
from hf_unlearn.models.sharded_classifier import SHARDING
from hf_unlearn.shards.version import LEDGER, Version
from tests.shards.support import rows_for, save_base, weights
from tests.support.data import tokenizer

pytestmark = pytest.mark.xdist_group("shards of commands")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, a CSV of rows with owners, and a model that the command line trained on them."""
    place = tmp_path_factory.mktemp("shards")
    base = save_base("bert", place / "base")
    rows_for("bert").remove_columns("group").to_csv(place / "rows.csv")
    rows_for("bert", 24, seed=4).remove_columns("group").to_csv(place / "held_out.csv")
    assert run("train", "--model", base, "--dataset", place / "rows.csv", "--output_dir", place / "v1", *SMALL) == 0
    return place


SMALL = [
    "--group_column",
    "owner",
    "--num_shards",
    "3",
    "--slices",
    "2",
    "--num_train_epochs",
    "1",
    "--num_processes",
    "1",
    "--use_cpu",
    "true",
]
HERE = ["--num_processes", "1", "--use_cpu", "true"]


def run(*words):
    return main(["shards", *map(str, words)])


@pytest.mark.slow
def test_a_user_is_forgotten_in_one_command_and_the_result_can_be_checked(place, tmp_path, capsys):
    request = ("--model", place / "v1", "--forget_column", "owner", "--forget_values", "u3")
    assert run("forget", *request, "--dry_run", "true") == 0
    told = capsys.readouterr().out
    assert "6 rows in 1 of 3 shards" in told
    assert "from stage" in told
    assert run("forget", *request, "--output_dir", tmp_path / "v2", *HERE) == 0
    assert "still holds what the rows taught" in capsys.readouterr().out
    assert (tmp_path / "v2" / RECEIPT).is_file()
    changed = [
        i for i, (a, b) in enumerate(zip(weights(place / "v1"), weights(tmp_path / "v2"), strict=True)) if a != b
    ]
    assert len(changed) == 1
    check = ("check", "--model", tmp_path / "v2", "--previous", place / "v1", "--use_cpu", "true")
    assert run(*check, "--shards", changed[0]) == 0
    assert "trained from the start, the same bits" in capsys.readouterr().out
    assert main(["receipt", "verify", "--folder", str(tmp_path / "v2")]) == 0


@pytest.mark.slow
def test_a_changed_shard_is_found(place, tmp_path, capsys):
    shutil.copytree(place / "v1", tmp_path / "v1")
    shutil.copytree(tmp_path / "v1" / "shard-00", tmp_path / "v1" / "shard-01", dirs_exist_ok=True)
    assert run("check", "--model", tmp_path / "v1", "--shards", 0, "--use_cpu", "true") == 1
    assert f"MISMATCH shard-01: its weights are not those of {SHARDING}" in capsys.readouterr().out
    assert run("check", "--model", place / "v1", "--shards", 9) == 2
    assert "`shards`: 9 has no rows here" in capsys.readouterr().err


@pytest.mark.slow
def test_requests_wait_in_the_queue_until_they_are_carried_out_together(place, tmp_path, capsys):
    shutil.copytree(place / "v1", tmp_path / "v1")
    one = ("--model", tmp_path / "v1")
    assert run("queue", *one, "--forget_column", "owner", "--forget_values", "u1", "--deadline", "2030-02-01") == 0
    assert run("queue", *one, "--forget_column", "owner", "--forget_values", "u2", "--deadline", "2031-02-01") == 0
    told = capsys.readouterr().out
    assert "2 requests wait" in told
    assert "u1" not in told
    assert run("forget", *one, "--queued", "true", "--due", "2030-12-31", "--output_dir", tmp_path / "v2", *HERE) == 0
    assert "6 rows in 1 of 3 shards" in capsys.readouterr().out
    assert run("queue", "--model", tmp_path / "v2") == 0
    assert "1 requests wait" in capsys.readouterr().out
    assert run("forget", "--model", tmp_path / "v2", "--queued", "true", "--output_dir", tmp_path / "v3", *HERE) == 0
    assert run("versions", "--model", tmp_path / "v3") == 0
    told = capsys.readouterr().out
    assert str(tmp_path / "v2") in told
    assert run("versions", "--model", tmp_path / "v3", "--purge", "true") == 0
    assert not (tmp_path / "v1").exists()
    assert not (tmp_path / "v2").exists()
    assert (tmp_path / "v3").exists()
    assert run("forget", "--model", tmp_path / "v3", "--queued", "true", "--output_dir", tmp_path / "v4") == 2
    assert "The queue is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_added_and_their_source_is_known_from_then_on(place, tmp_path, capsys):
    new = rows_for("bert", 12, seed=8).remove_columns(["group", "owner"]).add_column("owner", ["new"] * 12)
    new.to_csv(tmp_path / "new.csv")
    given = ("--model", place / "v1", "--dataset", tmp_path / "new.csv", "--output_dir", tmp_path / "v2", *HERE)
    assert run("add", *given) == 0
    assert Version.load(tmp_path / "v2").ledger.sources == [str(place / "rows.csv"), str(tmp_path / "new.csv")]
    gone = ("--forget_column", "owner", "--forget_values", "new", "--output_dir", tmp_path / "v3", *HERE)
    assert run("forget", "--model", tmp_path / "v2", *gone) == 0
    assert weights(tmp_path / "v3") == weights(place / "v1")
    assert "12 rows" in capsys.readouterr().out


@pytest.mark.slow
def test_weights_of_shards_are_fitted_on_held_out_rows(place, tmp_path):
    base = place / "base"
    given = ("--model", base, "--dataset", place / "rows.csv", "--output_dir", tmp_path / "v1", *SMALL)
    assert run("train", *given, "--held_out", place / "held_out.csv") == 0
    assert Version.load(tmp_path / "v1").sharding.fitted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs one of: train, forget, add, queue, check, versions"),
        (["retrain"], "needs one of: train"),
        (["forget", "--model", "v1", "--forgets", "x"], "`--forgets` is no option"),
        (["train", "--model", "b"], "`--dataset`, `--output_dir` are missing"),
        (["forget", "--model", "nowhere", "--forget_class", "1", "--output_dir", "out"], r"holds no sharding\.json"),
        (["queue", "--model", "V1", "--forget_class", "1", "--deadline", "soon"], "`deadline='soon'` is no day"),
        (["forget", "--model", "V1", "--output_dir", "out"], "Nothing is named to forget"),
        (["forget", "--model", "V1", "--forget_class", "1"], "`output_dir` is missing"),
        (["forget", "--model", "V1", "--forget_class", "1", "--due", "2030-01-01"], "give `--queued true` too"),
        (
            ["forget", "--model", "V1", "--forget_column", "owner", "--forget_values", "u99", "--dry_run", "true"],
            "`forget_values`",
        ),
    ],
)
def test_what_cannot_work_is_named(place, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", *(str(place / "v1") if word == "V1" else word for word in words)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_approximate_unlearning_is_refused_because_its_weights_could_not_be_saved(place, tmp_path, capsys):
    given = (
        "--dataset",
        place / "rows.csv",
        "--test_split",
        "none",
        "--forget_class",
        "1",
        "--output_dir",
        tmp_path / "out",
    )
    assert main(["run", "--model", str(place / "v1"), "--method", "jit", *map(str, given), "--use_cpu", "true"]) == 2
    assert "`hf-unlearn shards forget --model FOLDER" in capsys.readouterr().err
    model = load_classifier(str(place / "v1"))
    with pytest.raises(ValueError, match="`model` is made of shards"):
        UnlearningTrainer(
            model,
            UnlearningArguments(str(tmp_path / "out"), use_cpu=True),
            "jit",
            rows_for("bert", 8),
            processing_class=tokenizer(),
        )


def test_a_model_without_a_known_source_asks_for_its_rows(place, tmp_path, capsys):
    shutil.copytree(place / "v1", tmp_path / "v1")
    ledger = tmp_path / "v1" / PRIVATE_FOLDER / LEDGER
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "sources": []}))
    given = ("--model", tmp_path / "v1", "--forget_class", "1", "--dry_run", "true")
    assert run("forget", *given) == 2
    assert "`dataset` is missing" in capsys.readouterr().err
    assert run("forget", *given, "--dataset", place / "rows.csv") == 0
    assert "18 rows in " in capsys.readouterr().out


@pytest.mark.parametrize(("command", "option"), [("train", "--group_column"), ("versions", "--purge")])
def test_help_explains_each_command(command, option, capsys):
    assert main(["shards", "--help"]) == 0
    assert f"hf-unlearn shards {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        shards.main([command, "--help"])
    assert option in capsys.readouterr().out
