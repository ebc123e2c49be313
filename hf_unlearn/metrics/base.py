"""What every metric shares: columns are kept in memory, checked by name, and handed to a plain function."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from hf_unlearn.metrics.functional.checked_arrays import same_length, to_numpy
from hf_unlearn.metrics.functional.information_audit import InformationAudit

CLASS = Value("int64")
VALUE = Value("string")  # of an attribute: text or number, kept as given
SET = Value("string")
LOGITS = Sequence(Value("float32"))
MEASURE = Value("float64")

# Every column that some metric reads: `evaluate.combine` passes each of them to all of its modules.
COLUMNS = ("predictions", "references", "attributes", "sets")


class UnlearningMetric(evaluate.Metric, ABC):
    """A metric whose rows never leave memory.

    `evaluate` writes the rows to a shared cache folder, by default and always in `evaluate.load`, where they stay if the
    process ends early; it also turns 0.7 into the class 0. So rows are held here instead.

    A subclass names its columns and implements `_compute`: parameters named like columns get them, and the others, with their
    defaults, are the options, which the constructor and `compute` accept. It stays abstract so that `evaluate.load`, which
    takes the first concrete class of a file, takes the subclass.
    """

    columns: ClassVar[dict[str, Any]]
    source: ClassVar[str]

    def __init__(self, config_name: str | None = None, num_process: int = 1, **kwargs: Any) -> None:
        if num_process != 1:
            raise ValueError(
                f"`num_process={num_process}`: rows of one process are not shared with others through files. Gather them first, "
                "as a Trainer does before `compute_metrics`, and compute in one process."
            )
        self._batches: list[dict[str, Any]] = []
        self._options = {k: kwargs.pop(k) for k in self._option_names() if k in kwargs}
        unknown = kwargs.keys() - inspect.signature(evaluate.EvaluationModule.__init__).parameters.keys()
        self._refuse(unknown)
        super().__init__(config_name=config_name, **{**kwargs, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        summary, _, inputs = (inspect.getdoc(type(self)) or "").partition("\n\n")
        return evaluate.MetricInfo(
            description=summary,
            inputs_description=inputs,
            citation=self.source,
            features=Features(self.columns),
        )

    @abstractmethod
    def _compute(self, *args: Any, **kwargs: Any) -> dict[str, float]: ...

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one sample; other columns by their own name."""
        row = {"predictions": prediction, "references": reference, **kwargs}
        optional = ("predictions", "references")  # what a metric does not read comes as None
        self.add_batch(**{name: [v] for name, v in row.items() if v is not None or name not in optional})

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add samples, as arrays, tensors or lists."""
        given = {"predictions": predictions, "references": references, **kwargs}
        self._refuse(given.keys() - set(COLUMNS))
        batch = {name: _kept(given[name], name) for name in self.columns if given.get(name) is not None}
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
        """Add the samples passed, compute over all that were added, and let go of them.

        Raises:
            ValueError: no sample, a column that is missing or of another length, an unknown option, bad values.
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


def _kept(column: Any, argument: str) -> Any:
    """A copy: a caller's buffer changes, and a tensor holds its graph and its device's memory. Lists stay lists."""
    return np.array(to_numpy(column, argument)) if hasattr(column, "tolist") else list(column)


def _joined(parts: list[Any]) -> Any:
    """One column of several batches. Lists stay lists: NumPy would turn [1, "a"] into text."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, list) for part in parts):
        return [value for part in parts for value in (part if isinstance(part, list) else part.tolist())]
    return np.concatenate(parts)


def flat_audit(found: InformationAudit, name: str = "information") -> dict[str, float]:
    """The figures of an audit as a metric gives them."""
    parts = ("low", "high", "null", "null_high", "normalised")
    return {name: found.value, **{f"{name}_{part}": getattr(found, part) for part in parts}}
