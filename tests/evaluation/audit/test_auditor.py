"""Whole audits."""

import copy

import pytest
import torch

from hf_unlearn import audit_models
from hf_unlearn.evaluation.audit.verdicts import HIDDEN
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.pretrained import load_classifier
from tests.support.data import image_data, image_processor, pixel_data
from tests.support.models import trained

from .support import audited_sets, prepared


def test_nan_is_an_error_that_names_the_model():
    broken = trained("vit")
    with torch.no_grad():
        broken.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="`unlearned` gives NaN"):
        audit_models(trained("vit"), broken, **audited_sets())


def test_an_adapter_folder_is_hidden_and_not_forgotten(tmp_path):
    peft = pytest.importorskip("peft")
    original = trained("vit")
    names = [n for n, m in original.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    saved = tmp_path / "original"
    original.save_pretrained(saved)
    image_processor().save_pretrained(saved)
    adapted = peft.get_peft_model(
        load_classifier(str(saved), image_data(4)),
        peft.LoraConfig(target_modules=[f"vit.{n}" for n in names], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_classifier(str(tmp_path / "adapter"), image_data(4))
    rows, processor = prepared("vit")
    torch.testing.assert_close(predict(loaded, rows, processor)[0], predict(adapted, rows, processor)[0])
    audit = audit_models(original, loaded, **audited_sets())
    assert (audit.verdict, audit.because) == (HIDDEN, ["adapter"])


def test_rows_of_one_kind_are_not_accused_of_being_found_by_what_they_are():
    """Some rows of one class, named as samples: that they differ from test rows says nothing without a retrained model."""
    rows = pixel_data(64, 9)
    forget = pixel_data(96).filter(lambda r: r["label"] == 1)
    half, rest = forget.select(range(len(forget) // 2)), pixel_data(96).filter(lambda r: r["label"] != 1)
    model = trained("vit")
    audit = audit_models(model, build_again(model), forget=half, test=rows, retain=rest, kind="samples")
    unjudged = {x.key for x in audit.lines if x.result == "unknown"}
    assert {"membership", "membership_probe"} <= unjudged
    assert any("no random draw" in sentence for sentence in audit.limits)


def build_again(model):
    """Other weights of the same kind, trained on nothing."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.01)
    return other
