"""The target of forgetting single rows, and how a run ends at it."""

import logging
import math

import pytest
import torch

from hf_unlearn import ForgetRequest, GradientAscent, JiT, MarginalInformation
from hf_unlearn.training.monitor import estimated_target
from tests.support.data import class_split, data_for
from tests.support.models import state, trained
from tests.support.runs import trainer_for

ADAM = {"trust_region": 0.0, "learning_rate": 3e-3, "optim": "adamw_torch"}


@pytest.mark.parametrize(
    ("error", "forget", "retain", "expected"),
    [
        (0.0, [5, 0], [5, 5], 1.0),  # nothing is got wrong: unseen rows are answered as before
        (0.1, [10, 0], [1e12, 1], 0.9),  # a few rows of very many: the error on unseen data
        (0.1, [10, 0], [0, 20], 0.0),  # a class of which nothing is kept
        (0.02, [3, 0], [1, 9], 1 - 0.02 * 4**0.75),
        (0.1, [1, 3], [1e12, 3], 0.25 * 0.9 + 0.75 * (1 - 0.1 * 2**0.75)),
    ],
)
def test_target_by_hand(error, forget, retain, expected):
    found = estimated_target(error, torch.tensor(forget), torch.tensor(retain))
    assert found == pytest.approx(expected, abs=1e-6)


def test_target_falls_with_error_and_with_the_share_that_is_forgotten():
    errors = [estimated_target(e, torch.tensor([20, 5]), torch.tensor([40, 80])) for e in (0.01, 0.05, 0.2)]
    shares = [estimated_target(0.05, torch.tensor([n, 0]), torch.tensor([100 - n, 100])) for n in (5, 50, 95)]
    assert errors == sorted(errors, reverse=True)
    assert shares == sorted(shares, reverse=True)


def partial_split(arch="vit", n=160):
    """Two thirds of one class."""
    return (ForgetRequest(label=1) & ForgetRequest(label=1, fraction=0.67)).split(data_for(arch, n))


@pytest.mark.slow
def test_samples_stop_on_the_estimated_target(tmp_path):
    split = partial_split()
    trainer = trainer_for(
        "vit", tmp_path, MarginalInformation(gamma=1.0), split=split, update="all", forget_target=None,
        forget_kind="samples", max_steps=200, check_steps=20, **ADAM,
    )  # fmt: skip
    trainer.eval_dataset = data_for("vit", 60, 9)
    # A validation set on which half of the answers are wrong sets a low target, which the run has to travel to.
    labels = [(v + 1) % 4 if i % 4 == 0 else v for i, v in enumerate(trainer.eval_dataset["label"])]
    trainer.eval_dataset = trainer.eval_dataset.remove_columns("label").add_column("label", labels)
    trainer.train()
    out = trainer.outcome
    forgotten, kept = len(split.forget), split.retain["label"].count(1)
    error = out.path and 1 - trainer_accuracy(trained("vit"), trainer)
    expected = max(0.0, 1 - error * ((forgotten + kept) / kept) ** 0.75)
    assert out.forget_target == pytest.approx(expected, abs=0.05)
    assert out.stopped == "target reached"
    assert out.target_reached
    # Bisection lands within a row or two of the target, however far a check is beyond it.
    assert out.forget_end >= out.forget_target - 3 / forgotten


def trainer_accuracy(model, trainer):
    from hf_unlearn.models.prediction import predict

    logits, labels = predict(model, trainer.eval_dataset, trainer.processor)
    return (logits.argmax(-1) == labels).float().mean().item()


def test_without_held_out_rows_there_is_a_warning_and_no_target(tmp_path, caplog):
    trainer = trainer_for(
        "vit", tmp_path, MarginalInformation(), split=partial_split(), forget_target=None, forget_kind="samples", **ADAM
    )
    with caplog.at_level(logging.WARNING, "hf_unlearn.training.monitor"):
        trainer.train()
    assert "`eval_dataset`" in caplog.text
    assert trainer.outcome.forget_target is None


