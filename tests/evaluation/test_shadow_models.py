"""Shadow models: the design, the cache, resuming after a kill, and the same results whoever trained what."""

import functools
import os
import signal

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, DistilBertConfig

from hf_unlearn import FineTune, UnlearningArguments, UnlearningTrainer
from hf_unlearn.data.loading import load_digits
from hf_unlearn.evaluation import shadow_models as shadow
from hf_unlearn.evaluation.shadow_models import ShadowTraining, attackers, half_splits, train_shadows, unlearn_shadows
from hf_unlearn.metrics.functional.per_example_attacks import confidence_scores, lira, score_shift, u_lira
from hf_unlearn.metrics.functional.roc import roc
from hf_unlearn.models.pixel_mlp import PixelMLPConfig
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.original import build_processor
from hf_unlearn.training.plain_training import train_classifier
from tests.support.data import processing_class, text_data
from tests.support.fresh_processes import exit_codes, start, until

pytestmark = pytest.mark.slow  # the quick subset leaves it out; continuous integration runs it

CPU = {"use_cpu": True, "dataloader_pin_memory": False, "per_device_train_batch_size": 32}


def digits(rows=160, never=40, epochs=2.0, rate=3e-3, width=16):
    """Shadow training of a tiny perceptron on some digits, with rows behind them that nobody is trained on."""
    sets = load_digits()
    data = concatenate_datasets([sets["train"].select(range(rows)), sets["test"].select(range(never))])
    config = PixelMLPConfig(image_size=8, hidden_sizes=(width,), num_labels=10)
    return ShadowTraining(
        model_init=functools.partial(AutoModelForImageClassification.from_config, config),
        dataset=data,
        processing_class=build_processor(config, data),
        arguments={"num_train_epochs": epochs, "learning_rate": rate, **CPU},
    )


def outputs(shadows):
    return np.stack([shadows.logits(i) for i in range(len(shadows))])


def train(training, members, folder, **changes):
    return train_shadows(training, members, folder, progress=False, **changes)


# --- the design -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [10, 11])
def test_each_row_is_in_exactly_half_of_the_models(rows):
    members = half_splits(rows, 6, seed=1, never=3)
    assert members.shape == (6, rows + 3)
    assert (members[:, :rows].sum(0) == 3).all()
    assert not members[:, rows:].any()
    assert (members[0, :rows] != members[1, :rows]).all()
    assert not np.array_equal(members[0], members[2])
    np.testing.assert_array_equal(members, half_splits(rows, 6, seed=1, never=3))
    assert not np.array_equal(members, half_splits(rows, 6, seed=2, never=3))


def test_a_model_is_attacked_by_all_but_its_pair():
    np.testing.assert_array_equal(attackers(3, 6), [True, True, False, False, True, True])


# --- training and the cache -------------------------------------------------------------------------------------------


def test_a_shadow_is_the_librarys_own_training_on_its_rows(tmp_path):
    training, members = digits(), half_splits(160, 2, never=40)
    shadows = train(training, members, tmp_path, seed=3)
    for i in range(2):
        seed = int(np.random.default_rng((3, 0, i)).integers(2**31))
        torch.manual_seed(seed)
        model = training.model_init()
        processor = Processor(model, training.processing_class)
        rows = training.dataset.select(np.flatnonzero(members[i]))
        train_classifier(model, rows, processor, {**training.arguments, "seed": seed}, tmp_path / "plain")
        expected, labels = predict(model, training.dataset, processor)
        np.testing.assert_array_equal(shadows.logits(i), expected)
        np.testing.assert_array_equal(shadows.labels, labels)
    some = np.array([5, 170, 2])
    np.testing.assert_array_equal(shadows.scores(some)[1], confidence_scores(expected[some], labels[some]))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == sorted(f.name for f in shadows.files)


def test_what_is_there_is_not_trained_again(tmp_path):
    training, members = digits(), half_splits(160, 4, never=40)
    first = train(training, members, tmp_path)
    before = [f.stat().st_mtime_ns for f in first.files]
    expected = outputs(first)
    first.files[2].unlink()
    first.files[3].write_bytes(first.files[3].read_bytes()[:-1])  # cut off by a power failure
    again = train(training, members, tmp_path)
    assert again.files == first.files
    kept = [a == b for a, b in zip(before, (f.stat().st_mtime_ns for f in again.files), strict=True)]
    assert kept == [True, True, False, False]
    np.testing.assert_array_equal(outputs(again), expected)


