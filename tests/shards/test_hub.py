"""From a base on the Hub to shards on the Hub: pinned, pushed with the receipt, loaded by anybody, and nothing private among it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from hf_unlearn.cli import main
from hf_unlearn.data.forget_request import ForgetRequest
from hf_unlearn.hub.layout import RECEIPT
from hf_unlearn.hub.push.staging import prepare_folder
from hf_unlearn.models.pretrained import load_classifier
from hf_unlearn.models.sharded_classifier import SHARDING, ShardedClassifier, Sharding
from hf_unlearn.shards.settings import ShardSettings
from tests.models.test_sharded_classifier import batch_of
from tests.shards.support import SMALL, rows_for, save_base, shared, trainer
from tests.support.hub_runs import create_tagged

pytestmark = pytest.mark.xdist_group("shared shards")


@pytest.mark.slow
def test_shards_go_from_the_hub_to_the_hub(hub, tmp_path, capsys):
    commit = create_tagged("alice/base", Path(save_base("bert", tmp_path / "base")))
    rows, settings = rows_for("bert", 48), ShardSettings(**{**SMALL, "num_shards": 2})
    trainer().train("alice/base@v1", rows, tmp_path / "v1", settings=settings)
    trainer().forget(tmp_path / "v1", rows, ForgetRequest(column="owner", values=["u3"]), tmp_path / "v2")
    sharding = Sharding.load(tmp_path / "v2" / SHARDING)
    assert (sharding.base, sharding.base_revision) == ("alice/base", commit)
    HfApi().upload_file(repo_id="alice/base", path_in_repo="config.json", path_or_fileobj=b"{}")  # main goes on
    assert main(["push", str(tmp_path / "v2"), "--repo", "alice/sharded"]) == 0
    assert "alice/sharded" in capsys.readouterr().out
    held = set(hub.repository("alice/sharded").tree())
    assert {SHARDING, RECEIPT, "README.md", "config.json", "tokenizer.json"} <= held
    assert {f"shard-{i:02d}/adapter_model.safetensors" for i in range(2)} <= held
    assert not any("private" in name for name in held)
    texts = [hub.content("alice/sharded", name).decode() for name in held if name.endswith((".json", ".md"))]
    assert not any(str(tmp_path) in text for text in texts)
    assert (
        json.loads(hub.content("alice/sharded", "shard-00/adapter_config.json"))["base_model_name_or_path"]
        == "alice/base"
    )
    local, batch = ShardedClassifier.from_pretrained(tmp_path / "v2"), None
    batch = batch_of("bert", local)
    for remote in (ShardedClassifier.from_pretrained("alice/sharded"), load_classifier("alice/sharded")):
        assert torch.equal(remote(**batch).logits, local(**batch).logits)
    assert main(["receipt", "verify", "--folder", "alice/sharded"]) == 0


@pytest.mark.slow
def test_shards_of_a_base_that_nobody_else_has_are_not_pushed(tmp_path):
    with (
        pytest.raises(ValueError, match=r"the base of the shards in .* is a local folder"),
        prepare_folder(shared()[0]),
    ):
        pass
    shutil.copytree(shared()[0], tmp_path / "v1")
    shutil.rmtree(tmp_path / "v1" / "shard-01")
    with pytest.raises(ValueError, match="lacks shard-01/adapter_config"), prepare_folder(tmp_path / "v1"):
        pass


def test_a_base_that_cannot_be_pinned_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="could not be pinned to a commit"):
        trainer().train("alice/nothing", rows_for("bert", 24), tmp_path / "v1", settings=ShardSettings(**SMALL))
    assert not (tmp_path / "v1").exists()
