"""`hf-unlearn audit`: models made by any tool, the rows that were to be forgotten, and a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.loading import load_rows
from ..utils.hub_names import pinned
from .exit_codes import answered

if TYPE_CHECKING:
    import datasets
    from torch import nn

    from ..evaluation.audit.audit import Audit


@dataclass
class AuditArguments:
    """The models and the rows. A set is a folder, a file or a Hub id (`id@revision`), with `:split` behind it where it has several."""

    original: str = field(metadata={"help": "Folder or Hub id (`id@revision`) of the model that learned everything."})
    unlearned: str = field(metadata={"help": "Folder or Hub id of the model to judge, or of an adapter."})
    forget: str = field(metadata={"help": "Training rows that were to be forgotten, such as 'folder:train'."})
    test: str = field(metadata={"help": "Labelled rows that no model was trained on."})
    retrained: list[str] | None = field(
        default=None, metadata={"help": "Models trained anew without the forget set; three seeds or more are best."}
    )
    retain: str | None = field(default=None, metadata={"help": "Training rows that were kept."})
    forget_class: list[str] | None = field(
        default=None,
        metadata={"help": "Of the rows of `forget` only these classes were forgotten; the others are the retain set."},
    )
    forget_column: str | None = field(
        default=None, metadata={"help": "Column of `forget` whose `forget_values` were forgotten, such as a user id."}
    )
    forget_values: list[str] | None = field(default=None, metadata={"help": "Values of `forget_column`."})
    kind: str = field(
        default="auto", metadata={"help": "'class', 'samples', or 'auto': by the classes of forget and retain set."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Image column, if not `image` or `img`."})
    text_column: str | None = field(
        default=None, metadata={"help": "Text column, if not `text`, `sentence` or `content`."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of class ids."})
    alpha: float = field(
        default=0.05, metadata={"help": "Level of every test, and of all reasons for rejection together."}
    )
    max_rows: int = field(default=10_000, metadata={"help": "Rows of each set that are read, drawn by `seed`."})
    seed: int = field(default=0, metadata={"help": "Seed of what is drawn."})
    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for audit.json and audit.md."})

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"`alpha` must lie strictly between 0 and 0.5, got {self.alpha}.")


def load_sets(options: AuditArguments) -> dict[str, Any]:
    """Forget, test and retain rows."""
    from ..data.forget_request import ForgetRequest

    forget = load_rows(options.forget, "forget", "train")
    test = load_rows(options.test, "test", "test")
    retain = None if options.retain is None else load_rows(options.retain, "retain", "train")
    if options.forget_class or options.forget_column:
        request = ForgetRequest(
            label=options.forget_class,
            column=options.forget_column,
            values=options.forget_values,
            label_column=options.label_column,
        )
        split = request.split(forget)
        forget, retain = split.forget, split.retain if retain is None else retain
    return {"forget": forget, "test": test, "retain": retain}


def load_models(options: AuditArguments, rows: datasets.Dataset) -> tuple[dict[str, nn.Module], Any]:
    """The models by argument, and the original's image processor or tokenizer.

    Raises:
        ValueError: what a folder or Hub id holds is no whole classifier.
    """
    import torch

    from ..models.pretrained import load_classifier, load_processing_class

    device = "cuda" if torch.cuda.is_available() and not options.use_cpu else "cpu"
    sources = {"original": options.original, "unlearned": options.unlearned}
    sources |= {f"retrained[{i}]": source for i, source in enumerate(options.retrained or ())}
    models, pins = {}, {}
    for name, source in sources.items():
        try:
            pins[name] = pinned(source)
            models[name] = load_classifier(pins[name][0], rows, pins[name][1]).to(device).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"`{name}`: {error}") from error
    return models, load_processing_class(pins["original"][0], rows, pins["original"][1])


def audit(options: AuditArguments) -> Audit:
    """Load everything, check it, and audit."""
    from ..evaluation.audit.auditor import audit_models

    sets = load_sets(options)
    models, processing_class = load_models(options, sets["forget"])
    names = ("image_column", "text_column", "label_column", "kind", "max_rows", "seed", "alpha")
    settings = {name: getattr(options, name) for name in names}
    original, unlearned, *retrained = models.values()
    return audit_models(original, unlearned, retrained, processing_class=processing_class, **sets, **settings)


def main(words: Sequence[str]) -> int:
    """`hf-unlearn audit`: 0 where the model is indistinguishable from retraining, 1 where not; other codes as in `exit_codes`."""
    return answered(lambda: _judge(_parse(words)))


def _parse(words: Sequence[str]) -> AuditArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        AuditArguments,
        prog="hf-unlearn audit",
        description="Has a model forgotten, or does it seem so?",
        allow_abbrev=False,
    )
    (options,) = parser.parse_args_into_dataclasses(list(words))
    return options


def _judge(options: AuditArguments) -> int:
    result = audit(options)
    result.print()
    if options.output_dir is not None:
        result.save(options.output_dir)
        print(f"Audit in {Path(options.output_dir) / 'audit.md'}")
    return 0 if result.accepted else 1
