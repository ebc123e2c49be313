"""The curve of relearning, and the number of steps."""

import torch

from hf_unlearn.evaluation.relearning import relearn
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, processing_class
from tests.support.models import trained


def test_the_curve_ends_where_relearning_counts_its_steps():
    model = trained("vit")
    processor = Processor(model, processing_class("vit"))
    rows = [processor(r) for r in class_split("vit", 80).forget]
    with torch.no_grad():
        model.classifier.bias[1] -= 8
    given = (model, rows[:10], rows[10:], processor)
    *_, (steps, _) = relearn(*given, stop=0.9, learning_rate=5e-3)
    curve = list(relearn(*given, stop=0.9, learning_rate=5e-3, every_step=False))
    assert curve[0][0] == 0
    assert curve[-1][1] >= 0.9
    assert steps <= curve[-1][0] <= steps * 1.125 + 1
    limited = list(relearn(*given, stop=0.9, learning_rate=1e-9, limit=20, every_step=False))
    assert limited[-1][0] == 20
