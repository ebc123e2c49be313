"""An audit of models and rows that are named by folders and Hub ids: what to read, how to load it, and how it ends."""

# ruff: noqa: RUF009  `setting` makes a dataclass field, no default that the objects share
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from torch import nn

from ..data.class_names import check_numbers
from ..data.forget_request import ForgetRequest
from ..data.loading import load_rows
from ..evaluation.audit.audit import Audit
from ..evaluation.audit.auditor import audit_models
from ..evaluation.audit.cost import seconds_of
from ..methods.base import setting
from ..models.pretrained import load_classifier, load_processing_class
from ..models.processor import Processor
from ..utils.argument_checks import renamed
from ..utils.files import read_object
from ..utils.hub_names import file_beside, pinned
from ..utils.loading_errors import loading, located
from .run_arguments import REQUEST

logger = logging.getLogger(__name__)


@dataclass
class AuditArguments:
    """The models and the rows. The texts below are those of `hf-unlearn audit --help`."""

    original: str = field(metadata={"help": "Model that was trained on all rows: a folder or Hub id (`id@revision`)."})
    unlearned: str = field(metadata={"help": "Model to judge, or an adapter, as a folder or a Hub id."})
    forget: str = field(metadata={"help": "Rows to be forgotten: a file, folder or Hub id, such as 'folder:train'."})
    test: str = field(metadata={"help": "Rows with labels that no model was trained on, given in the same way."})
    retrained: list[str] | None = setting(None, "Models trained without the forget set. Three or more seeds are best.")
    retain: str | None = setting(None, "Training rows that were kept.")
    forget_class: list[str] | None = setting(None, "Only these classes of `forget` were forgotten; the rest was kept.")
    forget_column: str | None = setting(None, "Column of `forget` that selects the forgotten rows, such as a user id.")
    forget_values: list[str] | None = setting(None, "Values of `forget_column` that were forgotten.")
    kind: str = setting(
        "auto", "What was forgotten: a 'class' or 'samples'. 'auto' compares the classes of forget and retain set."
    )
    image_column: str | None = setting(None, "Column of images, if it is not `image` or `img`.")
    text_column: list[str] | None = setting(
        None, "Column of texts, or two columns for pairs of texts, if they do not have a usual name."
    )
    label_column: str = setting("label", "Column of class ids.")
    alpha: float = setting(0.05, "Level of every test, and of all reasons to reject together.")
    max_rows: int = setting(10_000, "Rows to read of each set, drawn with `audit_seed`.")
    audit_seed: int | None = setting(
        None, "Seed of all draws. By default a new one, which nobody can prepare a model for. `audit.json` records it."
    )
    allow_other_network: bool = setting(
        False,
        "A model of another architecture or size than the original may be found indistinguishable from retraining.",
    )
    per_example: bool = setting(
        False,
        "Attack every forget row by itself (LiRA, RMIA) with two retrained models or more, and write per_example.csv.",
    )
    audit_cache: str | None = setting(
        None,
        "Folder that keeps what is measured of original and retrained models, and a seed, for audits of other models. Features of "
        "the rows lie in it: delete it with them. By default nothing is kept.",
    )
    budget: str | None = setting(
        None,
        "Most time that measuring may take, such as '10m' or '90s': fewer rows are read to keep to it, by an estimate.",
    )
    use_cpu: bool = setting(False, "Do not use a GPU.")
    output_dir: str | None = setting(None, "Folder for audit.json, audit.md and audit.html.")

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"`alpha` must lie strictly between 0 and 0.5, got {self.alpha}.")
        if self.budget is not None:
            seconds_of(self.budget)
        if self.audit_seed is not None and self.audit_seed < 0:
            raise ValueError(f"`audit_seed` is a number from 0 on, got {self.audit_seed}. Leave it out for a new one.")


