"""`hf-unlearn card`: the card is written again, and the receipt over it is sealed again."""

import pytest

from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT
from tests.support.recipes import run_options, save_model_and_data


@pytest.mark.slow
def test_a_new_card_is_sealed_and_asks_for_a_new_signature(tmp_path, capsys):
    options = run_options(save_model_and_data(tmp_path), output_dir=tmp_path / "out", max_steps=1, figures="false")
    assert main(["run", *options]) in (0, 1)
    out, key = tmp_path / "out", str(tmp_path / "key.pem")
    card = (out / "README.md").read_text()
    assert main(["receipt", "keygen", "--output", key]) == 0
    assert main(["receipt", "sign", "--receipt", str(out / RECEIPT), "--key", key]) == 0
    capsys.readouterr()
    assert main(["card", str(out), "--repo", "bob/forgetful"]) == 0
    shown = capsys.readouterr().out
    assert f"Card in {out / 'README.md'}" in shown
    assert "hf-unlearn receipt sign" in shown
    assert "bob/forgetful" in (out / "README.md").read_text() != card
    assert main(["receipt", "verify", "--folder", str(out)]) == 0
    capsys.readouterr()
    assert main(["card", str(out), "--repo", "bob/forgetful"]) == 0
    assert "receipt sign" not in capsys.readouterr().out  # there is no signature that could be wrong


def test_a_folder_without_a_report_is_refused(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert "report.json" in capsys.readouterr().err
