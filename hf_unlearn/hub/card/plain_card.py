"""A card of what is known without measurements: what the model is, what it comes from, and the report's table if there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...utils.files import write_atomically
from ...utils.safe_text import inert
from ..layout import OURS, TAG

OF_ADAPTERS = (
    "This is an adapter: with it switched off, its base is the original model, which knows what was to be forgotten."
)


def write_plain_card(
    folder: Path,
    original: str | None,
    report: str = "",
    note: str = "",
    *,
    model_name: str | None = None,
    tags: str | Sequence[str] | None = None,
    base_model: str | None = None,
    **metadata: Any,
) -> Path:
    """Write `README.md` into `folder` and return its path.

    Args:
        original: Hub id of the model that was unlearned.
        report: markdown below the introduction.
        note: a paragraph above it.
        model_name, tags, base_model, metadata: fields of the card's front matter (`huggingface_hub.ModelCardData`).
    """
    from huggingface_hub import ModelCardData

    adapter = (folder / "adapter_config.json").is_file()
    given = [tags] if isinstance(tags, str) else list(tags or ())
    original = base_model or original
    data = ModelCardData(
        base_model=original,
        library_name="peft" if adapter else "transformers",
        tags=[TAG, OURS, *(t for t in given if t not in (TAG, OURS))],
        **metadata,
    )
    source = (
        f"[{inert(original)}](https://huggingface.co/{original})" if original else "a classifier that is not on the Hub"
    )
    said = f"Made from {source} by machine unlearning with `hf_unlearn`."
    parts = [f"# {inert(model_name or 'Unlearned model')}", note, said, OF_ADAPTERS if adapter else "", report.strip()]
    path = folder / "README.md"
    body = "\n\n".join(part for part in parts if part)
    write_atomically(path, f"---\n{data.to_yaml(line_break=os.linesep)}\n---\n\n{body}\n")
    return path
