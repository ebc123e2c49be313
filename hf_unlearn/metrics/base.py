"""What every metric shares: rows are kept in memory, checked by name, and handed to a plain function."""

import inspect
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, NamedTuple, get_origin, get_type_hints

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from hf_unlearn.metrics.functional.checked_arrays import same_length, to_numpy
from hf_unlearn.metrics.functional.information_audit import InformationAudit


class Column(NamedTuple):
    """A kind of column: the type that `evaluate` shows, and what the column holds."""

    feature: Any
    meaning: str


CLASS, TEXT, VECTOR, NUMBER = Value("int64"), Value("string"), Sequence(Value("float32")), Value("float64")
Predicted = Annotated[Any, Column(CLASS, "The class ids (n,) that the model predicts, whole numbers from 0.")]
TrueClasses = Annotated[Any, Column(CLASS, "The true class ids (n,), whole numbers from 0.")]
Attributes = Annotated[Any, Column(TEXT, "The attribute's value (n,) of each sample: text, numbers or booleans.")]
Sets = Annotated[Any, Column(TEXT, "The name (n,) of each sample's set: 'forget', 'retain' or 'test'.")]
Logits = Annotated[Any, Column(VECTOR, "The model's logits (n, classes). Log-probabilities give the same result.")]
RetrainedLogits = Annotated[Any, Column(VECTOR, "The retrained model's logits (n, classes) on the same samples.")]
UntrainedLogits = Annotated[Any, Column(VECTOR, "An untrained model's logits (n, classes) on the same samples.")]
Measures = Annotated[Any, Column(NUMBER, "The values (k,) of several measures, in one unit.")]
RetrainedMeasures = Annotated[Any, Column(NUMBER, "The retrained model's values (k,) of the same measures, in order.")]

TO_TARGET = "The target is the value of the retrained model. The distance to that value counts in both directions."
IS_DISTANCE = (
    "The value already compares the model with the retrained one. Two retrained models differ too: the value for two of "
    "them is the best that can be expected."
)

# Every column that some metric reads: `evaluate.combine` passes each of them to all of its modules.
COLUMNS = ("predictions", "references", "attributes", "sets")


