"""A model is saved whole or not at all, and a former one is not lost."""

import os

import pytest
import torch

from hf_unlearn.models.pretrained import save_model
from tests.support.models import build, changed, state


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_saved_model_replaces_a_former_one_whatever_a_killed_save_left_behind(tmp_path):
    model = build("vit")
    save_model(model, None, tmp_path / "model")
    for leftover in (".model-old", ".model-old-x", ".model-x"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "config.json").write_text("{}")
    before = files(tmp_path)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    save_model(model, None, tmp_path / "model")
    assert not changed(state(model), state(type(model).from_pretrained(tmp_path / "model")))
    assert files(tmp_path) == before


def test_a_save_that_fails_at_its_last_step_keeps_the_former_model(tmp_path, monkeypatch):
    model = build("vit")
    save_model(model, None, tmp_path / "model")
    rename = os.replace

    def fail_into_place(source, target):
        if str(target).endswith("/model") and "-old-" not in str(source):
            raise OSError("disk")
        rename(source, target)

    monkeypatch.setattr("hf_unlearn.models.pretrained.os.replace", fail_into_place)
    with pytest.raises(OSError, match="disk"):
        save_model(build("vit", labels=3), None, tmp_path / "model")
    assert files(tmp_path) == ["model"]
    assert not changed(state(model), state(type(model).from_pretrained(tmp_path / "model")))
