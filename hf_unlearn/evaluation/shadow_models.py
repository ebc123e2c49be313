"""Shadow models: the same training on other rows, which shows an attack a row's score with and without training on it.

Only outputs are kept, one file per model, named by all that determines it: a killed run continues where it stopped.
They are outputs on single rows of the data: protect the folder as you protect the data.
"""

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
from ..models.snapshot import raw_bytes
from ..training.plain_training import train_classifier
from ..utils.files import written_atomically

CACHE_BYTES = 2**30  # of prepared rows, in each process

Unlearn = Callable[[nn.Module, Split, int], nn.Module]
"""(model, split of its training rows, seed) -> the unlearned model."""


@dataclass(frozen=True, kw_only=True)
class ShadowTraining:
    """How shadow models are trained: by the library's ordinary training, on some rows of `dataset`.

    Args:
        model_init: makes the model to train. Torch's seeded generator draws its weights, as in
            `functools.partial(AutoModelForImageClassification.from_config, config)`.
        dataset: a labelled data set, not a stream, with every row that outputs are wanted on, trained on or not.
        arguments: fields of `TrainingArguments`, plain values; default none.
        processing_class, image_column, text_column, label_column: as in `UnlearningTrainer`; default None.
    """

    model_init: Callable[[], nn.Module]
    dataset: datasets.Dataset
    arguments: Mapping[str, Any] = field(default_factory=dict)
    processing_class: Any | None = None
    image_column: str | None = None
    text_column: str | Sequence[str] | None = None
    label_column: str | None = None

    def model(self, seed: int) -> nn.Module:
        """Return a seeded model. It is a copy, because the Trainer writes into a configuration that may be shared."""
        torch.manual_seed(seed)
        return copy.deepcopy(self.model_init())

    def rows(self, model: nn.Module, cache_bytes: int = 0) -> PreparedRows:
        """Return the rows of `dataset` as inputs of `model`, of which `cache_bytes` (default 0) are kept in memory."""
        columns = {name: getattr(self, name) for name in ("image_column", "text_column", "label_column")}
        return PreparedRows(self.dataset, Processor(model, self.processing_class, **columns), "dataset", cache_bytes)

    def fingerprint(self) -> tuple[str, np.ndarray]:
        """Return a digest of what all models have in common (prepared rows, weights, arguments), and labels (rows,).

        Raises:
            ValueError: there are no rows, or a row has no label.
        """
        model = self.model(0)
        config: Any = model.config
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([dict(self.arguments), versions], sort_keys=True, default=str).encode())
        digest.update(f"{type(model).__name__}{config.to_json_string()}".encode())
        for name, value in model.state_dict().items():
            digest.update(f"{name}{tuple(value.shape)}".encode() + raw_bytes(value))
        labels = []
        for row in self.rows(model):
            if "labels" not in row:
                raise ValueError("`dataset` has a row without a label: scores are of the true class. Leave it out.")
            labels.append(int(row["labels"]))
            for name, value in sorted(row.items()):
                digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() + raw_bytes(value))
        if not labels:
            raise ValueError("`dataset` is empty: there is nothing to train shadow models on.")
        return digest.hexdigest(), np.asarray(labels)


@dataclass(frozen=True)
class Shadows:
    """Outputs of trained models on all rows.

    Attributes:
        files: one safetensors file per model, with `logits` (rows, classes) in fp32.
        members: (models, rows), whether the model was trained on the row (it may have unlearned it since).
        labels: (rows,) class ids.
    """

    files: tuple[Path, ...]
    members: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def logits(self, index: int) -> np.ndarray:
        """Return the logits (rows, classes) of one model."""
        return load_file(self.files[index])["logits"]

    def scores(self, rows: Any = slice(None)) -> np.ndarray:
        """Return `confidence_scores` (models, rows) in fp32 on some rows, by default on all."""
        labels = self.labels[rows]
        return np.stack([confidence_scores(self.logits(i)[rows], labels) for i in range(len(self))])


