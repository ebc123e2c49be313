"""The fit of a barycenter, and the method in a run of the trainer."""

import logging

import numpy as np
import pytest
import torch
import transformers

from hf_unlearn import UnlearningTrainer
from hf_unlearn.methods.wasserstein_barycenter import WassersteinBarycenter, fit_barycenter
from hf_unlearn.models.barycenter_layer import attach, attached
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.processor import Processor
from tests.support.barycenters import attributed, fitted, leading_batch
from tests.support.data import data_for, processing_class
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments

ARCHS = ("resnet", "vit", "bert")


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_decoders_are_fitted_on_the_token_that_answers():
    config = transformers.GPT2Config(
        vocab_size=28, n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=4, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    _, data, processor, barycenter = fitted("bert", model)
    attach(model, barycenter)
    group = np.array(data["user"])
    with torch.no_grad(), barycenter.groups(group):
        logits = model(**leading_batch(data, processor, len(data))).logits
    gap = (logits[group == "high"].mean(0) - logits[group == "low"].mean(0)).norm()
    assert gap < 1e-3 * logits.std()


def test_the_fit_reads_streams_in_eval_mode_and_depends_on_no_batch_size():
    model, data, processor, first = fitted("bert", trained("bert", dropout=0.1).train())
    assert model.training
    second = fit_barycenter(model, data.to_iterable_dataset(), processor, "user", batch_size=7)
    assert second.names == first.names
    torch.testing.assert_close(second.maps, first.maps, atol=1e-3, rtol=1e-3)


def test_small_groups_get_a_ridge_and_a_warning(caplog):
    model = trained("vit")
    data, processor = attributed("vit", 24), Processor(model, processing_class("vit"))
    with caplog.at_level(logging.WARNING, "hf_unlearn.methods.wasserstein_barycenter"):
        barycenter = fit_barycenter(model, data, processor, "user")
    assert "'low' (12), 'high' (12) has fewer rows than the 16 features" in caplog.text
    assert torch.isfinite(barycenter(torch.randn(5, 16))).all()
    with pytest.raises(ValueError, match="`ridge=0` leaves a singular"):
        fit_barycenter(model, data, processor, "user", ridge=0.0)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a"] * 64, "has 1 distinct value"),
        (["a", None] * 32, "is missing"),
        (["a"] * 63 + ["b"], "the group 'b' has 1 row"),
        (np.linspace(0, 1, 64), "continuous: each needs many rows of its own. Bin it"),
        ([f"user {i}" for i in range(64)], "more than 32 distinct values: each"),
        ([["a"]] * 64, "holds a list"),
    ],
)
def test_attributes_that_make_no_groups_are_refused(column, message):
    model = build("vit")
    data = data_for("vit", 64).add_column("z", column)
    with pytest.raises(ValueError, match=message):
        fit_barycenter(model, data, Processor(model), "z")


def test_missing_column_is_named():
    model = build("vit")
    with pytest.raises(ValueError, match="`attribute='age'` is not in `dataset`, which has pixel_values, label"):
        fit_barycenter(model, data_for("vit", 8), Processor(model), "age")


# --- the method -------------------------------------------------------------------------------------------------------


def test_method_applies_and_describes_itself():
    model, data, processor, barycenter = fitted("vit")
    method = WassersteinBarycenter(attribute="user", predict_group=False)
    applied = method.apply(model, data, processor)
    assert attached(model) is applied
    torch.testing.assert_close(applied.maps, barycenter.maps, atol=1e-4, rtol=1e-4)
    assert applied.weight is None
    assert method.describe() == {
        "method": "wasserstein_barycenter",
        "attribute": "user",
        "strength": 1.0,
        "ridge": 1e-6,
        "predict_group": False,
        "anchors": False,
        "anchor_weight": 1.0,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attribute": "z", "strength": 1.5}, "`strength`"),
        ({"attribute": "z", "ridge": -1.0}, "`ridge`"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WassersteinBarycenter(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("streamed", [False, True], ids=["map", "stream"])
def test_trainer_fits_reports_saves_and_gives_the_original_back(tmp_path, arch, streamed):
    data, model = data_for(arch, 160), trained(arch)
    before = state(model)
    trainer = UnlearningTrainer(
        model=model,
        args=arguments(tmp_path, forget_kind="auto"),
        method=WassersteinBarycenter(attribute="group"),
        retain_dataset=data.to_iterable_dataset() if streamed else data,
        processing_class=processing_class(arch),
    )
    trainer.train()
    assert trainer.outcome.ok, trainer.outcome.warnings
    assert not changed(before, state(model))
    assert attached(model) is not None
    with trainer.original_weights() as original:
        assert attached(original) is None
    report = trainer.report(test_dataset=data_for(arch, 40, 9))
    assert {"original", "unlearned"} == set(report.models)
    trainer.save_model(str(tmp_path / "saved"))
    again = WassersteinBarycenter.from_pretrained(tmp_path / "saved").eval()
    batch = trainer.processor.collate([trainer.processor(r) for r in data.select(range(8))])
    with torch.no_grad():
        assert torch.allclose(again(**model_inputs(batch)).logits, model(**model_inputs(batch)).logits, atol=1e-6)


def test_trainer_without_an_attribute_is_refused(tmp_path):
    trainer = UnlearningTrainer(
        model=trained("vit"),
        args=arguments(tmp_path, forget_kind="auto"),
        method=WassersteinBarycenter(),
        retain_dataset=data_for("vit"),
        processing_class=processing_class("vit"),
    )
    with pytest.raises(ValueError, match="`attribute` is missing"):
        trainer.train()


def test_kept_accuracy_that_goes_with_the_attribute_is_no_success(tmp_path):
    data = data_for("vit", 160)
    labelled = data.remove_columns("group").add_column("group", [label // 2 for label in data["label"]])
    trainer = UnlearningTrainer(
        model=trained("vit"),
        args=arguments(tmp_path, forget_kind="auto", max_retain_drop=0.05),
        method=WassersteinBarycenter(attribute="group"),
        retain_dataset=labelled,
        processing_class=processing_class("vit"),
    )
    trainer.train()
    assert trainer.outcome.retain_start > 0.9
    assert trainer.outcome.retain_end < 0.8
    assert any("kept data collapsed" in w for w in trainer.outcome.warnings)
