"""Which models serve as yardsticks: outputs and weights are written down by hand."""

import re
from dataclasses import replace

import pytest
import torch

from hf_unlearn.evaluation.audit.model_outputs import Measured, Outputs
from hf_unlearn.evaluation.audit.yardsticks import Yardsticks

ROWS, CLASSES, GONE, WEIGHTS = 120, 4, 1, 400


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(name, seed, *, knows=False, fit=6.0, base=0):
    """Its weights lie a step of its own away from those of `base`. It is sure of the labels; of the forgotten class if it `knows`."""
    outputs = {}
    for i, key in enumerate(("forget", "test", "retain")):
        labels = torch.arange(ROWS) % CLASSES
        labels = torch.full((ROWS,), GONE) if key == "forget" else labels[labels != GONE] if key == "retain" else labels
        logits = 1.5 * random(10 * seed + i, len(labels), CLASSES)
        logits[torch.arange(len(labels)), labels] += fit
        if not knows:
            logits[:, GONE] = -9.0
        outputs[key] = Outputs(logits, torch.zeros(len(labels), 2), labels)
    right = outputs["forget"].right
    sample = random(1000 + base, WEIGHTS) + 0.01 * random(2000 + seed, WEIGHTS)
    return Measured(name, outputs, {"int8": right, "bf16": right}, [], 0.0, sample=sample.double())


def near(name, other, noise):
    """A copy of a model with a little noise in weights and outputs."""
    outputs = {
        k: replace(o, logits=o.logits + noise * random(5 + len(name), *o.logits.shape))
        for k, o in other.outputs.items()
    }
    sample = None if other.sample is None else other.sample + noise * 0.01 * random(len(name), WEIGHTS)
    return Measured(name, outputs, other.rounded, [], 0.0, sample=sample)


ORIGINAL, JUDGED = model("original", 0, knows=True), model("unlearned", 9)
IN_CLASS = torch.arange(ROWS) % CLASSES == GONE


def sound(given, unlearned=JUDGED, classes=(GONE,)):
    in_class = IN_CLASS if classes else torch.zeros(ROWS, dtype=torch.bool)
    found, faults = Yardsticks(classes, in_class, True, ORIGINAL).sound(unlearned, given)
    return [m.name for m in found], " ".join(faults)


def test_independent_trainings_are_yardsticks():
    honest = [model(f"retrained[{i}]", i) for i in (1, 2, 3)]
    assert sound(honest) == ([m.name for m in honest], "")


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (model("bad", 4, knows=True), r"`bad` is no yardstick: it answers \d+% of the forget rows with their class"),
        (model("bad", 4, fit=0.0), "`bad` is no yardstick: it is right on .* of the retain set"),
        (model("bad", 4, base=1), r"`bad` is no yardstick: its weights lie \d+ times as far"),
        (near("bad", JUDGED, 0.01), "`bad` is no yardstick: it and `unlearned` were made from one another"),
    ],
)
def test_a_model_with_a_fault_is_left_out_and_named(faulty, message):
    honest = [model(f"retrained[{i}]", i) for i in (1, 2)]
    names, faults = sound([*honest, faulty])
    assert names == ["retrained[1]", "retrained[2]"]
    assert re.search(message, faults)


def test_models_that_were_made_from_one_another_are_all_left_out():
    """Otherwise one copy of the judged model, with more noise, would stay as the only yardstick."""
    first = model("first", 1)
    names, faults = sound([first, near("second", first, 0.05), model("third", 3)])
    assert names == ["third"]
    assert "`first` is no yardstick: it and `second` are too like" in faults
    assert "`second` is no yardstick: it and `first` are too like" in faults


def test_copies_with_much_noise_are_found_by_their_weights():
    first, judged = model("first", 1), model("unlearned", 8)
    second = near("second", first, 0.05)
    for key in second.outputs:  # as if the noise had moved the outputs far
        second.outputs[key] = model("second", 2).outputs[key]
    names, faults = sound([first, second], judged)
    assert names == []
    assert "cosine" in faults


def test_a_model_that_has_forgotten_well_may_be_near_the_yardsticks_but_not_be_made_from_one():
    """Half of the way between two yardsticks is nearer to both than they are to each other, as no training gets."""
    honest = [model(f"retrained[{i}]", i) for i in (1, 2)]
    middle = model("unlearned", 7)
    for key, outputs in middle.outputs.items():
        logits = (honest[0].outputs[key].logits + honest[1].outputs[key].logits) / 2
        middle.outputs[key] = replace(outputs, logits=logits)
    assert sound(honest, middle) == (["retrained[1]", "retrained[2]"], "")
    distilled = replace(near("unlearned", honest[0], 0.01), sample=model("unlearned", 7).sample)
    assert sound(honest, distilled)[0] == ["retrained[2]"]


def test_yardsticks_of_another_base_are_named_even_if_all_are():
    elsewhere = [model(f"retrained[{i}]", i, base=1) for i in (1, 2, 3)]
    names, told = sound(elsewhere)
    assert names == []
    assert told.count("both started from another model") == 3
    scratch = [model(f"retrained[{i}]", i, base=i) for i in (1, 2, 3)]  # each from random weights of its own
    assert sound(scratch) == ([m.name for m in scratch], "")


def test_a_yardstick_for_single_rows_does_not_fit_them_better_than_unseen_rows():
    trained_on_them = model("bad", 4, knows=True)
    for key, fit in (("forget", 9.0), ("test", 0.5)):
        outputs = trained_on_them.outputs[key]
        logits = random(77, ROWS, CLASSES)
        logits[torch.arange(ROWS), outputs.labels] += fit
        trained_on_them.outputs[key] = replace(outputs, logits=logits)
    _, faults = sound([trained_on_them], classes=())
    assert "fits forget rows better than unseen rows" in faults


def test_another_network_is_compared_by_its_outputs_alone():
    first = replace(model("first", 1), sample=None)
    names, faults = sound([first, near("second", first, 0.01)])
    assert names == []
    assert "their outputs on kept rows" in faults
