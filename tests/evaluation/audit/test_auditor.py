"""Whole audits."""

import copy
import stat

import pytest
import torch

from hf_unlearn import Auditor, ForgetRequest, audit_models
from hf_unlearn.data.sampling import drawn_rows
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


def noisy(model, seed):
    """A copy of `model` with a little noise of its own on every weight."""
    other, draw = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.002 * torch.randn(p.shape, generator=draw))
    return other


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
    assert auditor.original.unchanged == 1
    with pytest.raises(ValueError, match="the model was run"):
        Auditor(Untouchable(trained("vit")), **audited_sets())


def test_single_rows_are_attacked_on_demand_and_named_by_their_number_in_the_given_set(tmp_path):
    original = trained("vit")
    split = ForgetRequest(fraction=0.4, seed=3).split(pixel_data(96, 21))  # rows that the original never saw
    given = {"forget": split.forget, "retain": split.retain, "test": pixel_data(48, 9)}
    others = [noisy(original, seed) for seed in (1, 2)]
    settings = {"audit_seed": 1, "max_rows": 20, "kind": "samples", "per_example": True}
    audit = audit_models(original, copy.deepcopy(original), others, **given, **settings)
    rows = audit.per_example.rows
    assert len(rows) == 20 < len(split.forget)
    assert rows == drawn_rows(len(split.forget), 20, 1).tolist()
    assert any(sentence.startswith("Row by row, LiRA finds") for sentence in audit.limits)
    assert "per_example" not in audit.as_dict()
    audit.save(tmp_path)
    assert len((tmp_path / "per_example.csv").read_text().splitlines()) == 21
    assert stat.S_IMODE((tmp_path / "per_example.csv").stat().st_mode) == 0o600
    with pytest.raises(ValueError, match=r"`per_example` needs at least 2 retrained models, and 1 can be used"):
        audit_models(original, Untouchable(original), others[:1], **given, **settings)


@pytest.mark.parametrize("given", [["original"], ["unlearned"], ["other", "other"]])
def test_a_retrained_model_must_be_another_model(given):
    models = {"original": trained("vit")}
    models |= {"unlearned": with_other_weights(models["original"])}
    models |= {"other": with_other_weights(models["unlearned"])}
    with pytest.raises(ValueError, match="they are one model"):
        audit_models(models["original"], models["unlearned"], [models[name] for name in given], **audited_sets())
