"""Receipts with fixed contents, and a folder like one that is pushed."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema

from hf_unlearn import JiT
from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, build_receipt, sealing, write_receipt
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, ForgottenRows
from hf_unlearn.pipeline.records import RUN_COVERS
from tests.support.data import image_processor, text_data
from tests.support.models import trained

SCHEMA = json.loads((Path(sealing.__file__).parent / "schemas" / "receipt.schema.json").read_text())
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def valid(receipt):
    jsonschema.validate(receipt, SCHEMA, jsonschema.Draft202012Validator)
    return receipt


def receipt_for(rows, retain=None, key=None, request="r-1", **changes):
    """Make a receipt with fixed public contents, and its private part."""
    forgotten = ForgottenRows.commit(rows, request, key)
    sets = {}
    if retain is not None:
        digest = forgotten.set_digest("retain", retain, 1000)
        sets["retain"] = {"rows": len(retain), "digested": len(retain), "digest": digest}
    settings = {
        "request": {"kind": "samples", "classes": [], "selected_by": ["column"]},
        "data": {"id": "org/data", "revision": "main", "config": None, "split": "train", "sets": sets},
        "base_model": {"id": "org/model", "revision": "main", "weights": {}, "tensors": "0" * 32},
        "method": JiT().describe(),
        "arguments": {"seed": 7, "learning_rate": 1e-3},
        "started": START,
        "ended": START + timedelta(seconds=90),
        "metrics": {"models": {"unlearned": {"forget_accuracy": 0.25}}, "gap": {}, "intervals": {}},
        **changes,
    }
    return build_receipt(forgotten, **settings), forgotten


def write_run_receipt(run, request="r-1"):
    """Write the receipt that `hf-unlearn run` leaves in its output folder. Returns its private part."""
    receipt, forgotten = receipt_for(text_data(12), request=request)
    write_receipt(run, {**receipt, "covers": RUN_COVERS})
    return forgotten


def publish(tmp_path):
    """Make a folder like one that is pushed (weights, configuration, card, report, figure, processor), sealed and signed."""
    folder = tmp_path / "published"
    trained("vit").save_pretrained(folder)
    image_processor().save_pretrained(folder)
    (folder / "README.md").write_text("# A model\n")
    (folder / "report.json").write_text('{"schema": "hf_unlearn/report/2"}\n')
    (folder / "figures").mkdir()
    (folder / "figures" / "roc.png").write_bytes(random.Random(1).randbytes(500))
    receipt, forgotten = receipt_for(text_data(12), text_data(30, seed=4))
    write_receipt(folder, receipt)
    forgotten.save(tmp_path / PRIVATE_FILE)
    assert main(["receipt", "keygen", "--output", str(tmp_path / "key.pem")]) == 0
    sign(folder, tmp_path)
    return folder


def sign(folder, keys):
    assert main(["receipt", "sign", "--receipt", str(folder / RECEIPT), "--key", str(keys / "key.pem")]) == 0


def verify(folder, *words):
    return main(["receipt", "verify", "--folder", str(folder), *map(str, words)])
