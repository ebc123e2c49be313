"""`hf-unlearn audit`, from folders to a verdict."""

import json

import pytest
import torch

from hf_unlearn import Audit
from hf_unlearn.cli import main
from tests.support.data import image_data, image_processor
from tests.support.models import trained


def command(root, *words):
    data = {"forget": f"{root / 'data'}:train", "test": root / "data", "forget_class": "1", "use_cpu": "true"}
    return main(["audit", *(str(w) for k, v in data.items() for w in (f"--{k}", v)), *map(str, words)])


def save(folder, model):
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_folders_in_and_a_verdict_out(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(96, seed).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    hidden = trained("vit")
    with torch.no_grad():
        hidden.classifier.bias[1] -= 30
    models = ["--original", save(tmp_path / "original", trained("vit"))]
    assert command(tmp_path, *models, "--unlearned", save(tmp_path / "hidden", hidden), "--output_dir", tmp_path) == 1
    assert "There is no retrained model to compare with" in capsys.readouterr().out
    audit = Audit.from_dict(json.loads((tmp_path / "audit.json").read_text()))
    assert audit.run["kind"] == "class"
    assert not audit.accepted
    assert audit.verdict in (tmp_path / "audit.md").read_text()
    with pytest.raises(ValueError, match="schema"):
        Audit.from_dict({"schema": "other"})
    assert command(tmp_path, *models, "--unlearned", tmp_path / "hidden", "--forget_class", "9") == 2
    assert "is no class" in capsys.readouterr().err
    assert command(tmp_path, *models, "--unlearned", tmp_path / "nowhere") == 2
    assert "`unlearned=" in capsys.readouterr().err
    bare = trained("vit")
    del bare.classifier
    assert command(tmp_path, *models, "--unlearned", save(tmp_path / "bare", bare)) == 2
    assert "classifier.weight" not in capsys.readouterr().out
