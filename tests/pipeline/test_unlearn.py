"""The long steps of a run: what is refused before training, what is measured, and what a failed report leaves."""

import json

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification

from hf_unlearn import ForgetRequest, UnlearningArguments, UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.methods import METHODS
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.prepare import prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.unlearn import retrain
from hf_unlearn.training.plain_training import train_classifier
from tests.support.data import image_data, image_processor
from tests.support.models import trained
from tests.support.recipes import run_options, save_model_and_data
from tests.support.tables import slow


@pytest.fixture
def words(tmp_path):
    return ["run", *run_options(save_model_and_data(tmp_path), output_dir=tmp_path / "out")]


@pytest.mark.slow
def test_a_report_that_fails_does_not_take_the_model_with_it(tmp_path, words, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("no report today")

    monkeypatch.setattr(UnlearningReport, "measure", fail)
    assert main(words) == 2
    assert "no report today" in capsys.readouterr().err
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_a_test_split_that_cannot_be_measured_on_is_refused_before_training(tmp_path, words, monkeypatch, capsys):
    data = image_data(96, 9).cast_column("label", datasets.Value("int64"))
    hidden = data.remove_columns("label").add_column("label", [0] * 90 + [-1] * 6)
    hidden.to_parquet(tmp_path / "data" / "test.parquet")
    train = image_data(96).cast_column("label", datasets.Value("int64"))
    train.to_parquet(tmp_path / "data" / "train.parquet")
    monkeypatch.setattr(UnlearningTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    assert main(words) == 2
    assert "`test_split`: 6 labels in column 'label' are outside" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "argument"), [("train", "retain_dataset"), ("test", "test_split")])
def test_a_damaged_picture_that_jit_does_not_read_is_found_before_training(
    tmp_path, words, monkeypatch, capsys, split, argument
):
    monkeypatch.setattr(UnlearningTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    for name in ("train", "test"):
        stored = image_data(96).cast_column("image", datasets.Image(decode=False))
        cells = stored["image"][:]
        if name == split:
            cells[92]["bytes"] = cells[92]["bytes"][:120]  # of class 0
        data = stored.remove_columns("image").add_column("image", cells, feature=datasets.Image())
        data.to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"`{argument}`, row " in error
    assert "column `image`: the picture is damaged" in error


@pytest.mark.slow
def test_bias_arguments_are_read_checked_and_reported(tmp_path, words, capsys):
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).add_column("pattern", ["present" if i % 3 else "absent" for i in range(96)])
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    (tmp_path / "recipe.yaml").write_text("bias_column: pattern\nbias_labels: {present: 2}\nmax_steps: 1\n")
    recipe = [*words, "--config", str(tmp_path / "recipe.yaml"), "--figures", "false"]
    assert main([*recipe, "--bias_labels", "green=2"]) == 2
    assert "`bias_labels`: 'green' is no value of 'pattern'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()
    assert main(recipe) in (0, 1)
    assert "bias following" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["bias"] == {"column": "pattern", "labels": {"present": "LABEL_2"}}
    assert {"bias_following", "bias_without", "cramers_v"} <= report["models"]["unlearned"].keys()
    assert "bias following" in (tmp_path / "out" / "report.html").read_text()