class UnlearningMetric(evaluate.Metric, ABC):
    """A metric whose rows never leave memory.

    `evaluate` writes the rows to a shared cache folder, by default and always in `evaluate.load`, where they stay if
    the process ends early. It also turns 0.7 into the class 0. So this class keeps the rows itself.

    A subclass implements `_compute`. Parameters of a type above, such as `Logits`, are columns; the others, with their
    defaults, are the options, which the constructor and `compute` accept. The docstring of a subclass says what is
    particular to it, and this class adds what is the same for many. This class stays abstract, because `evaluate.load`
    takes the first concrete class of a file.

    Attributes:
        columns: The columns that the metric reads, by name.
        reading: How to read the value.
        source: The paper or book that defines the metric.
    """

    columns: ClassVar[dict[str, Column]]
    reading: ClassVar[str] = TO_TARGET
    source: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kinds = get_type_hints(cls._compute, include_extras=True)
        cls.columns = {name: kind.__metadata__[0] for name, kind in kinds.items() if get_origin(kind) is Annotated}
        if "_compute" in vars(cls) and not cls.columns:
            raise TypeError(
                f"`{cls.__name__}._compute` names no column. Annotate one or more of its parameters with a type of "
                "`hf_unlearn.metrics.base`, such as `predictions: Predicted`."
            )
        if cls.__doc__:
            summary, _, details = inspect.cleandoc(cls.__doc__).partition("\n\n")
            columns = "".join(f"    {name}: {column.meaning}\n" for name, column in cls.columns.items())
            cls.__doc__ = (
                f"{summary}\n\nColumns:\n{columns}\n{details}\n\nReading: {cls.reading}\n"
                "Raises ValueError if a column is missing, empty or invalid, differs in length from another, or lacks the\n"
                "samples that the metric compares, or if an option is unknown or invalid.\n"
                + (f"Source: {cls.source}\n" if hasattr(cls, "source") else "")
            )

    def __init__(self, config_name: str | None = None, num_process: int = 1, **kwargs: Any) -> None:
        if num_process != 1:
            raise ValueError(
                f"`num_process={num_process}`: rows of one process are not shared with others through files. Gather them first, "
                "as a Trainer does before `compute_metrics`, and compute in one process."
            )
        self._batches: list[dict[str, Any]] = []
        self._options = {k: kwargs.pop(k) for k in self._option_names() if k in kwargs}
        self._refuse(kwargs.keys() - inspect.signature(evaluate.EvaluationModule.__init__).parameters.keys())
        super().__init__(config_name=config_name, **{**kwargs, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        summary, _, details = (inspect.getdoc(type(self)) or "").partition("\n\n")
        return evaluate.MetricInfo(
            description=summary,
            inputs_description=details,
            citation=self.source,
            features=Features({name: column.feature for name, column in self.columns.items()}),
        )

    @abstractmethod
    def _compute(self, *args: Any, **kwargs: Any) -> dict[str, float]: ...

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one sample. Columns other than `predictions` and `references` go by their own name."""
        row = {"predictions": prediction, "references": reference, **kwargs}
        optional = ("predictions", "references")  # None where a metric does not read them
        self.add_batch(**{name: [v] for name, v in row.items() if v is not None or name not in optional})

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add samples, as arrays, tensors or lists."""
        given = {"predictions": predictions, "references": references, **kwargs}
        self._refuse(given.keys() - set(COLUMNS))
        batch = {name: _copied(given[name], name) for name in self.columns if given.get(name) is not None}
        parameters = inspect.signature(self._compute).parameters
        missing = [n for n in self.columns if n not in batch and parameters[n].default is inspect.Parameter.empty]
        if missing:
            raise ValueError(
                f"`{missing[0]}` is missing: {self.name} reads {', '.join(f'`{c}`' for c in self.columns)}."
            )
        same_length(**batch)
        if self._batches and self._batches[0].keys() != batch.keys():
            raise ValueError(
                f"This batch holds `{'`, `'.join(batch)}`, the ones before `{'`, `'.join(self._batches[0])}`. Pass the same "
                "columns each time."
            )
        self._batches.append(batch)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        """Add the samples passed, compute over all samples added, and forget them.

        Raises:
            ValueError: A column is missing, empty, invalid or of another length, or an option is unknown or invalid.
        """
        try:
            self._refuse(kwargs.keys() - set(COLUMNS) - set(self._option_names()))
            given = {"predictions": predictions, "references": references}
            given |= {name: kwargs.pop(name) for name in COLUMNS if name in kwargs}
            if not self._batches or any(given.get(name) is not None for name in self.columns):
                self.add_batch(**given)
            columns = {name: _joined([b[name] for b in self._batches]) for name in self._batches[0]}
            return self._compute(**columns, **{**self._options, **kwargs})
        finally:
            self._batches.clear()

    def __len__(self) -> int:
        return sum(len(next(iter(batch.values()))) for batch in self._batches)

    def _option_names(self) -> list[str]:
        return [name for name in inspect.signature(self._compute).parameters if name not in self.columns]

    def _refuse(self, unknown: set[str]) -> None:
        if unknown:
            raise ValueError(
                f"`{sorted(unknown)[0]}` is nothing that {type(self).__name__} reads. Its columns are "
                f"{', '.join(f'`{c}`' for c in self.columns)}; its options "
                f"{', '.join(f'`{o}`' for o in self._option_names()) or 'none'} (with `evaluate.combine`: of its constructor)."
            )


def _copied(column: Any, argument: str) -> Any:
    """Copy a column: a caller may reuse a buffer, and a tensor keeps its graph and its device's memory alive."""
    return np.array(to_numpy(column, argument)) if hasattr(column, "tolist") else list(column)


def _joined(parts: list[Any]) -> Any:
    """Join one column of several batches. Lists stay lists, because NumPy would turn [1, "a"] into text."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, list) for part in parts):
        return [value for part in parts for value in (part if isinstance(part, list) else part.tolist())]
    return np.concatenate(parts)


def flat_audit(found: InformationAudit, name: str = "information") -> dict[str, float]:
    """Return the figures of an audit as a metric gives them."""
    parts = ("low", "high", "null", "null_high", "normalised")
    return {name: found.value, **{f"{name}_{part}": getattr(found, part) for part in parts}}
