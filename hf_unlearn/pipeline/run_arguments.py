"""`RunArguments`: what a recipe or the command line says of a run, beside the arguments of unlearning and of the method."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.forget_request import ForgetRequest
from ..utils.argument_checks import check_counts, check_not_empty, check_positive


@dataclass
class RunArguments:
    """What to unlearn from what: the keys of a recipe, beside those of `UnlearningArguments` and of the method."""

    model: str = field(
        metadata={"help": "Folder or Hub id (`id@revision`) of the classifier: the original, never overwritten."}
    )
    dataset: str = field(
        metadata={"help": "Folder or Hub id (`id@revision`) of the data set it learned, or 'digits' (scikit-learn's)."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "A config.json: train an original with it and save it as `model`, where that folder is missing."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Name of the data set's configuration."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the data set."})
    train_split: str = field(default="train", metadata={"help": "Split that the model was trained on."})
    test_split: str | None = field(default="test", metadata={"help": "Split to measure on; 'none' for none."})
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Held-out split that a method's stop may read; 'none' for none. By default a fifth of the test split, which "
            "is then not measured on, where the method reads one."
        },
    )
    train_rows: int | None = field(
        default=None, metadata={"help": "Rows of the training split to use, drawn by seed 0."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split as a stream that is never stored, from a Hub or a disk; rows to forget and to measure on "
            "are held in memory."
        },
    )
    test_rows: int | None = field(default=None, metadata={"help": "Rows of the test split to use, drawn by seed 0."})
    image_column: str | None = field(default=None, metadata={"help": "Image column, if not `image` or `img`."})
    text_column: str | None = field(
        default=None, metadata={"help": "Text column, if not `text`, `sentence`, `content`."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of class ids."})
    forget_class: list[str] | None = field(
        default=None, metadata={"help": "Classes to forget, by name or id (`name:3`, `id:3` where 3 is both)."}
    )
    forget_column: str | None = field(
        default=None, metadata={"help": "Column whose `forget_values` select rows, such as a user id."}
    )
    forget_values: list[str] | None = field(default=None, metadata={"help": "Values of `forget_column` to forget."})
    forget_ids_file: str | None = field(
        default=None, metadata={"help": "File of values of `forget_column` (or of row numbers), one per line."}
    )
    forget_fraction: float | None = field(
        default=None, metadata={"help": "Share of the (selected) rows to forget, drawn at random."}
    )
    forget_seed: int = field(
        default=0, metadata={"help": "Seed of that draw: whoever has the data and the seed knows the rows."}
    )
    retrain: bool = field(default=False, metadata={"help": "Also train a model without the forget set, the yardstick."})
    train_epochs: float = field(default=10.0, metadata={"help": "Epochs of original (`model_config`) and retraining."})
    train_learning_rate: float = field(default=1e-3, metadata={"help": "AdamW learning rate of both."})
    train_batch_size: int = field(default=64, metadata={"help": "Batch size of both, over all processes."})
    peft_config: str | None = field(
        default=None,
        metadata={
            "help": "Restrict the update to an adapter, a reversible patch: lora, dora, ia3, or fields of a PEFT configuration as a "
            'mapping, {"peft_type": "LORA", "r": 8}.'
        },
    )
    bias_column: str | None = field(default=None, metadata={"help": "Column of the test split to measure bias by."})
    bias_labels: list[str] | None = field(
        default=None, metadata={"help": "The labels its values point to: 'present=3', in a recipe {present: 3}."}
    )
    relearning: bool = field(default=False, metadata={"help": "Count the steps until a forgotten class is relearned."})
    resume: bool = field(default=False, metadata={"help": "Go on where a run in `output_dir` was cut off."})
    figures: bool = field(default=True, metadata={"help": "Draw figures (needs matplotlib)."})

    def __post_init__(self) -> None:
        check_counts(self, "train_rows", "test_rows", "train_batch_size")
        check_positive(self, "train_epochs", "train_learning_rate")
        check_not_empty(self)

    def request(self) -> ForgetRequest:
        """The `ForgetRequest` of the `forget_*` keys."""
        return ForgetRequest(
            label=self.forget_class,
            column=self.forget_column,
            values=self.forget_values,
            ids_file=self.forget_ids_file,
            fraction=self.forget_fraction,
            seed=self.forget_seed,
            label_column=self.label_column,
        )

    @property
    def kind(self) -> str:
        """`class` where whole classes are named and nothing narrows the request, else `samples`."""
        narrowed = (self.forget_column, self.forget_values, self.forget_ids_file, self.forget_fraction)
        return "class" if self.forget_class and all(n is None for n in narrowed) else "samples"
