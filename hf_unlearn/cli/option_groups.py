"""Under which title, and on which page, `hf-unlearn run --help` shows an option."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from ..pipeline.run_arguments import DATA, FORGET, REPORT, UPDATE

METHOD, HUB, TRAINER = "method", "Hub", "HF Trainer"
TITLES = (DATA, FORGET, METHOD, UPDATE, REPORT, HUB, TRAINER)
# Fields of `TrainingArguments` that matter most here. Of the others only `--help-all` tells.
CHOSEN = (
    "output_dir", "seed", "use_cpu", "bf16", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "save_strategy", "save_steps", "report_to", "disable_tqdm", "push_to_hub", "hub_model_id",
    "hub_private_repo",
)  # fmt: skip
OTHERS = {f.name for f in fields(TrainingArguments)} - set(CHOSEN)


def option_groups(run: type[Any], arguments: type[Any], method: type[Any]) -> Mapping[str, str]:
    """Return the title of each field of the three dataclasses, in the order of the titles.

    A field of `run` has the title that it or the nearest field above it names in its metadata. Fields of `arguments` are sorted by
    name, and by the class that declares them.
    """
    groups: dict[str, str] = {}
    title = DATA
    for f in fields(run):
        title = groups[f.name] = f.metadata.get("group", title)
    for name in (f.name for f in fields(arguments) if f.init):
        if "hub" in name:
            title = HUB
        elif name in OTHERS or name in CHOSEN:
            title = TRAINER
        else:
            title = METHOD if name == "method" else FORGET if name.startswith("forget_") else UPDATE
        groups[name] = title
    groups |= {f.name: METHOD for f in fields(method) if f.init}
    return dict(sorted(groups.items(), key=lambda item: TITLES.index(item[1])))
