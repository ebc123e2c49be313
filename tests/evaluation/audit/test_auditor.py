"""Whole audits."""

import copy

import pytest
import torch

from hf_unlearn import Auditor, audit_models
from hf_unlearn.evaluation.audit.verdicts import HIDDEN
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.pretrained import load_classifier
from tests.support.data import image_data, image_processor, pixel_data
from tests.support.models import trained

from .support import Untouchable, audited_sets, prepared

pytestmark = pytest.mark.slow  # together too long for the quick tests


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


def test_attacks_are_not_judged_if_forget_rows_are_no_random_draw_and_no_model_was_retrained():
    """The forget rows are some rows of one class. They differ from test rows whether a model was trained on them or not."""
    rows = pixel_data(64, 9)
    forget = pixel_data(96).filter(lambda r: r["label"] == 1)
    half, rest = forget.select(range(len(forget) // 2)), pixel_data(96).filter(lambda r: r["label"] != 1)
    model = trained("vit")
    audit = audit_models(model, with_other_weights(model), forget=half, test=rows, retain=rest, kind="samples")
    unjudged = {x.key for x in audit.lines if x.result == "unknown"}
    assert {"membership", "membership_probe"} <= unjudged
    assert any("no random draw" in sentence for sentence in audit.limits)


def with_other_weights(model):
    """A copy of `model` with slightly different weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.01)
    return other


def test_the_constructor_runs_the_original_and_no_other_model():
    auditor = Auditor(trained("vit"), others={"unlearned": Untouchable(trained("vit"))}, **audited_sets())
    assert set(auditor.original.outputs) == {"forget", "test", "retain"}
    assert (auditor.original.similarity, auditor.original.unchanged) == (pytest.approx(1), 1)
    with pytest.raises(ValueError, match="the model was run"):
        Auditor(Untouchable(trained("vit")), **audited_sets())


def test_relearning_is_as_fast_as_training_anew_was_far():
    """A step as long as a whole fine-tuning would bring every class back at once."""
    model, near, nearer = trained("vit"), copy.deepcopy(trained("vit")), copy.deepcopy(trained("vit"))
    with torch.no_grad():
        for other, length in ((near, 1e-3), (nearer, 1e-4)):
            for p in other.parameters():
                p.add_(length)
    rates = {
        share: Auditor(model, others={"unlearned": nearer, **{f"retrained[{i}]": m for i, m in enumerate(given)}}, **audited_sets())
        for share, given in ((0.0, []), (1e-3, [near]), (5.5e-4, [near, nearer]), (1.0, [with_other_weights(model)]))
    }  # fmt: skip
    found = {share: auditor.relearning_rate for share, auditor in rates.items()}
    assert found == {
        0.0: 5e-4,
        1e-3: pytest.approx(5e-5, rel=1e-3),
        5.5e-4: pytest.approx(2.75e-5, rel=1e-3),
        1.0: 5e-4,
    }


@pytest.mark.parametrize("given", [["original"], ["unlearned"], ["other", "other"]])
def test_a_retrained_model_must_be_another_model(given):
    models = {"original": trained("vit")}
    models |= {"unlearned": with_other_weights(models["original"])}
    models |= {"other": with_other_weights(models["unlearned"])}
    with pytest.raises(ValueError, match="they are one model"):
        audit_models(models["original"], models["unlearned"], [models[name] for name in given], **audited_sets())