def test_everything_that_changes_a_shadow_changes_its_name(tmp_path):
    small = functools.partial(digits, rows=40, never=10)
    members = half_splits(40, 2, never=10)
    other = members.copy()
    other[0, :2] = ~other[0, :2]
    base = train(small(epochs=0.1), members, tmp_path).files
    assert train(small(epochs=0.1), members, tmp_path).files == base  # a fresh, equal description
    assert train(small(epochs=0.1), other, tmp_path).files[1] == base[1]
    changed = [
        train(small(epochs=0.2), members, tmp_path).files[0],
        train(small(epochs=0.1, rate=1e-3), members, tmp_path).files[0],
        train(small(epochs=0.1, width=8), members, tmp_path).files[0],
        train(small(epochs=0.1), members, tmp_path, seed=1).files[0],
        train(small(epochs=0.1), other, tmp_path).files[0],
    ]
    moved = small(epochs=0.1)
    moved = ShadowTraining(**{**vars(moved), "dataset": moved.dataset.select([*range(1, 50), 0])})
    changed.append(train(moved, members, tmp_path).files[0])
    assert len({base[0], *changed}) == 1 + len(changed)


def test_shadows_of_texts(tmp_path):
    config = DistilBertConfig(
        vocab_size=64, dim=16, hidden_dim=32, n_layers=1, n_heads=2, num_labels=4, max_position_embeddings=32
    )
    training = ShadowTraining(
        model_init=lambda: AutoModelForSequenceClassification.from_config(config),
        dataset=text_data(40).rename_column("label", "topic"),
        processing_class=processing_class("bert"),
        label_column="topic",
        arguments={"max_steps": 3, **CPU},
    )
    shadows = train(training, half_splits(40, 2), tmp_path)
    assert shadows.scores().shape == (2, 40)
    np.testing.assert_array_equal(shadows.labels, np.arange(40) % 4)


def long():
    """A training that takes long enough to be killed."""
    return digits(epochs=5.0), half_splits(160, 4, never=40)