def load_sets(options: AuditArguments) -> dict[str, Any]:
    """Load the rows as `forget`, `test` and `retain`; the last is None if neither an argument nor a selection gives it."""
    request = None
    with renamed(REQUEST):
        if options.forget_class or options.forget_column or options.forget_values:
            request = ForgetRequest(
                label=options.forget_class,
                column=options.forget_column,
                values=options.forget_values,
                label_column=options.label_column,
            )
    forget = load_rows(options.forget, "forget", "train")
    test = load_rows(options.test, "test", "test")
    retain = None if options.retain is None else load_rows(options.retain, "retain", "train")
    if request is not None:
        with renamed(REQUEST):
            split = request.split(forget)
        forget, retain = split.forget, split.retain if retain is None else retain
    return {"forget": forget, "test": test, "retain": retain}


def find_models(options: AuditArguments) -> dict[str, str]:
    """Return the folders and Hub ids of the models, by the name of their argument. Raises ValueError for a wrong path."""
    sources = {"original": options.original, "unlearned": options.unlearned}
    sources |= {f"retrained[{i}]": source for i, source in enumerate(options.retrained or ())}
    return {name: located(source, name) for name, source in sources.items()}


def load_models(options: AuditArguments, rows: datasets.Dataset) -> tuple[dict[str, nn.Module], Any, dict[str, Any]]:
    """Load the models by the name of their argument, the original's image processor or tokenizer, and those of the others.

    A model without one of its own reads rows as the original does.

    Raises:
        ValueError: a folder or Hub id holds no whole classifier; the message names the argument.
    """
    device = "cuda" if torch.cuda.is_available() and not options.use_cpu else "cpu"
    models, processing = {}, {}
    for name, source in find_models(options).items():
        with loading(name, source):
            place, commit = pinned(source)
            models[name] = load_classifier(place, rows, commit).to(device).eval()
            try:
                processing[name] = load_processing_class(place, rows, commit)
            except OSError:
                if name == "original":
                    raise
                logger.warning("`%s` holds no image processor or tokenizer, and is given that of `original`.", name)
    return models, processing.pop("original"), processing


def cost_of_retraining(original: str) -> str:
    """Return what one retrained model costs, as a sentence, by what the Trainer wrote beside the original; "" if it wrote nothing."""
    place, commit = pinned(original)
    file = file_beside(place, "trainer_state.json", commit)
    state = {} if file is None else read_object(file) or {}
    entries = [e for e in state.get("log_history") or () if isinstance(e, dict) and "train_runtime" in e]
    if not entries:
        return ""
    return (
        f"One retrained model costs about what the original cost: {state.get('global_step')} steps in "
        f"{float(entries[-1]['train_runtime']):.0f} seconds (trainer_state.json)."
    )


def audit_of(options: AuditArguments, tell: Callable[[str], object] = logger.info) -> Audit:
    """Load what `options` name, and audit it. Everything is checked before the first model is loaded.

    Args:
        options: models and rows.
        tell: gets sentences about what is measured and how long it takes. Default: the logger.

    Raises:
        ValueError: a model or a set cannot be loaded, or they do not belong together.
    """
    find_models(options)
    sets = load_sets(options)
    models, processing_class, own = load_models(options, sets["forget"])
    names = (
        "image_column", "text_column", "label_column", "kind", "max_rows", "audit_seed", "allow_other_network", "alpha",
        "audit_cache", "per_example",
    )  # fmt: skip
    chosen = {name: getattr(options, name) for name in names}
    budget = None if options.budget is None else seconds_of(options.budget)
    original, unlearned, *retrained = models.values()
    label2id = Processor(original).label2id
    check_numbers(options.forget_class, sets["forget"], options.label_column, label2id, "forget_class")
    result = audit_models(
        original, unlearned, retrained, processing_class=processing_class, own_processing=own, budget=budget, tell=tell, **sets, **chosen,
    )  # fmt: skip
    if not retrained and (cost := cost_of_retraining(options.original)):
        result.limits.append(cost)
    return result