def half_splits(rows: int, models: int, seed: int = 0, never: int = 0) -> np.ndarray:
    """Draw the training rows of shadow models: random halves in pairs, so that each row is in half of the models.

    The second model of a pair is trained on the rows that the first was not trained on.

    Args:
        rows: number of rows to train on.
        models: number of models, even.
        seed: seed of the draw; default 0.
        never: number of rows behind them that no model is trained on, such as the population of `rmia`; default 0.

    Returns:
        Booleans (models, rows + never).

    Raises:
        ValueError: the number of models is odd, or there are fewer than two rows.
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
    """Return (models,) booleans: which models of `half_splits` may attack model `index`, namely those of other pairs.

    Its partner would give membership away: a row that `index` was trained on would be in one shadow model fewer.
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

    Results depend neither on the number of workers nor on what was in the folder. A worker is a process of one thread.
    A single worker trains in this process, whose random generators are seeded.

    Args:
        training: how the models are trained.
        members: (models, rows of `training.dataset`) booleans, as `half_splits` makes them.
        folder: where the outputs are kept.
        seed: model i is initialized and trained with a seed drawn from (seed, i); default 0.
        workers: number of processes at a time, best one per core; default 1.
        progress: show a bar with the time left; default True.

    Raises:
        ValueError: `members` does not fit the data set, or a model has no rows.
        FloatingPointError: a model's outputs are NaN or infinite.
    """
    common, labels = training.fingerprint()
    members = np.asarray(members)
    if members.dtype != bool or members.ndim != 2 or members.shape[1] != len(labels):
        raise ValueError(
            f"`members` must be booleans of shape (models, {len(labels)}), the rows of `dataset`; got {members.dtype} of "
            f"shape {members.shape}. `half_splits` makes them."
        )
    if not members.any(1).all():
        raise ValueError("`members` has a model without rows to train on. Give every model some.")
    jobs = [_Job(np.flatnonzero(row), _seed(seed, 0, i)) for i, row in enumerate(members)]
    return Shadows(_run_all(training, common, jobs, Path(folder), workers, progress), members, labels)


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
    """Make what `u_lira` compares: (unlearned, retrained) models, both of pair i from the same half of the kept rows.

    The retrained model never sees `forget`; the other one is trained with these rows and then unlearns them. All methods
    that unlearn the same rows share the retrained models.

    Args:
        training: how the models are trained.
        forget: row numbers of the forget set in `training.dataset`.
        unlearn: function of (model, `Split` of its training rows, seed) that returns the unlearned model, such as a run
            of `UnlearningTrainer`. It may be a closure.
        name: identifies `unlearn` in the folder: change it whenever what `unlearn` does changes.
        folder: where the outputs are kept.
        models: number of models of each kind, even; default 16.
        never: how many of the last rows no model is trained on; default 0.
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
        raise ValueError("`name` is empty: the outputs of two methods could not be told apart. Name the method.")
    kept = np.setdiff1d(np.arange(trainable), chosen)
    without = np.zeros((models, len(labels)), bool)
    without[:, kept] = half_splits(len(kept), models, seed)
    trained = without.copy()
    trained[:, chosen] = True
    jobs = [_Job(np.flatnonzero(row), _seed(seed, 0, i)) for i, row in enumerate(without)]
    jobs += [_Job(np.flatnonzero(row), _seed(seed, 1, i), chosen, unlearn, name) for i, row in enumerate(trained)]
    files = _run_all(training, common, jobs, Path(folder), workers, progress)
    return Shadows(files[models:], trained, labels), Shadows(files[:models], without, labels)


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
    """Run the jobs whose output files are missing, and return the files of all jobs in order."""
    if workers < 1:
        raise ValueError(f"`workers={workers}` must be 1 or more. One per core is best.")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{job.digest(common)}.safetensors" for job in jobs]
    missing = [(job, file) for job, file in zip(jobs, files, strict=True) if not _is_whole(file)]
    workers = min(workers, max(1, len(missing)))
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="Shadow models", disable=not progress)
    with bar, parallel_config("loky" if workers > 1 else "sequential", n_jobs=workers):
        try:
            for _ in Parallel(return_as="generator_unordered")(delayed(_make)(training, *m) for m in missing):
                bar.update()
        finally:
            if workers > 1:  # the processes would keep their memory for five minutes
                get_reusable_executor().shutdown(wait=True, kill_workers=True)
    return tuple(files)


def _is_whole(file: Path) -> bool:
    """Whether all of `file` is there: a machine that lost power can leave a renamed file without its content."""
    try:
        with safe_open(file, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _make(training: ShadowTraining, job: _Job, file: Path) -> None:
    """Train, unlearn if asked to, and write the outputs on all rows, which appear whole or not at all."""
    with _one_thread():
        model = training.model(job.seed)
        rows = training.rows(model, CACHE_BYTES)
        ready = Processor(model, training.processing_class)  # for rows that are prepared already
        arguments = {"disable_tqdm": True, **training.arguments, "seed": job.seed}
        # Without its bar, the Trainer prints its last log entry.
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
    """Inside, torch uses one thread, as workers do: sums, and so results, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed(seed: int, kind: int, index: int) -> int:
    return int(np.random.default_rng((seed, kind, index)).integers(2**31))
