"""What every method inherits: the summary for cards, its anchors, and clear refusals."""

from dataclasses import dataclass

import pytest

from hf_unlearn import METHODS, JiT, UnlearningMethod
from hf_unlearn.methods import Paper, setting
from hf_unlearn.training.backends import BACKENDS


@dataclass(kw_only=True)
class Documented(UnlearningMethod):
    """Lower the logit
    of a class.

    The loss of a batch is

        L = mean f_c(x),
        with f the logits

    Example:
        ```python
        Documented()
        ```
    """

    name = "documented"
    paper = Paper("A paper", "1234.56789")
    strength: float = setting(2.0, "Weight of the logit.")


@dataclass(kw_only=True)
class Undocumented(UnlearningMethod):
    pass


def test_a_card_gets_the_first_paragraph_and_the_indented_formula_of_the_docstring():
    assert Documented.about() == {
        "class": "Documented",
        "summary": "Lower the logit of a class.",
        "formula": "L = mean f_c(x),\nwith f the logits",
        "paper": {"title": "A paper", "url": "https://arxiv.org/abs/1234.56789"},
        "loads_with": "",
    }
    assert Undocumented.about() == {
        "class": "Undocumented", "summary": "", "formula": "", "paper": None, "loads_with": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_card_of_every_method_has_a_whole_sentence_and_a_formula(name):
    about = METHODS[name].about()
    assert about["summary"].endswith(".")
    assert len(about["summary"].split()) > 5
    assert about["formula"]


def test_description_names_the_method_and_every_setting():
    assert Documented(strength=3.0).describe() == {
        "method": "documented", "anchors": False, "anchor_weight": 1.0, "strength": 3.0,
    }  # fmt: skip
    assert Undocumented().describe()["method"] == "Undocumented"


def test_a_method_without_a_loss_says_so():
    with pytest.raises(NotImplementedError, match="Undocumented must define `loss`"):
        Undocumented().terms(None, {}, None)


@pytest.mark.parametrize(
    ("asked", "update", "retain", "expected"),
    [
        (None, "all", False, True),
        (None, "all", True, False),
        (None, "head", False, False),
        (True, "head", True, True),
        (False, "all", False, False),
    ],
)
def test_anchors_left_open_are_decided_by_what_moves_and_what_is_kept(asked, update, retain, expected):
    method = JiT(anchors=asked)
    resolved = method.resolved(update, retain)
    assert resolved.anchors is expected
    assert method.anchors is asked
    assert (resolved is method) == (asked is not None)


@pytest.mark.parametrize("name", METHODS)
def test_a_reason_is_given_for_every_backend_that_a_method_refuses(name):
    method = METHODS[name]()
    for backend in set(BACKENDS) - method.backends:
        assert len(method.why_not(backend).split()) > 5
