"""Two ways of preparing rows, told apart by what they make of rows."""

import copy

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.evaluation.audit.processing import prepares_differently
from hf_unlearn.models.processor import Processor
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import trained


def sets_of(processor, data):
    return {"forget": PreparedRows(data.select(range(6)), processor), "test": PreparedRows(data, processor)}


def test_an_image_processor_with_other_settings_is_named():
    ours = Processor(trained("vit"), image_processor())
    sets = sets_of(ours, image_data(24))
    assert prepares_differently(Processor(trained("vit"), image_processor()), ours, sets) == ""
    other = copy.deepcopy(image_processor())
    other.image_mean = [0.3, 0.3, 0.3]
    said = prepares_differently(Processor(trained("vit"), other), ours, sets)
    assert said.startswith("image_mean=[0.3, 0.3, 0.3] (original: ")


def test_settings_that_change_no_input_do_not_count():
    ours, same = Processor(trained("vit"), image_processor()), copy.deepcopy(image_processor())
    same.some_note = "another version"
    assert prepares_differently(Processor(trained("vit"), same), ours, sets_of(ours, image_data(24))) == ""


def test_a_processor_that_cannot_read_the_rows_is_named():
    ours, other = Processor(trained("vit"), image_processor()), image_processor(8)
    said = prepares_differently(Processor(trained("vit"), other), ours, sets_of(ours, image_data(24)))
    assert "it cannot read row 0 of `forget`" in said


def test_a_tokenizer_that_splits_texts_otherwise_is_found_in_the_row_where_it_does():
    ours = Processor(trained("bert"), tokenizer())
    sets = sets_of(ours, text_data(24))
    assert prepares_differently(Processor(trained("bert"), tokenizer()), ours, sets) == ""
    other = copy.deepcopy(tokenizer())
    other.model_max_length = 4
    assert (
        prepares_differently(Processor(trained("bert"), other), ours, sets) == "row 0 of `forget` becomes another input"
    )
