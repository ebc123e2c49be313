"""Sentences about the figures."""

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.interpretation import INFORMATION, LOSS_ATTACK, PATCH_LIMIT, limits, notes, reading


@pytest.mark.parametrize(("original", "words"), [(0.05, "the original's was lower still"), (0.9, "it over-forgets")])
def test_a_low_value_is_over_forgetting_unless_the_original_had_a_lower_one(original, words):
    shares = {"original": original, "unlearned": 0.2, "retrained": 0.5}
    report = UnlearningReport(
        models={name: {"membership_attack": share} for name, share in shares.items()},
        intervals={name: {"membership_attack": [share - 0.01, share + 0.01]} for name, share in shares.items()},
    )
    (warning,) = report.warnings
    assert warning.startswith("under-forgetting" if original < 0.2 else "over-forgetting")
    (sentence,) = [x for x in reading(report) if "entropy attack" in x]
    assert words in sentence


def report(names=("original", "unlearned", "retrained"), measure="test_accuracy", **values):
    """A report whose intervals have a half width of 0.01."""
    models = {name: {measure: values[name]} for name in names}
    intervals = {name: {measure: [values[name] - 0.01, values[name] + 0.01]} for name in names}
    return UnlearningReport(models=models, intervals=intervals)


@pytest.mark.parametrize(
    ("unlearned", "words"),
    [
        (
            0.95,
            "Test accuracy is 95.0 %, the retrained model's 90.0 %: clearly higher: it does more than the retrained model.",
        ),
        (0.905, "Test accuracy is 90.5 %, the retrained model's 90.0 %: not told apart by these rows."),
        (0.80, "Test accuracy is 80.0 %, the retrained model's 90.0 %: clearly lower: the model suffered."),
    ],
)
def test_a_sentence_compares_two_intervals(unlearned, words):
    assert reading(report(original=0.99, unlearned=unlearned, retrained=0.9)) == [words]


def test_without_a_retrained_model_only_the_change_is_said():
    first, last = reading(report(("original", "unlearned"), original=0.9, unlearned=0.8))
    assert first == "Test accuracy is 80.0 %, the original's 90.0 %: clearly lower."
    assert last.startswith("No retrained model was measured")


def test_an_auc_has_no_unit_and_relearning_has_its_own_sentence():
    auc = report(measure="loss_attack_auc", original=0.9, unlearned=0.7, retrained=0.5)
    auc.models["unlearned"]["relearning_steps"], auc.models["retrained"]["relearning_steps"] = 3.0, 20.0
    assert reading(auc) == [
        "The AUC of the loss attack is 0.700, the retrained model's 0.500: clearly higher: it still remembers.",
        "The class is back after 3 steps of teaching, in the retrained model after 20.",
    ]


def test_notes_explain_only_figures_that_are_there():
    plain = report(original=0.9, unlearned=0.8, retrained=0.8)
    assert not {INFORMATION, LOSS_ATTACK} & set(notes(plain))
    plain.information = {"unlearned": {"value": 0.1}}
    plain.models["unlearned"]["loss_attack_auc"] = 0.5
    assert {INFORMATION, LOSS_ATTACK} <= set(notes(plain))


@pytest.mark.parametrize("key", ["patch", "adapter"])
def test_a_patch_is_no_erasure(key):
    plain = report(original=0.9, unlearned=0.8, retrained=0.8)
    assert PATCH_LIMIT not in limits(plain)
    plain.run[key] = {"adapter": "lora"} if key == "patch" else True
    assert limits(plain)[0] == PATCH_LIMIT


def test_where_the_retrained_model_started_from_is_said_if_it_is_known():
    def last(**retraining):
        run = {"retraining": retraining} if retraining else {}
        return limits(UnlearningReport(models={"retrained": {}}, run=run))[-1]

    assert last().startswith("One retrained model is one draw")
    assert last(base="none").startswith("One retrained model is one draw")
    assert "this retrained model is no yardstick: name that base in `base_model`" in last(base=None)
    base = {"id": "org/base", "revision": "a" * 40, "named_by": "the model's card"}
    assert (
        last(base=base)
        == f"The retrained model started from the base of the original, in org/base at commit {'a' * 40}."
    )
    for hostile in ("<b>", "a b", "x" * 99 + "|", None, "[a](b)"):
        assert (
            last(base={"id": hostile, "revision": hostile})
            == "The retrained model started from the base of the original, in a folder."
        )
