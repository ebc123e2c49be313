"""Shadow models: the same training on other rows, so that an attack knows what a row's score is with and without it.

Only outputs are kept, one file per model, named by all that determines it: a run that was killed goes on where it stopped. They
are outputs on single rows of the data: keep the folder as you keep the data.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from ..data.forget_request import ForgetRequest, Split
from ..data.pairs import PreparedRows
from ..data.sampling import DrawnRows
from ..metrics.functional.per_example_attacks import confidence_scores
from ..models.prediction import predict
from ..models.processor import Processor
from ..training.plain_training import train_classifier
from ..utils.files import written_atomically

CACHE_BYTES = 2**30  # of prepared rows, in each process


@dataclass(frozen=True, kw_only=True)
class ShadowTraining:
    """How a shadow is trained: by the library's ordinary training, on some rows of `dataset`.

    Args:
        model_init: makes the model to train, untrained weights drawn by torch's seeded generator, such as
            `functools.partial(AutoModelForImageClassification.from_config, config)`.
        dataset: a map-style, labelled data set: every row that outputs are wanted on, also those that no shadow is trained on.
        arguments: fields of `TrainingArguments`, plain values.
        processing_class, image_column, text_column, label_column: as in `UnlearningTrainer`.
    """

    model_init: Callable[[], nn.Module]
    dataset: datasets.Dataset
    arguments: Mapping[str, Any] = field(default_factory=dict)
    processing_class: Any | None = None
    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None

    def model(self, seed: int) -> nn.Module:
        """A fresh model, seeded. A copy: the Trainer writes into its configuration, which `model_init` may share."""
        torch.manual_seed(seed)
        return copy.deepcopy(self.model_init())

    def rows(self, model: nn.Module, cache_bytes: int = 0) -> PreparedRows:
        """The rows of `dataset` as inputs of `model`."""
        processor = Processor(
            model,
            self.processing_class,
            image_column=self.image_column,
            text_column=self.text_column,
            label_column=self.label_column,
        )
        return PreparedRows(self.dataset, processor, "dataset", cache_bytes)

    def fingerprint(self) -> tuple[str, np.ndarray]:
        """Digest of all that shadows have in common, from the prepared rows, initial weights and arguments; and labels (rows,).

        Raises:
            ValueError: no rows, or a row without a label.
        """
        model = self.model(0)
        digest = hashlib.blake2b(digest_size=16)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        digest.update(json.dumps([dict(self.arguments), versions], sort_keys=True, default=str).encode())
        config: Any = model.config
        digest.update(f"{type(model).__name__}{config.to_json_string()}".encode())
        for name, value in model.state_dict().items():
            digest.update(f"{name}{tuple(value.shape)}".encode() + _bytes(value))
        labels = []
        for row in self.rows(model):
            if "labels" not in row:
                raise ValueError("`dataset` has a row without a label: scores are of the true class. Leave it out.")
            labels.append(int(row["labels"]))
            for name, value in sorted(row.items()):
                digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() + _bytes(value))
        if not labels:
            raise ValueError("`dataset` is empty: there is nothing to train shadows on.")
        return digest.hexdigest(), np.asarray(labels)


Unlearn = Callable[["nn.Module", Split, int], "nn.Module"]
"""(model, split of its training rows, seed) -> the model unlearned."""


@dataclass(frozen=True)
class Shadows:
    """Outputs of trained models on all rows.

    Attributes:
        files: one per model, safetensors with `logits` (rows, classes) fp32.
        members: (models, rows), whether the model was trained on the row (and may have unlearned it since).
        labels: (rows,) class ids.
    """

    files: tuple[Path, ...]
    members: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def logits(self, index: int) -> np.ndarray:
        """Logits (rows, classes) of one model."""
        return load_file(self.files[index])["logits"]

    def scores(self, rows: Any = slice(None)) -> np.ndarray:
        """`confidence_scores` (models, rows) fp32 on some rows, or on all; read model by model."""
        labels = self.labels[rows]
        return np.stack([confidence_scores(self.logits(i)[rows], labels) for i in range(len(self))])


def half_splits(rows: int, models: int, seed: int = 0, never: int = 0) -> np.ndarray:
    """Training rows of shadow models, (models, rows + never) booleans: random halves in pairs, each row in exactly half of them.

    The second of a pair is trained on what the first was not. `never` rows follow that no model is trained on, such as a test
    set behind the training rows, the population of `rmia`.

    Raises:
        ValueError: an odd number of models, or fewer than two rows.
    """
    if models < 2 or models % 2:
        raise ValueError(f"`models={models}` must be even and 2 or more: each row is in exactly half of the models.")
    if rows < 2:
        raise ValueError(f"`rows={rows}` cannot be halved. Give the number of rows to train on.")
    out = np.zeros((models, rows + never), bool)
    for first in range(0, models, 2):
        half = np.random.default_rng((seed, first)).permutation(rows)[: rows // 2]
        out[first, half] = True
        out[first + 1, :rows] = ~out[first, :rows]
    return out


def attackers(index: int, models: int) -> np.ndarray:
    """Which of the models of `half_splits` may attack model `index`, (models,) booleans: all but it and the other of its pair.

    With the other, a row would be in one shadow fewer where the attacked model was trained on it: the design would tell.
    """
    return np.arange(models) // 2 != index // 2


def train_shadows(
    training: ShadowTraining,
    members: np.ndarray,
    folder: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Shadows:
    """Train one model on each row set of `members`, or take its outputs from `folder` where they already are.

    Results depend on neither the workers nor what was there before. Each worker is a process of one thread; with one worker
    the models are trained in this process, whose random generators are seeded.

    Args:
        members: (models, rows of `training.dataset`) booleans: `half_splits`.
        seed: model i is initialised and trained with a seed drawn from (seed, i).
        workers: processes at a time; one per core is best.
        progress: show a bar with the time left.

    Raises:
        ValueError: `members` does not fit the data set, or a model has no rows.
        FloatingPointError: a model's outputs are NaN or infinite.
    """
    common, labels = training.fingerprint()
    members = _check_members(members, len(labels))
    jobs = [_Job(np.flatnonzero(row), _seed(seed, 0, i)) for i, row in enumerate(members)]
    files = _run_all(training, common, jobs, Path(folder), workers, progress)
    return Shadows(files, members, labels)


def unlearn_shadows(
    training: ShadowTraining,
    forget: Sequence[int] | np.ndarray,
    unlearn: Unlearn,
    name: str,
    folder: str | Path,
    *,
    models: int = 16,
    never: int = 0,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> tuple[Shadows, Shadows]:
    """What `u_lira` compares: (unlearned, retrained), `models` of each, both of pair i from the same half of the kept rows.

    The retrained model never sees `forget`; the other is trained with it and then unlearns it. Retrained models are shared by
    all methods that unlearn the same rows.

    Args:
        forget: row numbers of the forget set in `training.dataset`.
        unlearn: function of (model, `Split` of its training rows, seed) that returns the unlearned model, such as a run of
            `UnlearningTrainer`. It may be a closure.
        name: what the folder knows `unlearn` by: change it whenever what `unlearn` does changes.
        never: how many of the last rows are in no model's training.
        seed, workers, progress: as in `train_shadows`.

    Raises:
        ValueError: `forget` is empty or outside the rows to train on, or `models` is odd; and as `train_shadows`.
    """
    common, labels = training.fingerprint()
    trainable = len(labels) - never
    chosen = np.unique(np.asarray(forget, dtype=np.int64))
    if not len(chosen) or len(chosen) != len(forget) or chosen[0] < 0 or chosen[-1] >= trainable:
        raise ValueError(
            f"`forget` must name rows of 0..{trainable - 1}, each once, got {len(forget)}. Take `Split.forget_indices`."
        )
    if not name:
        raise ValueError("`name` is empty: the outputs of two methods would be taken for one another. Name the method.")
    kept = np.setdiff1d(np.arange(trainable), chosen)
    without = np.zeros((models, len(labels)), bool)
    without[:, kept] = half_splits(len(kept), models, seed)
    trained = without.copy()
    trained[:, chosen] = True
    jobs = [_Job(np.flatnonzero(row), _seed(seed, 0, i)) for i, row in enumerate(without)]
    jobs += [_Job(np.flatnonzero(row), _seed(seed, 1, i), chosen, unlearn, name) for i, row in enumerate(trained)]
    files = _run_all(training, common, jobs, Path(folder), workers, progress)
    return Shadows(files[models:], trained, labels), Shadows(files[:models], without, labels)


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One model to make: its training rows, and what it unlearns."""

    rows: np.ndarray
    seed: int
    forget: np.ndarray | None = None
    unlearn: Unlearn | None = None
    name: str = ""

    def digest(self, common: str) -> str:
        forget = b"" if self.forget is None else self.forget.tobytes()
        parts = (common.encode(), self.rows.tobytes(), forget, f"{self.seed}:{self.name}".encode())
        return hashlib.blake2b(b"".join(len(p).to_bytes(8, "little") + p for p in parts), digest_size=16).hexdigest()