def test_bisection_ends_on_the_line_between_the_last_good_state_and_the_present_one(tmp_path):
    trainer = trainer_for(
        "vit",
        tmp_path,
        MarginalInformation(),
        split=class_split("vit", 64),
        update="all",
        forget_kind="samples",
        **ADAM,
    )
    trainer._set_up()
    trainer.forgetting.start()
    start = state(trainer.model)
    with torch.no_grad():  # ahead: everything is forgotten
        trainer.model.classifier.bias[1] -= 40.0
    ahead = state(trainer.model)
    trainer.monitor.model_changed()
    assert trainer.monitor.share_remembered() == 0.0
    trainer.monitor.target = 0.5
    trainer.forgetting._bisect_to_target()
    share = (state(trainer.model)["classifier.bias"][1] - start["classifier.bias"][1]) / -40.0
    assert 0 < share < 1
    assert trainer.monitor.share_remembered() <= 0.5
    # One bisection step less far, more than the target was remembered.
    with torch.no_grad():
        trainer.model.classifier.bias[1] += 40.0 / 64
    trainer.monitor.model_changed()
    assert trainer.monitor.share_remembered() > 0.5
    assert math.isclose(float(ahead["classifier.bias"][1] - start["classifier.bias"][1]), -40.0, rel_tol=1e-5)


def test_held_out_rows_guard_single_samples(tmp_path):
    held_out = data_for("vit", 48, 9)
    trainer = trainer_for("vit", tmp_path, MarginalInformation(), split=partial_split(), forget_kind="samples", **ADAM)
    trainer.eval_dataset = {"validation": held_out, "other": held_out.select(range(4))}
    trainer._set_up()
    assert len(trainer.monitor._kept) == 48
    assert trainer.monitor.guards_kept


def test_a_target_that_is_met_before_the_first_step_is_no_success(tmp_path):
    trainer = trainer_for(
        "vit", tmp_path, MarginalInformation(), split=partial_split(), forget_target=1.0, forget_kind="samples", **ADAM
    )
    trainer.train()
    assert not trainer.outcome.ok
    assert any("met before the first step" in w for w in trainer.outcome.warnings)


def test_rows_of_the_guard_are_measured_and_not_trained_on(tmp_path):
    split = class_split("vit")
    trainer = trainer_for(
        "vit",
        tmp_path,
        GradientAscent(),
        retain=False,
        max_retain_drop=0.05,
        max_halvings=0,
        check_steps=1,
        trust_region=0.5,
    )
    trainer.guard_dataset = split.retain
    trainer.train()
    assert trainer.unlearning_data.retain is None
    assert trainer.monitor.guards_kept
    assert trainer.outcome.retain_start == trainer.outcome.path[0]["retain"] > 0.9
    assert trainer.outcome.stopped.startswith("kept data suffers")
    assert not trainer.outcome.ok


def _counting(trainer):
    """Count the rows of each forward pass of the trainer's model."""
    counts = []
    trainer.model.vit.register_forward_hook(lambda _m, _i, out: counts.append(len(out[0])))
    return counts


def test_rows_are_read_once_for_the_same_weights_and_again_once_weights_are_written(tmp_path):
    trainer = trainer_for("vit", tmp_path, MarginalInformation(), split=class_split("vit", 64), update="all", **ADAM)
    trainer._set_up()
    counts, monitor = _counting(trainer), trainer.monitor
    trainer.forgetting.start()  # the original was measured before
    assert counts == []
    first = [monitor.share_kept(), monitor.share_remembered(), monitor.share_remembered(3)]
    read = sum(counts)
    assert read == len(monitor._kept) + len(trainer.forget_rows)
    assert [monitor.share_kept(), monitor.share_remembered(), monitor.share_remembered(3)] == first
    assert sum(counts) == read
    with torch.no_grad():  # nobody says that the model changed
        trainer.model.classifier.bias[1] -= 40.0
    assert monitor.share_remembered() == 0.0
    monitor.share_kept()
    assert sum(counts) == 2 * read
    monitor.model_changed()
    monitor.share_kept()
    assert sum(counts) > 2 * read


def test_while_the_head_alone_moves_a_run_reads_its_probes_once_and_finds_the_same(tmp_path):
    def run(folder, **changes):
        trainer = trainer_for(
            "vit",
            tmp_path / folder,
            JiT(),
            split=class_split("vit", 64),
            update="head",
            max_steps=6,
            check_steps=1,
            **changes,
        )
        trainer._set_up()
        counts = _counting(trainer)
        return trainer, counts

    trainer, counts = run("a")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hf_unlearn.models.last_layer._moving_layer", lambda _model: None)
        plain, all_counts = run("b")
        plain.train()
    trainer.train()
    assert trainer.forgetting.path == plain.forgetting.path
    assert trainer.outcome == plain.outcome
    assert all(
        torch.equal(a, b) for a, b in zip(state(trainer.model).values(), state(plain.model).values(), strict=True)
    )
    probes = len(trainer.monitor._kept) + len(trainer.forget_rows)
    assert sum(all_counts) - sum(counts) >= 4 * probes
