"""Keep the card of a recipe's run in `model_cards/`, with its report and small figures drawn from the report.

    python recipes/cards.py digits-vit/jit out/digits-vit/jit

An audit that was saved into the folder of the run is kept too. A test renders every card again from its report, and compares.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.plots import save_figures
from hf_unlearn.hub.card.evaluation_card import write_card
from hf_unlearn.hub.layout import AUDIT, REPORT
from hf_unlearn.hub.push.cleaning import without_values
from hf_unlearn.hub.receipt import RECEIPT, seal
from hf_unlearn.utils.files import write_atomically, written_atomically

ROOT = Path(__file__).parents[1]


def keep(run: Path, folder: Path) -> Path:
    """Write what the card of `run` needs into `folder`, in few bytes, and render the card there. Returns its path."""
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = UnlearningReport.from_dict(json.loads((run / REPORT).read_text("utf-8")))
    _write(folder / REPORT, without_values(report.as_dict()))
    if (run / AUDIT).is_file():
        _write(folder / AUDIT, json.loads((run / AUDIT).read_text("utf-8")))
    for path in save_figures(report, folder / "figures", dpi=75):
        with Image.open(path) as picture, written_atomically(path) as partial:
            picture.convert("RGB").quantize(16, dither=Image.Dither.NONE).save(partial, optimize=True)
    if (run / RECEIPT).is_file():
        shutil.copyfile(run / RECEIPT, folder / RECEIPT)
    card = write_card(folder)
    if (folder / RECEIPT).is_file():
        seal(folder)  # the receipt covers these files, because the weights are not kept
    return card


def _write(path: Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its path below recipes/, without .yaml")
    parser.add_argument("run", type=Path, help="output folder of the run")
    options = parser.parse_args()
    if not (ROOT / "recipes" / f"{options.recipe}.yaml").is_file():
        parser.error(f"recipes/{options.recipe}.yaml does not exist")
    print(keep(options.run, ROOT / "model_cards" / options.recipe))