def _run_all(
    training: ShadowTraining, common: str, jobs: list[_Job], folder: Path, workers: int, progress: bool
) -> tuple[Path, ...]:
    """The output files of all jobs, in order; those that are missing are made."""
    if workers < 1:
        raise ValueError(f"`workers={workers}` must be 1 or more. One per core is best.")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{job.digest(common)}.safetensors" for job in jobs]
    missing = [(job, file) for job, file in zip(jobs, files, strict=True) if not _whole(file)]
    workers = min(workers, max(1, len(missing)))
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="Shadow models", disable=not progress)
    with bar, parallel_config("loky" if workers > 1 else "sequential", n_jobs=workers):
        try:
            for _ in Parallel(return_as="generator_unordered")(delayed(_make)(training, *m) for m in missing):
                bar.update()
        finally:
            if workers > 1:
                _release()
    return tuple(files)


def _whole(file: Path) -> bool:
    """Whether `file` is there, and all of it: a machine that lost power can leave a renamed file without its content."""
    try:
        with safe_open(file, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _release() -> None:
    """End the worker processes, which would keep their memory for five minutes."""
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _make(training: ShadowTraining, job: _Job, file: Path) -> None:
    """Train, unlearn if asked to, and write the outputs on all rows, which appear whole or not at all."""
    with _one_thread():
        model = training.model(job.seed)
        rows = training.rows(model, CACHE_BYTES)
        ready = Processor(model, training.processing_class)  # of rows that are prepared already
        arguments = {"disable_tqdm": True, **training.arguments, "seed": job.seed}
        # Where its bar is off, the Trainer prints its last log entry.
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            train_classifier(model, DrawnRows(rows, job.rows), ready, arguments, scratch)
        if job.unlearn is not None and job.forget is not None:
            request = ForgetRequest(indices=np.flatnonzero(np.isin(job.rows, job.forget)).tolist())
            model = job.unlearn(model.eval(), request.split(training.dataset.select(job.rows)), job.seed)
        logits = predict(model, rows, ready)[0].numpy()
    if not np.isfinite(logits).all():
        raise FloatingPointError("a shadow model's outputs are NaN or infinite: lower `learning_rate` in `arguments`.")
    with written_atomically(file) as partial:
        save_file({"logits": np.ascontiguousarray(logits)}, partial)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As many threads in every process as workers would have: sums, and so results, depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed(seed: int, kind: int, index: int) -> int:
    return int(np.random.default_rng((seed, kind, index)).integers(2**31))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _check_members(members: Any, rows: int) -> np.ndarray:
    found = np.asarray(members)
    if found.dtype != bool or found.ndim != 2 or found.shape[1] != rows:
        raise ValueError(
            f"`members` must be booleans of shape (models, {rows}), the rows of `dataset`; got {found.dtype} of shape "
            f"{found.shape}. `half_splits` makes them."
        )
    if not found.any(1).all():
        raise ValueError("`members` has a model without rows to train on. Give every model some.")
    return found