def train_long(folder, workers):
    """The run that is killed, with the processes that it starts itself."""
    os.setsid()
    train_shadows(*long(), folder, workers=workers)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run, undisturbed and alone."""
    return train(*long(), tmp_path_factory.mktemp("whole"))


@pytest.mark.xdist_group("killed shadow models")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_to_the_same_results_and_closures_reach_workers(tmp_path, whole, workers, capfd):
    folder = tmp_path / "killed"

    def finished():
        """The whole files. One that is being written is hidden, and a killed run leaves it behind."""
        files = (p for p in folder.glob("*.safetensors") if not p.name.startswith("."))
        return {p.name: p.stat().st_mtime_ns for p in files}

    run = start(train_long, folder, workers)
    until(finished, run)
    os.killpg(run.pid, signal.SIGKILL)
    exit_codes([run])
    kept = finished()
    assert 1 <= len(kept) < 4
    training, members = long()
    closure = ShadowTraining(**{**vars(training), "model_init": lambda: training.model_init()})
    before = torch.get_num_threads()
    again = train_shadows(closure, members, folder, workers=workers)
    assert torch.get_num_threads() == before
    output = capfd.readouterr()
    assert output.out == ""
    assert "Shadow models" in output.err
    assert "<00:00" in output.err  # the bar says how long it will take
    assert kept.items() <= finished().items()
    assert len(finished()) == 4
    assert [f.name for f in again.files] == [f.name for f in whole.files]
    for file in whole.files:
        assert file.read_bytes() == (folder / file.name).read_bytes()


# --- unlearning -------------------------------------------------------------------------------------------------------


def nothing(model, split, seed):
    return model


def test_pairs_differ_in_the_forget_set_alone_and_retrained_models_are_shared(tmp_path):
    training, forget = digits(), np.array([3, 50, 159])
    seen = []

    def check_split(model, split, seed):
        seen.append((len(split.forget), len(split.retain), seed))
        rows = [training.dataset[int(i)]["label"] for i in forget]
        assert split.forget["label"] == rows
        return model

    def pair(unlearn, name):
        return unlearn_shadows(training, forget, unlearn, name, tmp_path, models=4, never=40, progress=False)

    unlearned, retrained = pair(check_split, "check")
    assert unlearned.members[:, forget].all()
    assert not retrained.members[:, forget].any()
    others = np.setdiff1d(np.arange(200), forget)
    np.testing.assert_array_equal(unlearned.members[:, others], retrained.members[:, others])
    assert (retrained.members[:, np.setdiff1d(np.arange(160), forget)].sum(0) == 2).all()
    assert not unlearned.members[:, 160:].any()
    assert sorted(n for n, _, _ in seen) == [3] * 4
    assert [r for _, r, _ in seen] == retrained.members.sum(1).tolist()
    assert len({s for _, _, s in seen}) == 4
    other, shared = pair(nothing, "nothing")
    assert shared.files == retrained.files
    assert not set(other.files) & set(unlearned.files)
    np.testing.assert_array_equal(outputs(other), outputs(unlearned))  # neither did anything


def test_attacks_find_members_and_models_that_did_not_forget(tmp_path):
    """An over-fitted model of few rows with wrong labels among them: they are remembered only by those who saw them."""
    training = digits(rows=240, never=100, epochs=25.0, rate=2e-2, width=64)
    wrong = np.arange(40)
    labels = np.array(training.dataset["label"])
    labels[wrong] = (labels[wrong] + 1) % 10
    data = training.dataset.remove_columns("label").add_column("label", labels.tolist())
    training = ShadowTraining(**{**vars(training), "dataset": data})
    shadows = train(training, half_splits(240, 6, never=100), tmp_path)
    scores, members = shadows.scores(slice(240)), shadows.members[:, :240]
    everyone, mislabelled = [], []
    for i in range(6):
        others = attackers(i, 6)
        found, member = lira(scores[i], scores[others], members[others]), members[i]
        everyone.append(roc(found[member], found[~member]).auc)
        mislabelled.append(roc(found[wrong][member[wrong]], found[wrong][~member[wrong]]).auc)
    assert np.mean(everyone) > 0.6
    assert np.mean(mislabelled) > 0.85

    def pair(unlearn, name):
        sides = unlearn_shadows(training, wrong, unlearn, name, tmp_path, models=4, never=100, progress=False)
        return [side.scores(wrong) for side in sides]

    unlearned, retrained = pair(nothing, "nothing")
    assert roc(*u_lira(unlearned, retrained)).auc > 0.95
    assert score_shift(unlearned, retrained).mean() > 2

    def tune(model, split, seed):
        args = UnlearningArguments(
            str(tmp_path / "tuned"), overwrite=True, seed=seed, max_steps=30, learning_rate=1e-2, disable_tqdm=True,
            save_strategy="no", forget_target=-1.0, forget_kind="samples", max_retain_drop=1.0, **CPU,
        )  # fmt: skip
        trainer = UnlearningTrainer(
            model, args, FineTune(), split.forget, split.retain, processing_class=training.processing_class
        )
        trainer.train()
        return trainer.model

    tuned, same = pair(tune, "fine-tune")
    np.testing.assert_array_equal(same, retrained)
    assert score_shift(tuned, retrained).mean() < score_shift(unlearned, retrained).mean()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(tmp_path):
    training, members = digits(), half_splits(160, 2, never=40)
    unlabelled = ShadowTraining(**{**vars(training), "dataset": training.dataset.remove_columns("label")})
    with pytest.raises(ValueError, match="`models=3` must be even"):
        half_splits(10, 3)
    with pytest.raises(ValueError, match="`rows=1`"):
        half_splits(1, 2)
    for bad in (members[:, :100], members.astype(int), members[0]):
        with pytest.raises(ValueError, match=r"`members` must be booleans of shape \(models, 200\)"):
            train(training, bad, tmp_path)
    with pytest.raises(ValueError, match="`members` has a model without rows"):
        train(training, np.zeros((2, 200), bool), tmp_path)
    with pytest.raises(ValueError, match="`workers=0`"):
        train(training, members, tmp_path, workers=0)
    with pytest.raises(ValueError, match="`dataset` has a row without a label"):
        train(unlabelled, members, tmp_path)
    for forget in ([], [160], [-1], [3, 3]):
        with pytest.raises(ValueError, match=r"`forget` must name rows of 0\.\.159"):
            unlearn_shadows(training, forget, nothing, "x", tmp_path, never=40)
    with pytest.raises(ValueError, match="`name` is empty"):
        unlearn_shadows(training, [1], nothing, "", tmp_path, never=40)


def test_a_model_that_broke_leaves_no_outputs(tmp_path):
    def broken(model, split, seed):
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        return model

    with pytest.raises(FloatingPointError, match="`learning_rate`"):
        unlearn_shadows(digits(), [1, 2], broken, "broken", tmp_path, models=2, never=40, progress=False)
    assert len(list(tmp_path.iterdir())) == 2  # the retrained pair


def test_an_error_in_a_worker_is_raised_and_finished_models_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(shadow, "CACHE_BYTES", 0)
    training, members = digits(), half_splits(160, 4, never=40)
    broken = ShadowTraining(**{**vars(training), "arguments": {**training.arguments, "learning_rate": 1e30}})
    with pytest.raises(FloatingPointError, match="NaN"):
        train(broken, members, tmp_path, workers=2)
    assert not list(tmp_path.iterdir())
