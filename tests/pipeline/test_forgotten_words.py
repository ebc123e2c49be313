"""Words of a forgotten user in the tokenizer of a recipe's run: warned of, taken out, or never learned."""

import json

import pytest
from transformers import AutoTokenizer, BertConfig

from hf_unlearn.cli import main
from hf_unlearn.pipeline.prepare import prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.data import WORDS, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import arguments

OWN = WORDS[20:]  # that the texts of one user alone hold


@pytest.fixture
def folder(tmp_path):
    for split, seed in (("train", 0), ("test", 9)):
        rows = text_data(64, seed).map(lambda row: {"text": " ".join(w for w in row["text"].split() if w not in OWN)})
        users = ["u1" if split == "train" and i < 16 else f"u{2 + i % 5}" for i in range(64)]
        texts = [
            f"{t} {OWN[i % 4]}" if u == "u1" else t for i, (t, u) in enumerate(zip(rows["text"], users, strict=True))
        ]
        rows = rows.remove_columns("text").add_column("text", texts).add_column("user", users)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    trained("bert").save_pretrained(tmp_path / "original")
    tokenizer().save_pretrained(tmp_path / "original")
    return tmp_path


def run_on(folder, **keys):
    keys = {"model": str(folder / "original"), "forget_column": "user", "forget_values": ["u1"], **keys}
    return RunArguments(dataset=str(folder), **keys)


def test_the_words_are_counted_before_the_run_and_not_quoted(folder, tmp_path, caplog):
    job = prepare(run_on(folder), arguments(tmp_path / "out"))
    assert "The tokenizer still spells words of the forgotten rows: 4 entries" in caplog.text
    assert not any(word in caplog.text for word in OWN)
    assert job.dropped == []
    caplog.clear()
    prepare(run_on(folder), arguments(tmp_path / "out", check_rows=False))
    prepare(run_on(folder, forget_values=["u2"]), arguments(tmp_path / "out"))
    assert "entries" not in caplog.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"peft_config": "lora"}, "an adapter leaves its base as it is"),
        ({"streaming": True, "test_split": None}, "rows to keep that are no stream"),
    ],
)
def test_what_cannot_lose_words_is_refused(folder, tmp_path, keys, message):
    with pytest.raises(ValueError, match=f"`drop_forgotten_words`.*{message}"):
        prepare(run_on(folder, drop_forgotten_words=True, **keys), arguments(tmp_path / "out"))


def test_a_recipe_trains_a_tokenizer_on_kept_rows_only(folder, tmp_path):
    BertConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    ).to_json_file(tmp_path / "config.json")
    keys = {"model": str(tmp_path / "made"), "model_config": str(tmp_path / "config.json"), "train_epochs": 0.1}
    prepare(run_on(folder, **keys), arguments(tmp_path / "out"))
    known = AutoTokenizer.from_pretrained(tmp_path / "made").get_vocab()
    assert not known.keys() & {*OWN}
    assert {*WORDS[:16]} <= known.keys()


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_dropped_word(folder, tmp_path, capsys):
    words = ["run", "--model", str(folder / "original"), "--dataset", str(folder), "--forget_column", "user"]
    words += [
        "--forget_values",
        "u1",
        "--use_cpu",
        "true",
        "--disable_tqdm",
        "true",
        "--figures",
        "false",
        "--max_steps",
        "2",
    ]
    assert main([*words, "--output_dir", str(tmp_path / "kept")]) in (0, 1)
    assert main([*words, "--output_dir", str(tmp_path / "gone"), "--drop_forgotten_words", "true"]) in (0, 1)
    said = capsys.readouterr().out
    assert said.count("the tokenizer still spells words of the forgotten rows: 4 entries") == 1
    assert "Taken out of the tokenizer: 4 of 4 entries" in said
    cards = [(tmp_path / name / "README.md").read_text() for name in ("kept", "gone")]
    assert ["4 entries of its vocabulary" in card for card in cards] == [True, False]
    assert ["original's without 4 entries" in card for card in cards] == [False, True]
    held = {
        path.relative_to(tmp_path / "gone")
        for path in (tmp_path / "gone").rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in OWN)
    }
    assert held == set()
    assert main(["push", str(tmp_path / "kept"), "--repo", "org/x", "--dry-run"]) == 0
    assert main(["receipt", "verify", "--folder", str(tmp_path / "gone")]) == 0
    assert json.loads((tmp_path / "gone" / "report.json").read_text())["run"]["words_dropped"] == 4
