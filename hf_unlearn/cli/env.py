"""`hf-unlearn env`: the versions and devices that a report of a bug needs. It names no folder, user or token."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from ..utils import VERSION
from .parsers import CommandParser, parser_settings

PACKAGES = (
    "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "huggingface_hub", "safetensors", "tokenizers", "numpy",
    "scikit-learn", "pillow", "matplotlib",
)  # fmt: skip


def found() -> dict[str, Any]:
    """Return versions and devices, in the order in which they are shown; None for a package that is not installed."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "hf_unlearn": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": ", ".join(gpus) or None,
        "mps": torch.backends.mps.is_available(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "offline": os.environ.get("HF_HUB_OFFLINE", "0"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn env`. Returns 0."""
    about = "Print the versions and devices that a report of a bug needs. It names no folder, user or token."
    CommandParser(**parser_settings("env", about, "")).parse_args(list(words))
    told = found()
    width = max(map(len, told))
    for name, value in told.items():
        print(f"{name:{width}s}  {'none' if value is None else value}")
    return 0
