"""Two finished runs with their reports, which several files look at and none changes."""

from types import SimpleNamespace

import pytest
import torch

from hf_unlearn import GradientAscent, UnlearningReport
from hf_unlearn.evaluation.report.bias_pattern import read_pattern
from tests.support.data import class_split, data_for
from tests.support.models import changed, state, trained
from tests.support.runs import trainer_for
from tests.support.tables import slow

from .support import HOSTILE_NAME


@pytest.fixture(scope="session", params=["vit", *slow("bert")])
def finished_run(request, tmp_path_factory):
    """A finished run with a stand-in for the retrained model, and its report."""
    arch = request.param
    split, test = class_split(arch), data_for(arch, 36, seed=7)
    trainer = trainer_for(
        arch, tmp_path_factory.mktemp(arch), GradientAscent(), split=split, max_steps=4, trust_region=0.01
    )
    trainer.train()
    retrained = trained(arch)
    with torch.no_grad():
        [m for m in retrained.modules() if isinstance(m, torch.nn.Linear)][-1].bias[1] -= 30
    before = state(trainer.model)
    report = trainer.report(test_dataset=test, retrained=retrained, retrained_seconds=40.0, relearning=True)
    assert not changed(before, state(trainer.model))
    models = {"original": trained(arch), "unlearned": trainer.model, "retrained": retrained}
    return SimpleNamespace(
        arch=arch,
        trainer=trainer,
        report=report,
        models=models,
        sets={"forget": split.forget, "retain": split.retain, "test": test},
    )


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A class forgotten under a hostile column name; the values of the pattern are hostile too."""
    test = data_for("vit", 48, seed=7)
    test = test.add_column("<b>|p", [HOSTILE_NAME if i % 3 else "absent" for i in range(48)])
    folder = tmp_path_factory.mktemp("page")
    trainer = trainer_for("vit", folder, GradientAscent(), split=class_split("vit"), max_steps=4, trust_region=0.01)
    trainer.train()
    pattern = read_pattern("<b>|p", {HOSTILE_NAME: 2}, trainer.processor, test)
    calls: dict[int, int] = {}
    models = {"unlearned": trainer.model, "retrained": trained("vit")}
    handles = [
        m.register_forward_hook(
            lambda m, _, out: calls.update({id(m): calls.get(id(m), 0) + len(out.logits)}), always_call=True
        )
        for m in models.values()
    ]
    retain = trainer.retain_dataset
    report = UnlearningReport.measure(trainer, retain, test, models["retrained"], pattern=pattern)
    for handle in handles:
        handle.remove()
    report.run["request"] = f"class {HOSTILE_NAME}"
    report.outcome.setdefault("warnings", []).append(HOSTILE_NAME)
    return SimpleNamespace(trainer=trainer, report=report, test=test, models=models, calls=calls, retain=retain)
