"""From the Hub and back: original and data of fixed revisions, one command, and a fresh process that loads the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForImageClassification

from tests.support.data import image_data, image_processor, tokenizer
from tests.support.hub_runs import create_tagged, write
from tests.support.models import trained

ROOT = Path(__file__).parents[2]


LOAD = """
import json, sys
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()
AutoImageProcessor.from_pretrained(sys.argv[1], backend="pil")
with torch.no_grad():
    np.save(sys.argv[3], model(torch.from_numpy(np.load(sys.argv[2]))).logits.numpy())
text = AutoModelForSequenceClassification.from_pretrained(sys.argv[4])
logits = text(**AutoTokenizer.from_pretrained(sys.argv[4])("w1 w2", return_tensors="pt")).logits
from hf_unlearn.data.loading import load_rows
rows = [load_rows(s, "test", "train") for s in ("alice/data@v1:test", "alice/data@v1", "alice/data")]
print(json.dumps([logits.tolist(), [len(r) for r in rows]]))
"""


def environment(hub, tmp_path):
    own = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **own, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture
def sources(hub, tmp_path):
    """alice/original and alice/data: commits of v1, after which main went on."""
    model, data = tmp_path / "original", tmp_path / "data"
    trained("vit").save_pretrained(model)
    image_processor().save_pretrained(model)
    data.mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(96, seed).to_parquet(data / f"{split}.parquet")
    commits = create_tagged("alice/original", model), create_tagged("alice/data", data, "dataset")
    write(model / "config.json", "{}")
    HfApi().upload_file(repo_id="alice/original", path_in_repo="config.json", path_or_fileobj=model / "config.json")
    image_data(8).to_parquet(data / "train.parquet")
    HfApi().upload_folder(repo_id="alice/data", folder_path=data, repo_type="dataset")
    return commits


@pytest.mark.slow
def test_a_recipe_unlearns_from_the_hub_to_the_hub(hub, sources, tmp_path):
    keys = {"model": "alice/original@v1", "dataset": "alice/data", "dataset_revision": "v1", "forget_class": "['1']"}
    keys |= {
        "push_to_hub": "true",
        "hub_model_id": "alice/forgetful",
        "output_dir": tmp_path / "out",
        "use_cpu": "true",
    }
    write(tmp_path / "recipe.yaml", "".join(f"{k}: {v}\n" for k, v in keys.items()))
    settings = {"capture_output": True, "text": True, "cwd": ROOT, "env": environment(hub, tmp_path), "timeout": 300}
    command = [sys.executable, "-m", "hf_unlearn.cli", "run", "--config", str(tmp_path / "recipe.yaml")]
    done = subprocess.run([*command, "--disable_tqdm", "true"], check=False, **settings)
    assert done.returncode == 0, done.stderr
    assert "Pushed to branch 'main' of the private repository alice/forgetful" in done.stdout
    report = json.loads(hub.content("alice/forgetful", "report.json"))
    assert report["run"]["original"] == {"id": "alice/original", "revision": sources[0]}
    assert report["run"]["dataset"] == {"id": "alice/data", "revision": sources[1]}
    assert report["run"]["rows"]["forget"] == 24  # of v1, which main no longer has
    held = set(hub.repository("alice/forgetful").tree()) - {".gitattributes"}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "report.json"} <= held
    assert not any(n.endswith((".bin", ".pt")) or "checkpoint" in n for n in held)
    card = ModelCard(hub.content("alice/forgetful", "README.md").decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("alice/original", "finetune")
    assert card.data.datasets == ["alice/data"]
    assert 'model="alice/forgetful"' in card.text
    texts = (hub.content("alice/forgetful", n).decode() for n in held if n.endswith((".json", ".md")))
    assert not any(str(tmp_path) in text or str(ROOT) in text for text in texts)

    # the text model's tokenizer was loaded from a folder, which its configuration remembers
    trained("bert").save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    config = json.loads((tmp_path / "bert/tokenizer_config.json").read_text())
    write(tmp_path / "bert/tokenizer_config.json", json.dumps({**config, "is_local": True, "local_files_only": True}))
    words = ["push", str(tmp_path / "bert"), "--repo", "alice/text"]
    pushed = subprocess.run([sys.executable, "-m", "hf_unlearn.cli", *words], check=False, **settings)
    assert pushed.returncode == 0, pushed.stderr

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32))
    given = ["alice/forgetful", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "alice/text"]
    fresh = subprocess.run([sys.executable, "-c", LOAD, *given], check=False, **settings)
    assert fresh.returncode == 0, fresh.stderr
    local = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model").eval()
    with torch.no_grad():
        expected = local(torch.from_numpy(np.load(tmp_path / "x.npy"))).logits.numpy()
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    logits, rows = json.loads(fresh.stdout.splitlines()[-1])
    assert rows == [96, 96, 8]
    with torch.no_grad():
        assert logits == trained("bert")(**tokenizer()("w1 w2", return_tensors="pt")).logits.tolist()
