"""A name from data that tries to become markup, and what a model of a finished run answers."""

from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from tests.support.data import processing_class

HOSTILE_NAME = "x|</td><script>alert(1)</script>\n# **b** `c` [l](http://evil.example/a) ![i](http://evil.example) www.evil.example"


def outputs(finished_run, model, name):
    """Logits and labels of `model` on the set `name`."""
    processor = Processor(finished_run.models[model], processing_class(finished_run.arch))
    return predict(finished_run.models[model], finished_run.sets[name], processor)