def test_a_method_that_reads_no_kept_rows_is_still_judged_by_them(tmp_path, words, capsys):
    ruin = ["--method", "gradient_ascent", "--trust_region", "0.3", "--max_steps", "20", "--figures", "false"]
    (tmp_path / "out" / "model").mkdir(parents=True)  # of a former run
    (tmp_path / "out" / "model" / "model.safetensors").write_bytes(b"former")
    assert main([*words, *ruin, "--max_halvings", "0", "--overwrite", "true"]) == 1
    outcome = json.loads((tmp_path / "out" / "report.json").read_text())["outcome"]
    assert any("kept data suffers" in warning for warning in outcome["warnings"])
    assert outcome["retain_start"] > 0.9
    told = capsys.readouterr().out
    assert "No model was written, because the run ended with the original (kept data suffers" in told
    assert not list((tmp_path / "out").glob("model*"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "there is no unlearned model to load" in card
    assert "pipeline(" not in card
    assert main(["receipt", "verify", "--folder", str(tmp_path / "out")]) == 0
    assert main(["push", str(tmp_path / "out"), "--repo", "a/b", "--dry-run"]) == 2
    assert "holds no model to push, because its run ended with the original" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("few_anchors")
@pytest.mark.parametrize(("method", "update"), [("gradient_ascent", "all"), *slow(("jit", "all"), ("jit", "head"))])
def test_rows_that_only_the_guard_reads_change_no_weight(tmp_path, words, method, update):
    """The same weights as from a trainer that was never given the kept rows, anchors in their place among it."""
    arguments = {"update": update, "max_steps": 2, "max_retain_drop": 1.0}
    main(
        [
            *words,
            "--method",
            method,
            "--figures",
            "false",
            *(str(w) for k, v in arguments.items() for w in (f"--{k}", v)),
        ]
    )
    model, data = trained("vit"), datasets.load_dataset(str(tmp_path / "data"))["train"]
    args = UnlearningArguments(
        output_dir=str(tmp_path / "api"),
        use_cpu=True,
        disable_tqdm=True,
        forget_kind="class",
        save_strategy="no",
        **arguments,
    )
    forget = ForgetRequest(label=1).split(data).forget
    trainer = UnlearningTrainer(model, args, METHODS[method](), forget, processing_class=image_processor())
    trainer.train()
    saved = load_file(tmp_path / "out" / "model" / "model.safetensors")
    api = tmp_path / "saved"
    trainer.model.save_pretrained(api)
    expected = load_file(api / "model.safetensors")
    assert all(saved[name].equal(tensor) for name, tensor in expected.items())


QUICK = ["--retrain", "true", "--max_steps", "1", "--figures", "false"]


def outputs_of(folder, capsys):
    """What a run tells its user: in the terminal, and in every file."""
    names = ("report.md", "report.html", "report.json", "README.md")
    return {"terminal": " ".join(capsys.readouterr().out.split()), **{n: (folder / n).read_text() for n in names}}


@pytest.mark.slow
def test_a_retrained_model_that_was_not_trained_is_no_yardstick(tmp_path, words, capsys):
    main([*words, *QUICK, "--train_epochs", "1", "--train_learning_rate", "1e-6"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["warnings"][0].startswith("the comparison is void: the retrained model is right on ")
    assert report["run"]["retraining"]["void"]
    for name, text in outputs_of(tmp_path / "out", capsys).items():
        assert "comparison is void" in text, name
        if name != "report.json":
            assert "retrained (void)" in text, name
            assert "than the retrained model" not in text, name


@pytest.mark.slow
def test_a_retraining_of_unknown_length_goes_on_until_it_fits(tmp_path, words, capsys):
    code = main([*words, *QUICK])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["retrained"]["retain_accuracy"] >= report["models"]["original"]["retain_accuracy"] - 0.05
    assert report["run"]["retraining"]["source"] == "search"
    assert "it is trained again" in capsys.readouterr().out
    before = load_file(tmp_path / "out" / "retrained" / "model.safetensors")
    assert main([*words, *QUICK, "--resume", "true"]) == code  # finds the training that ended the search
    assert "it is trained again" not in capsys.readouterr().out
    after = load_file(tmp_path / "out" / "retrained" / "model.safetensors")
    assert all(before[name].equal(tensor) for name, tensor in after.items())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["models"] == report["models"]


@pytest.mark.slow
def test_a_retraining_repeats_the_settings_beside_the_original(tmp_path, words, capsys):
    state = {"num_train_epochs": 30, "train_batch_size": 8, "log_history": [{"learning_rate": 5e-3}]}
    (tmp_path / "original" / "trainer_state.json").write_text(json.dumps(state))
    main([*words, *QUICK])
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    expected = {"epochs": 30.0, "learning_rate": 5e-3, "batch_size": 8, "source": "trainer_state.json", "void": False}
    assert expected.items() <= found["run"]["retraining"].items()
    assert not found["warnings"] or "void" not in found["warnings"][0]
    assert "settings in trainer_state.json of the original: 30 epochs, learning rate 0.005" in capsys.readouterr().out


def retrained(root, name, seed=0, **keys):
    """Retrain without class 1, in the folder `name`; returns the weights of every retrained model there."""
    run = {"model": str(root / "original"), "dataset": str(root / "data"), "forget_class": ["1"]}
    args = UnlearningArguments(output_dir=str(root / name), use_cpu=True, disable_tqdm=True, seed=seed)
    retrain(prepare(RunArguments(**run, train_rows=24, train_epochs=1, train_batch_size=8, **keys), args))
    return {p.parent.name: load_file(p) for p in (root / name).glob("*/model.safetensors")}


@pytest.mark.slow
def test_a_report_reads_all_retrained_models(tmp_path, words):
    few = ["--train_rows", "24", "--train_epochs", "1", "--train_batch_size", "8", "--relearning", "false"]
    main([*words, *QUICK[2:], *few, "--retrain", "2", "--seed", "0"])
    out = tmp_path / "out"
    report, test = UnlearningReport.from_dict(json.loads((out / "report.json").read_text())), image_data(96, 9)
    assert list(report.retrained) == ["retrained", "retrained-2"]
    for name, figures in report.retrained.items():
        model = AutoModelForImageClassification.from_pretrained(out / name)
        logits, labels = predict(model, test, Processor(model, image_processor()))
        assert figures["test_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    assert report.models["retrained"]["test_accuracy"] == pytest.approx(
        sum(figures["test_accuracy"] for figures in report.retrained.values()) / 2
    )
    assert report.seconds["ratio"] == pytest.approx(report.seconds["unlearning"] / report.seconds["retraining"])
    card = (out / "README.md").read_text()
    assert "1 to 2 of the retrained models, whose means are in the tables." in card
    assert "s, training each of the 2 retrained models " in card
    assert " s on average in the same run on the same machine: " in card


def same(one, other):
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_several_models_are_retrained_with_seeds_of_their_own(tmp_path):
    save_model_and_data(tmp_path)
    both, one = retrained(tmp_path, "both", retrain=2), retrained(tmp_path, "one", retrain=True)
    next_seed = retrained(tmp_path, "next", seed=1, retrain=True)
    assert both.keys() == {"retrained", "retrained-2"}
    assert same(both["retrained"], one["retrained"])
    assert same(both["retrained-2"], next_seed["retrained"])
    assert not same(both["retrained"], both["retrained-2"])


@pytest.mark.slow
@pytest.mark.parametrize("trained_until", [0, 1])
def test_a_run_killed_after_the_first_retrained_model_goes_on_with_the_second(tmp_path, monkeypatch, trained_until):
    """Killed before the second model's training, or when it was trained and not yet saved."""
    save_model_and_data(tmp_path)
    whole, starts, train = retrained(tmp_path, "whole", retrain=2), [], UnlearningTrainer.train

    def killed(trainer, **keys):
        starts.append(trainer.args.output_dir)
        if len(starts) == 2:
            if trained_until:
                train(trainer, **keys)
            raise KeyboardInterrupt
        return train(trainer, **keys)

    monkeypatch.setattr(UnlearningTrainer, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        retrained(tmp_path, "killed", retrain=2)
    first = tmp_path / "killed" / "retrained" / "model.safetensors"
    written = first.stat().st_mtime_ns
    ended = retrained(tmp_path, "killed", retrain=2, resume=True)
    assert starts == [str(tmp_path / "killed" / name) for name in ("retrained", "retrained-2") * 2]
    assert first.stat().st_mtime_ns == written
    assert all(same(ended[name], whole[name]) for name in ("retrained", "retrained-2"))


@pytest.mark.slow
def test_a_retraining_starts_from_the_base_that_the_card_names(tmp_path, words, capsys):
    torch.manual_seed(7)
    AutoModel.from_config(trained("vit").config).save_pretrained(tmp_path / "base")
    (tmp_path / "original" / "README.md").write_text(f"---\nbase_model: {tmp_path / 'base'}\n---\n")
    still = [*words, *QUICK, "--train_epochs", "0.1", "--train_learning_rate", "1e-9", "--overwrite", "true"]
    main(still)
    found = json.loads((tmp_path / "out" / "report.json").read_text())["run"]["retraining"]["base"]
    assert found == {"id": None, "revision": None, "named_by": "the model's card"}  # a path stays on this machine
    assert f"for comparison, from the base {tmp_path / 'base'}" in capsys.readouterr().out
    body, retrained = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "out/retrained"))
    pairs = [(t, retrained[f"vit.{n}"]) for n, t in body.items() if f"vit.{n}" in retrained]
    assert len(pairs) > 20
    assert all(torch.allclose(before, after, atol=1e-6) for before, after in pairs)
    main([*still, "--base_model", "none"])
    assert "for comparison, from random weights" in capsys.readouterr().out
    (tmp_path / "original" / "README.md").write_text(f"---\nbase_model: {tmp_path / 'gone'}\n---\n")
    main(still)
    said = capsys.readouterr().out
    assert "the model's card names a base that cannot be used." in said
    assert "from random weights" in said
    assert "whether the original did is not known" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"base_model": "./gone"}, "`base_model='./gone'`: there is no such file or folder"),
        ({"base_model": "original"}, "is a trained classifier of the same classes"),
        ({"base_model": "empty"}, "`base_model`: "),
    ],
)
def test_a_base_that_cannot_be_one_is_refused_before_training(tmp_path, words, monkeypatch, capsys, keys, message):
    monkeypatch.setattr(UnlearningTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([*words, *(str(w) for k, v in keys.items() for w in (f"--{k}", v))]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_without_one_of_the_models_classes_forgets_the_class_that_was_named(tmp_path, capsys, caplog):
    save_model_and_data(tmp_path)
    names = ["ant", "bee", "cat", "dog"]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "original")
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(tmp_path / "original")
    for split, seed in (("train", 0), ("test", 9)):
        for number, row in enumerate(image_data(96, seed)):
            if row["label"] != 2:  # no cats, so that dogs have number 2
                folder = tmp_path / "pets" / split / names[row["label"]]
                folder.mkdir(parents=True, exist_ok=True)
                row["image"].save(folder / f"{number}.png")
    words = {"dataset": tmp_path / "pets", "output_dir": tmp_path / "out", "figures": "false"}
    assert main(["run", *run_options(tmp_path, **words, forget_class="2")]) == 2
    assert "`forget_class='2'` is 'dog' in the data set and 'cat' in the model" in capsys.readouterr().err
    assert main(["run", *run_options(tmp_path, **words, forget_class="dog", method=None)]) == 0
    assert "Method: jit, because the data has no row of cat" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["forgotten_labels"] == ["dog"]
    assert report["models"]["original"]["test_accuracy"] > 0.9
    assert caplog.text.count("Labels are matched by name.") == 1
    unlearned = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model")
    logits, labels = predict(unlearned, image_data(96, 9), Processor(unlearned, image_processor()))
    right = logits.argmax(-1) == labels
    assert [right[labels == c].float().mean() > 0.5 for c in range(4)] == [True, True, True, False]


STILL = ["--forget_fraction", "0.5", "--method", "gradient_ascent", "--max_steps", "1", "--figures", "false"]


@pytest.fixture
def some_rows(tmp_path):
    """Options of a run over rows of all classes, none of which the model was trained on."""
    folders = save_model_and_data(tmp_path)
    image_data(800, 21).to_parquet(tmp_path / "data" / "train.parquet")
    image_data(800, 22).to_parquet(tmp_path / "data" / "test.parquet")
    return ["run", *run_options(folders, output_dir=tmp_path / "out", forget_class=None)]


@pytest.mark.slow
def test_a_run_that_moves_nothing_fails_unless_the_rows_were_unseen_anyway(tmp_path, some_rows, capsys):
    still = [*some_rows, *STILL, "--trust_region", "1e-6"]
    assert main(still) == 0
    for name, text in outputs_of(tmp_path / "out", capsys).items():
        assert "nothing to forget: the original already treats these rows as unseen ones" in text, name
    few = ["--train_rows", "24", "--test_rows", "24", "--overwrite", "true"]  # too few to show it
    assert main([*still, *few]) == 1
    for name, text in outputs_of(tmp_path / "out", capsys).items():
        assert "nothing was forgotten: the outputs on the forget set moved by" in text, name
        assert "or `marginal_information`" in text.replace("\\", "").replace("&#39;", "'"), name


@pytest.mark.slow
def test_a_costly_run_is_announced(some_rows, capsys):
    cheap = ["--train_epochs", "1", "--overwrite", "true"]
    main([*some_rows, *STILL, *cheap, "--trust_region", "1e-6"])
    assert "Retraining is probably cheaper" not in capsys.readouterr().out
    main([*some_rows, *STILL, *cheap, "--trust_region", "1e-6", "--max_steps", "7"])
    said = capsys.readouterr().out
    assert "this run may cost as much as training on 448 rows, and retraining trains on 400." in said


@pytest.fixture
def adapter(tmp_path):
    """Options of `hf-unlearn run` for an original that the plain Trainer trained as an adapter over `base`."""
    save_model_and_data(tmp_path)
    classifier = trained("vit")
    classifier.vit.save_pretrained(tmp_path / "base")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base", num_labels=4)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]))
    processor, rows = Processor(model, image_processor()), image_data(96, 0)
    train_classifier(model, rows, processor, {"learning_rate": 0.01, "num_train_epochs": 3}, tmp_path / "training")
    model.save_pretrained(tmp_path / "adapter")
    image_processor().save_pretrained(tmp_path / "adapter")
    keys = {"model": tmp_path / "adapter", "method": None, "output_dir": tmp_path / "out", "figures": "false"}
    return ["run", *run_options(tmp_path, **keys), "--retrained_cache", str(tmp_path / "cache")]


@pytest.mark.slow
def test_an_adapter_is_unlearned_in_place_and_its_yardstick_is_an_adapter_too(tmp_path, adapter, capsys):
    words = [*adapter, "--retrain", "1", "--train_epochs", "2", "--train_learning_rate", "0.01"]
    assert main(words) in (0, 1)
    assert f"from the base {tmp_path / 'base'}" in capsys.readouterr().out
    original, unlearned, retrained = (
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("adapter", "out/model", "out/retrained")
    )
    assert original.keys() == unlearned.keys() == retrained.keys()
    assert not any(same({n: t}, {n: original[n]}) for other in (unlearned, retrained) for n, t in other.items())
    configs = [json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("adapter", "out/retrained")]
    assert configs[0] == configs[1]
    main([*words, "--overwrite", "true"])
    assert "The yardstick retrained comes from the cache" in capsys.readouterr().out
    assert same(load_file(tmp_path / "out/retrained/adapter_model.safetensors"), retrained)
    models = json.loads((tmp_path / "out" / "report.json").read_text())["models"]
    assert models["retrained"]["retain_accuracy"] > 0.5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "erases nothing" not in card  # the base never saw the rows
    assert 'AutoModelForImageClassification.from_pretrained("ORIGINAL", num_labels=4)' in card
    # A second adapter on top must not undo what the first one forgot.
    on_top = ["--model", tmp_path / "out/model", "--output_dir", tmp_path / "two", "--peft_config", "lora"]
    assert main([*words, *map(str, on_top)]) in (0, 1)
    below = load_file(tmp_path / "two" / "retrained" / "adapter_model.safetensors")
    assert below.keys() == original.keys()
    assert "erases nothing" in (tmp_path / "two" / "README.md").read_text()
    assert main([*adapter, "--model", str(tmp_path / "two/model"), "--output_dir", str(tmp_path / "three")]) == 2
    assert "2 adapters on top of one another" in capsys.readouterr().err


@pytest.mark.slow
def test_below_an_adapter_on_a_trained_classifier_a_whole_model_is_retrained(tmp_path, adapter, capsys):
    # A classifier of the same classes, so the adapter is a patch of it.
    trained("vit").save_pretrained(tmp_path / "base")
    assert main([*adapter, "--retrain", "1", "--train_epochs", "1"]) in (0, 1)
    assert "names a base that cannot be used" in capsys.readouterr().out
    assert (tmp_path / "out" / "retrained" / "model.safetensors").is_file()
    assert "erases nothing" in (tmp_path / "out" / "README.md").read_text()
