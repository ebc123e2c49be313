"""`RunArguments`: the keys of a recipe that are settings neither of the training nor of the method."""

# ruff: noqa: RUF009  `setting` makes a dataclass field, no default that the objects share
import os
from dataclasses import dataclass, field
from typing import Any

from ..data.forget_request import ForgetRequest, Split
from ..data.streams import split_stream
from ..methods.base import setting
from ..utils.argument_checks import check_counts, check_not_empty, check_positive, renamed

DATA, FORGET, UPDATE, REPORT = "model and data", "what to forget", "what may move", "run and report"
"""Titles of the help page. A field may name one as its `group`, which holds for the fields below it too."""
REQUEST = {
    "label": "forget_class",
    **{name: f"forget_{name}" for name in ("column", "values", "ids_file", "fraction", "seed")},
}
"""The argument of `ForgetRequest` that each `forget_*` key gives. Errors name the key."""
MOST_RETRAINED = 100  # models; more are a mistake, and each takes a folder
MODEL = "Classifier to start from, as a folder or a Hub id (`org/name@revision`). It is never overwritten."
DATASET = "Data set that the model was trained on, as a folder or a Hub id (`org/name@revision`), or 'digits' for scikit-learn's."


@dataclass
class RunArguments:
    """The model, the data, the rows to forget, and what to measure. The texts below are those of `hf-unlearn run --help`."""

    model: str = field(metadata={"help": MODEL, "aliases": ["--model_name_or_path", "--model-name-or-path"]})
    dataset: str = field(metadata={"help": DATASET, "aliases": ["--dataset_name", "--dataset-name"]})
    model_revision: str | None = setting(None, "Branch, tag or commit of the model on the Hub.")
    base_model: str | None = setting(
        None,
        "Pretrained model that `model` was fine-tuned from (`org/name@revision` or a folder): retraining starts from it. None: the one "
        "that the adapter, the card or the configuration of `model` names. 'none': the training started from random weights.",
    )
    model_config: str | None = setting(None, "A config.json: if `model` is missing, such a model is trained and saved.")
    dataset_config: str | None = setting(None, "Configuration of the data set, if it has several.")
    dataset_revision: str | None = setting(None, "Branch, tag or commit of the data set on the Hub.")
    train_split: str = setting("train", "Split that the model was trained on.")
    test_split: str | None = setting("test", "Split to measure on, or 'none'.")
    validation_split: str | None = setting(
        None,
        "Split that methods read to stop at a target, or 'none'. By default a fifth of the test rows, never measured on.",
    )
    train_rows: int | None = setting(None, "Use only this many rows of the training split, drawn with seed 0.")
    streaming: bool = setting(False, "Stream the training split, and store only the rows to forget and to measure on.")
    test_rows: int | None = setting(None, "Use only this many rows of the test split, drawn with seed 0.")
    image_column: str | None = setting(None, "Column of images, if it is not `image` or `img`.")
    text_column: str | None = setting(
        None, "Column of texts, or two columns for pairs of texts, if they do not have a usual name.", nargs="+"
    )
    label_column: str = setting("label", "Column of class ids.")
    forget_class: list[str] | None = setting(
        None, "Classes to forget, by name or id (`name:3`, `id:3` if 3 is both).", group=FORGET
    )
    forget_column: str | None = setting(None, "Column that selects the rows to forget, such as a user id.")
    forget_values: list[str] | None = setting(None, "Forget the rows with these values in `forget_column`.")
    forget_ids_file: str | None = setting(None, "File with a value of `forget_column`, or a row number, on each line.")
    forget_fraction: float | None = setting(None, "Forget a random share, between 0 and 1, of the selected rows.")
    forget_seed: int = setting(0, "Seed of `forget_fraction`. Keep it secret: seed and data together name the rows.")
    drop_forgotten_words: bool = setting(
        False, "Take words that only rows to forget hold out of the tokenizer, and clear their embeddings."
    )
    retrain: int = setting(
        False,
        "Also train a model without the forget set, and compare with it. A number: train so many, each with another seed, and compare "
        "with their means, and with how far they are from each other.",
        group=REPORT,
        counts=True,
    )
    retrained_cache: str | None = setting(
        None,
        "Folder where runs share retrained models, so that the same training on the same rows is done once. None: "
        "`hf_unlearn/retrained` in the folder of HF_HOME. 'none': this run trains its own. Kept rows are learned in these models: empty "
        "the folder when such rows must be deleted.",
    )
    train_epochs: float | None = setting(
        None,
        "Epochs in which an original and the retrained model are trained. None: 10 for an original; for the retrained model those "
        "that the Trainer noted beside the original, or else 10, and more if it does not fit its rows as the original does.",
    )
    train_learning_rate: float | None = setting(
        None, "Learning rate of AdamW in these trainings. None: that noted beside the original, or else 0.001."
    )
    train_batch_size: int | None = setting(
        None,
        "Batch size in these trainings, over all processes together. None: that noted beside the original, or else 64.",
    )
    peft_config: str | None = setting(
        None,
        'Train only an adapter: lora, dora, ia3, or a PEFT configuration such as {"peft_type": "LORA", "r": 8}.',
        group=UPDATE,
    )
    bias_column: str | None = setting(
        None, "Column of the test split that shows a pattern to measure bias by.", group=REPORT
    )
    bias_labels: list[str] | None = setting(
        None, "Label that each value of `bias_column` points to, such as `present=3`."
    )
    relearning: bool = setting(False, "Count the training steps until a forgotten class is relearned.")
    resume: bool = setting(False, "Continue the run in `output_dir` that was interrupted.")
    figures: bool = setting(True, "Draw figures. This needs matplotlib.")

    def __post_init__(self) -> None:
        if isinstance(self.text_column, list | tuple):  # the command line always gives a list
            self.text_column = ",".join(self.text_column)
        check_counts(self, "train_rows", "test_rows", "train_batch_size")
        if not 0 <= self.retrain <= MOST_RETRAINED:
            raise ValueError(
                f"`retrain` must be true, false or a number of models, {MOST_RETRAINED} at most, got {self.retrain}."
            )
        check_positive(self, "train_epochs", "train_learning_rate")
        check_not_empty(self)
        self.model, self.dataset = os.path.expanduser(self.model), os.path.expanduser(self.dataset)
        if self.retrained_cache and os.path.isfile(os.path.expanduser(self.retrained_cache)):
            raise ValueError(f"`retrained_cache={self.retrained_cache!r}` is a file. Name a folder, or 'none'.")

    def request(self) -> ForgetRequest:
        """Return the request of the `forget_*` keys. Raises ValueError if they name nothing or do not go together."""
        if not self.forgets:
            raise ValueError(
                "Nothing is named to forget. Give `forget_class`, `forget_column` with `forget_values` or `forget_ids_file`, or "
                "`forget_fraction`."
            )
        with renamed(REQUEST):
            keys = {argument: getattr(self, key) for argument, key in REQUEST.items()}
            return ForgetRequest(**keys, label_column=self.label_column)

    def split(self, train: Any, seed: int) -> Split:
        """Split the training rows as `request` says; a stream is shuffled with `seed`. Errors name the `forget_*` keys."""
        request = self.request()
        with renamed(REQUEST):
            return split_stream(request, train, seed) if self.streaming else request.split(train)

    @property
    def from_scratch(self) -> bool:
        """True if the original is known to have started from random weights."""
        return self.base_model == "none" or self.model_config is not None

    @property
    def forgets(self) -> bool:
        """True if a `forget_*` key selects rows."""
        return any(getattr(self, key) is not None for argument, key in REQUEST.items() if argument != "seed")

    @property
    def kind(self) -> str:
        """`class` if the request names whole classes and nothing narrows it, else `samples`."""
        narrowed = (self.forget_column, self.forget_values, self.forget_ids_file, self.forget_fraction)
        return "class" if self.forget_class and all(n is None for n in narrowed) else "samples"
