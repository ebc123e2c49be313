"""Record in report and receipt what only a recipe knows of its run."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..evaluation.report.report import UnlearningReport
from ..evaluation.report.run_description import class_names, data_source, origin
from ..hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER
from ..hub.receipt.receipt import Receipt
from ..trainer import UnlearningTrainer
from ..utils.hub_names import COMMIT, is_local
from ..utils.safe_text import shown
from .job import Job

# The receipt in a run's folder covers these; checkpoints and private files stay with the owner.
RUN_COVERS = ["README.md", "figures", "model", "report.html", "report.json", "report.md"]

# Only these keys of a recipe are recorded with their values. Of all others a report names only the keys that were given: their
# values could identify rows, people or machines.
RUN_KEYS = (
    "dataset_config", "train_split", "test_split", "validation_split", "train_rows", "test_rows", "image_column", "text_column",
    "label_column", "forget_column", "forget_fraction", "drop_forgotten_words", "retrain", "train_epochs", "train_learning_rate", "train_batch_size",
    "peft_config", "bias_column", "relearning",
)  # fmt: skip
ARGUMENT_KEYS = (
    "update", "trust_region", "forget_kind", "forget_target", "max_retain_drop", "max_halvings", "check_steps", "weight_average", "probe_size",
    "retain_per_forget", "momentum", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "adam_beta1",
    "adam_beta2", "adam_epsilon", "seed", "fp16", "bf16", "train_sampling_strategy", "use_cpu",
)  # fmt: skip
WITHOUT_EFFECT = ("resume", "figures", "retrained_cache")  # these change no result, so a report does not name them


def record_receipt(job: Job, trainer: UnlearningTrainer, report: UnlearningReport) -> dict[str, Any]:
    """Write the receipt of `hf-unlearn run` into its output folder, and the owner's key into the folder `_private` there."""
    run, folder = job.run, Path(job.args.output_dir or ".")
    commit = (data_source(job.train)["dataset"] or {}).get("revision") or run.dataset_revision
    known = run.dataset == "digits" or COMMIT.fullmatch(commit or "")  # anything else may be a folder
    receipt = Receipt.from_trainer(
        trainer,
        report,
        request=None if job.split is None else job.split.request,
        retain_dataset=job.train if job.split is None else job.split.retain,
        test_dataset=job.test,
        model=run.model,
        model_revision=run.model_revision,
        dataset={
            "id": run.dataset if known else None,
            "revision": commit,
            "config": run.dataset_config,
            "split": run.train_split,
        },
    )
    return receipt.save(folder, folder / PRIVATE_FOLDER / PRIVATE_FILE, RUN_COVERS)


def record_request(job: Job, trainer: UnlearningTrainer) -> dict[str, Any]:
    """Return what only a run from a recipe knows: the request in words, the sources of model and data, and the recipe's keys."""
    run, labels = job.run, class_names(job.model.config)
    attribute = getattr(trainer.method, "attribute", None)
    found = origin(job.model, run.model_revision or "main", fetch=True) | data_source(job.train)
    if run.dataset == "digits":
        found["dataset_name"] = "scikit-learn's digits"
    elif not is_local(run.dataset):
        commit = run.dataset_revision or (found["dataset"] or {}).get("revision")
        found |= {"dataset": {"id": run.dataset, "revision": commit}, "dataset_config": run.dataset_config}
    recipe = dict(_recipe(job, trainer, labels)) | ({"dataset": "digits"} if run.dataset == "digits" else {})
    for key, source in (("model", found["original"]), ("dataset", found["dataset"])):
        recipe |= {} if source is None else {key: source["id"], f"{key}_revision": source["revision"]}
    given = [name for part in (run, trainer.method) for name, _ in _changed(part)]
    # The rows follow from the seed, so it is always left out, even if it is the default.
    given += ["forget_seed"] if run.forget_fraction and "forget_seed" not in given else []
    splits = {"train": run.train_split, "test": run.test_split, "validation": run.validation_split}
    return {
        **found,
        "request": run.request().describe(labels) if job.split else f"the influence of '{shown(attribute)}'",
        "splits": {k: shown(v) for k, v in splits.items() if v},
        "recipe": {k: v for k, v in recipe.items() if v is not None},
        **({"words_dropped": len(job.dropped)} if job.dropped else {}),
        "left_out": [name for name in given if name not in recipe and name not in WITHOUT_EFFECT],
    }


def _recipe(job: Job, trainer: UnlearningTrainer, labels: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the keys that were not left at their defaults and whose values may be shown."""
    known = {*labels, *map(str, range(len(labels)))}
    yield "method", trainer.method.name
    if job.run.forget_class and all(c in known and shown(c) == c for c in job.run.forget_class):
        yield "forget_class", list(job.run.forget_class)
    for source, keys in ((job.run, RUN_KEYS), (job.args, ARGUMENT_KEYS), (trainer.method, None)):
        for name, value in _changed(source):
            if (keys is None or name in keys) and _clean(value):
                yield name, value


def _changed(source: Any) -> Iterator[tuple[str, Any]]:
    for f in fields(source):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = getattr(source, f.name)
        value = getattr(value, "value", getattr(value, "name", value))  # an enum has a value, the `base` of UIB a name
        if f.init and value != default and f.name not in ("model_revision", "dataset_revision"):
            yield f.name, "none" if value is None else value


def _clean(value: Any) -> bool:
    """True if a value may be shown: a number, or a short text without hidden characters that is no path."""
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and shown(value) == value and "/" not in value and ":\\" not in value
    )
