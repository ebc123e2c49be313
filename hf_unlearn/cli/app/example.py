"""The example of the app: a small classifier of digits, and models that forgot the digit 3 in different ways, or did not."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ...data.loading import load_digits
from ...pipeline.audit_job import AuditArguments
from ...utils import VERSION

DIGIT = "3"
CONFIG: dict[str, Any] = {
    "model_type": "vit", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1,
}  # fmt: skip
CANDIDATES = {  # what the page calls a model -> its folder
    "A model that was trained without the digit 3": "run/retrained-3",
    "A model that only hides the digit 3": "run/model",
    "The original, unchanged": "original",
}


@dataclass(frozen=True)
class Example:
    """The folder of the example."""

    folder: Path

    def options(self, candidate: str) -> AuditArguments:
        """Return what an audit of one of `CANDIDATES` reads."""
        retrained = [str(self.folder / "run" / name) for name in ("retrained", "retrained-2")]
        return AuditArguments(
            original=str(self.folder / "original"), unlearned=str(self.folder / CANDIDATES[candidate]), retrained=retrained,
            forget=f"{self.folder / 'data'}:train", test=f"{self.folder / 'data'}:test", forget_class=[DIGIT], use_cpu=True,
        )  # fmt: skip


def folder_of_examples() -> Path:
    """Return the folder that keeps the example from one start of the app to the next."""
    return Path(constants.HF_HOME) / "hf_unlearn" / f"example-{VERSION}"


def make_example(folder: Path, tell: Callable[[str], object] = print) -> Example:
    """Return the example in `folder`. It is made if it is missing, which takes half a minute.

    Args:
        folder: where the models are, or will be.
        tell: gets a sentence about what is made. Default: it is printed.

    Raises:
        RuntimeError: a model could not be made.
    """
    if not folder.is_dir():
        tell("The example is made: five small classifiers of digits are trained. This happens once.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "example"
            _train(made)
            try:
                os.rename(made, folder)
            except OSError:  # another process was faster, and its example is as good
                if not folder.is_dir():
                    raise
    return Example(folder)


def _train(folder: Path) -> None:
    from datasets import concatenate_datasets

    from .. import main

    # Half of the digits are test rows: with the usual quarter a class has too few of them to tell anything.
    rows = concatenate_datasets([*load_digits().values()])
    (folder / "data").mkdir(parents=True)
    for name, part in (("train", range(0, len(rows), 2)), ("test", range(1, len(rows), 2))):
        rows.select(part).to_parquet(folder / "data" / f"{name}.parquet")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    words: dict[str, Any] = {
        "model": folder / "original", "model_config": folder / "config.json", "dataset": folder / "data", "forget_class": DIGIT,
        "method": "jit", "retrain": 3, "retrained_cache": "none", "train_epochs": 20, "train_learning_rate": 3e-3,
        "output_dir": folder / "run", "use_cpu": "true", "figures": "false", "save_strategy": "no", "report_to": "none",
        "logging_strategy": "no", "disable_tqdm": "true",
    }  # fmt: skip
    said = StringIO()
    with redirect_stdout(said):
        code = main(["run", *(word for name, value in words.items() for word in (f"--{name}", str(value)))])
    if code != 0:
        raise RuntimeError(f"The example could not be made:\n{said.getvalue()}")
