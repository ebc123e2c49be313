"""Small folders like those that `hf-unlearn run` writes, and their expected contents."""

import json
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi
from safetensors.numpy import save_file

RUN_FILES = [
    "README.md",
    "config.json",
    "figures/roc.png",
    "model.safetensors",
    "preprocessor_config.json",
    "report.json",
]
PRIVATE = [
    "checkpoint-3/optimizer.pt",
    "_private/rows.json",
    "private/rows.json",
    "report.html",
    "model/training_args.bin",
]


def run_folder(folder, seed=0, original=None, adapter=None):
    """Write model, report, a figure, and private files. `original` is a Hub id and a commit; `adapter` is the base of an adapter."""
    files = {
        "model/preprocessor_config.json": {"size": 16},
        "report.json": {"run": {"original": original and {"id": original[0], "revision": original[1]}}},
    }
    if adapter is None:
        files["model/config.json"] = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    else:
        files["model/adapter_config.json"] = {"peft_type": "LORA", "base_model_name_or_path": adapter, "revision": None}
    for name, content in files.items():
        write(folder / name, json.dumps(content, indent=2))
    write(folder / "report.md", f"# Report {seed}\n")
    write(folder / "figures/roc.png", f"\x89PNG {seed}")
    for name in PRIVATE:
        write(folder / name, "private")
    weights = {"w": np.random.default_rng(seed).normal(size=5000).astype(np.float32)}
    name = "model" if adapter is None else "adapter_model"
    save_file(weights, folder / "model" / f"{name}.safetensors", metadata={"format": "pt"})
    return folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def digests(folder):
    """Return the bytes of every file below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def create_tagged(name, folder, kind="model"):
    """Create a repository that holds `folder`, with the tag v1; returns the commit of v1."""
    api = HfApi()
    api.create_repo(name, repo_type=kind, private=True)
    commit = api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind).oid
    api.create_tag(name, tag="v1", repo_type=kind)
    return commit
