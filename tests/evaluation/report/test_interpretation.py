"""Sentences about the figures."""

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.interpretation import reading


@pytest.mark.parametrize(("original", "words"), [(0.05, "the original's was lower still"), (0.9, "it over-forgets")])
def test_less_than_in_the_retrained_model_is_too_little_where_the_original_had_still_less(original, words):
    shares = {"original": original, "unlearned": 0.2, "retrained": 0.5}
    report = UnlearningReport(
        models={name: {"membership_attack": share} for name, share in shares.items()},
        intervals={name: {"membership_attack": [share - 0.01, share + 0.01]} for name, share in shares.items()},
    )
    (warning,) = report.warnings
    assert warning.startswith("under-forgetting" if original < 0.2 else "over-forgetting")
    (sentence,) = [x for x in reading(report) if "entropy attack" in x]
    assert words in sentence
