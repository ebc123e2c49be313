"""The method of a run whose user names none."""

import pytest

from hf_unlearn import METHODS, JiT, SurrogateDistillation, UnlearningTrainer
from hf_unlearn.methods import find_method
from hf_unlearn.methods.choice import choose_method
from tests.support.data import class_split
from tests.support.models import trained
from tests.support.runs import arguments


@pytest.mark.parametrize(
    ("retain", "attribute", "key"),
    [(True, False, "surrogate_distillation"), (False, False, "jit"), (True, True, "feature_information")],
)
def test_what_is_at_hand_decides(retain, attribute, key):
    chosen, because = choose_method(retain, attribute)
    assert chosen == key
    assert because
    method = METHODS[key]
    assert method.needs_column == attribute
    assert retain or not method.needs_retain


def test_the_name_auto_stands_for_the_choice():
    assert isinstance(find_method("auto", retain=True), SurrogateDistillation)
    assert isinstance(find_method("auto"), JiT)
    with pytest.raises(ValueError, match="Known: auto, "):
        find_method("magic")


@pytest.mark.parametrize(("retain", "kind"), [(True, SurrogateDistillation), (False, JiT)])
def test_a_trainer_without_a_method_takes_it(tmp_path, retain, kind):
    split = class_split("vit")
    retained = split.retain if retain else None
    trainer = UnlearningTrainer(trained("vit"), arguments(tmp_path), None, split.forget, retained)
    assert isinstance(trainer.method, kind)
