"""The audit of a model that any tool made: has it forgotten as a model retrained without the forget set would?

`Auditor` runs every model once over every set. `Auditor.audit` compares what they gave, and returns an `Audit`: a verdict in
words, with its evidence line by line. The null hypothesis is that the model still remembers. It is rejected only if every
line of evidence speaks against it.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ...data.pairs import PreparedRows
from ...data.sampling import DrawnRows
from ...models.processor import Processor
from ...models.snapshot import weights_digest
from .audit import Audit
from .checks import check_models, check_sets, draw_sets, find_classes, same_shares
from .cost import AuditCost
from .evidence import Evidence, compare, settle
from .evidence_lines import Figures
from .measured_cache import MeasuredCache
from .model_outputs import (
    Measured,
    Outputs,
    adapter_layers,
    adapters_off,
    hide_classes,
    quantized,
    run_model,
    unsteady_share,
)
from .networks import distance_share, network_difference, sampled_weights, unchanged_share
from .per_example import FEWEST, PerExample, attack_rows, too_few
from .processing import prepares_differently
from .relearning_curves import relearning_curves, relearning_rate
from .verdicts import SAME, SPECS, UNCHANGED, VOID, decide, describe, limits
from .yardsticks import Yardsticks

logger = logging.getLogger(__name__)

UNSTEADY = 0.02  # share of rows with answers that depend on other rows, which a model may have by rounding


def audit_models(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: Sequence[nn.Module] = (),
    *,
    alpha: float = 0.05,
    per_example: bool = False,
    **settings: Any,
) -> Audit:
    """Audit `unlearned` against the original and against models retrained without the forget set.

    Args:
        original: the model that learned everything.
        unlearned: the model to judge.
        retrained: models trained anew without the forget set, each with another seed. Three or more are best. By default
            there are none; then nothing can be found indistinguishable from retraining.
        alpha: level of every equivalence test, and of all reasons for rejection together. Default: 0.05.
        per_example: True to attack every forget row by itself (`Audit.per_example`), which needs two retrained models or more.
            Default: False.
        settings: `forget`, `test` and the other arguments of `Auditor`.

    Raises:
        ValueError: as `Auditor` and `Auditor.audit`, or `per_example` has too few retrained models.

    Example:
        ```python
        audit = audit_models(original, unlearned, [retrained], forget=forget, test=test, processing_class=processor)
        print(audit.verdict)
        ```
    """
    if per_example and len(retrained) < FEWEST:
        raise ValueError(too_few(len(retrained)))
    models = {"unlearned": unlearned, **{f"retrained[{i}]": m for i, m in enumerate(retrained)}}
    auditor = Auditor(original, others=models, **settings)
    named = tqdm(models.items(), "models", unit="model", disable=None)  # shown to people, with the time left
    judged, *known = [auditor.measure(model, name) for name, model in named]
    audit = auditor.audit(judged, known, alpha=alpha, per_example=per_example)
    if (how := auditor.prepared_differently.get("unlearned")) is None:
        return audit
    as_published = auditor.measure(unlearned, "unlearned", as_published=True)
    published = auditor.audit(as_published, known, alpha=alpha, per_example=per_example)
    chosen = audit if published.accepted else published
    chosen.limits.insert(
        0,
        f"`unlearned` prepares rows otherwise than `original`: {how}. As published its verdict is *{published.verdict}*, with the "
        f"original's way of preparing rows *{audit.verdict}*. The lines are those of *{chosen.verdict}*.",
    )
    return chosen


class Auditor:
    """Measures models on one request to forget, and compares them.

    The constructor checks the sets and the models in `others`, and then runs the original. A model that is first given to
    `measure` is not checked against the original.

    Args:
        original: the model that learned everything.
        forget: labeled training rows that were to be forgotten.
        test: labeled rows that no model was trained on. If whole classes were forgotten, also rows of these classes.
        retain: labeled training rows that were kept. Default: None, and kept data is judged on test rows alone.
        others: name -> model that will be measured later, checked here before any model runs. The distance of those that are
            called `retrained` scales the rate of relearning. Default: None.
        processing_class: image processor or tokenizer of the original. Default: None, for rows that are prepared already.
        own_processing: name -> image processor or tokenizer that one of `others` is published with. Default: None, for
            models that read rows as the original does.
        image_column, text_column, label_column: names of the columns. Default: None, and `Processor` finds them.
        kind: `class` if whole classes were forgotten, `samples` if single rows were. Default: `auto`, which takes whole
            classes if no class of the forget set is in the retain set, or, without a retain set, if the forget set has one
            class only.
        max_rows: most rows of each set that are used; they are drawn by `audit_seed`. Default: 10,000.
        batch_size: rows in one forward pass. Default: 128.
        audit_seed: seed of all draws. Default: None, a new one for each auditor, so that nobody can prepare a model for the
            rows that are drawn. `Audit.run` records it.
        allow_other_network: True if a model of another architecture or size than the original may be found
            indistinguishable from retraining. Default: False.
        audit_cache: folder that keeps what is measured of the original and of retrained models, so that another candidate costs
            one measurement. Features of the rows lie in it: delete it with them. It also keeps the seed of the draws, which
            `audit.json` tells: leave the folder out where somebody could prepare a model for it. Default: None, nothing is kept.
        budget: most seconds that measuring the original and `others` may take, by an estimate. Fewer rows are read to keep to it.
            Default: None, no limit.
        tell: called with a sentence that says how long it will take, before a model is measured. Default: the logger.

    Attributes:
        prepared_differently: name -> how a model's own way of preparing rows differs from the original's, if it does.
        relearning_rate: Adam's rate when forgotten classes are taught again.

    Raises:
        ValueError: a set is empty, lacks labels, or overlaps with another, a model has another head or other inputs than
            the original, a retrained model prepares rows otherwise, or the budget is too small.
    """

    def __init__(
        self,
        original: nn.Module,
        *,
        forget: Any,
        test: Any,
        retain: Any | None = None,
        others: Mapping[str, nn.Module] | None = None,
        processing_class: Any | None = None,
        own_processing: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        kind: str = "auto",
        max_rows: int = 10_000,
        batch_size: int = 128,
        audit_seed: int | None = None,
        allow_other_network: bool = False,
        audit_cache: str | Path | None = None,
        budget: float | None = None,
        tell: Callable[[str], object] = logger.info,
    ) -> None:
        columns: dict[str, Any] = {
            "image_column": image_column,
            "text_column": text_column,
            "label_column": label_column,
        }
        self.processor = Processor(original, processing_class, **columns)
        self.original_model, self.batch_size, self.allow_other_network = original, batch_size, allow_other_network
        others = others or {}
        check_models(original, others)
        self._cache = None if audit_cache is None else MeasuredCache(audit_cache, original)
        drawn = secrets.randbits(32) if self._cache is None else self._cache.seed
        self.audit_seed = drawn if audit_seed is None else audit_seed
        given = check_sets(
            {"forget": forget, "test": test, **({} if retain is None else {"retain": retain})}, self.processor
        )
        self._draw(given, max_rows, kind)
        self._own = {name: Processor(others[name], found, **columns) for name, found in (own_processing or {}).items()}
        self.prepared_differently = {
            name: how
            for name, own in self._own.items()
            if (how := prepares_differently(own, self.processor, self.sets))
        }
        for name, how in self.prepared_differently.items():
            if name != "unlearned":
                raise ValueError(
                    f"`{name}` prepares rows otherwise than `original`: {how}. A retrained model is trained with the original's "
                    "image processor or tokenizer. Save that beside it."
                )
        self.relearning_rate = relearning_rate(original, others, self.audit_seed)
        cost = AuditCost.measured(original, self.sets["forget"], self.processor, 1 + len(others))
        most = max_rows if budget is None else cost.rows_within(budget, self._sizes())
        if any(size > most for size in self._sizes().values()):
            self._draw(given, most, kind)
        tell(cost.sentence(self._sizes()))
        self._rows = {} if self._cache is None else self._cache.digests(self.sets, self.processor)
        self.original = self.measure(original, "original")

    def _sizes(self) -> dict[str, int]:
        """The number of rows of each set that are read."""
        return {name: len(rows) for name, rows in self.sets.items()}

    def _draw(self, given: Mapping[str, Any], max_rows: int, kind: str) -> None:
        """Draw the rows that are read, and find out from their labels what was forgotten."""
        self.sets, labels, self.digests = draw_sets(given, self.processor, max_rows, self.audit_seed)
        self.classes = find_classes(kind, labels)
        self.same_shares = bool(self.classes) or same_shares(labels["forget"], labels["test"])
        self.in_forgotten_class = torch.isin(
            labels["test"], torch.tensor(self.classes, dtype=torch.long)
        )  # (test rows,)
        if bool(self.in_forgotten_class.all()):
            raise ValueError("`test` has rows of the forgotten classes only: add rows of what is kept.")

    def measure(self, model: nn.Module, name: str, as_published: bool = False) -> Measured:
        """Run `model` over every set once, and measure its features, its weights and how fast it relearns.

        Args:
            model: the model; its weights do not change.
            name: what errors and `Audit.curves` call the model. Only the original may be called `original`, and what is called
                `unlearned` is never taken from `audit_cache`.
            as_published: True to prepare rows as the model itself does, by `own_processing`. Default: False, as the original.

        Raises:
            ValueError: the model gives NaN or infinite logits.
        """
        if as_published:
            processor = self._own[name]
            sets = {k: PreparedRows(rows.rows, processor, k, cache_bytes=2**30) for k, rows in self.sets.items()}
            return self._measure(model, name, sets, processor)
        cache = None if name == "unlearned" else self._cache
        file = None if cache is None else cache.file(model, self._measured_with(model))
        if cache is None or file is None:
            return self._measure(model, name, self.sets, self.processor)
        found = cache.load(file, name)
        if found is None:
            found = self._measure(model, name, self.sets, self.processor)
            cache.store(file, found)
        return found

    def _measured_with(self, model: nn.Module) -> dict[str, Any]:
        """What the figures of a model depend on, beside the model."""
        return {
            "rows": self._rows,
            "classes": self.classes,
            "audit_seed": self.audit_seed,
            "batch_size": self.batch_size,
            "relearning_rate": self.relearning_rate,
            "device": next(model.parameters()).device.type,
        }

    def _measure(self, model: nn.Module, name: str, sets: Mapping[str, PreparedRows], processor: Processor) -> Measured:
        outputs = run_model(model, sets, processor, name=name, batch_size=self.batch_size)
        original = outputs if name == "original" else self.original.outputs

        def on_forget_rows(changed: nn.Module) -> Outputs:
            return run_model(changed, {"forget": sets["forget"]}, processor, name=name)["forget"]

        rounded = {precision: on_forget_rows(quantized(model, precision)).right for precision in ("int8", "bf16")}

        def again(changed: nn.Module) -> list[list[tuple[int, float]]]:
            return relearning_curves(
                changed,
                sets,
                processor,
                original["test"],
                self.in_forgotten_class,
                self.audit_seed,
                self.relearning_rate,
            )

        hides = name == "original" and bool(self.classes)
        without_adapters = None
        if adapter_layers(model):
            with adapters_off(model):
                without_adapters = on_forget_rows(model)
        return Measured(
            name=name,
            outputs=outputs,
            rounded=rounded,
            curves=again(model),
            hidden_curves=again(hide_classes(model, self.classes, outputs["forget"])) if hides else [],
            unchanged=unchanged_share(model, self.original_model),
            without_adapters=without_adapters,
            weights=weights_digest(model),
            sample=sampled_weights(model, self.original_model, self.audit_seed),
            unsteady=max(unsteady_share(model, sets[key], processor, outputs[key]) for key in ("forget", "test")),
            network=network_difference(model, self.original_model),
        )

    def audit(
        self, unlearned: Measured, retrained: Sequence[Measured], alpha: float = 0.05, per_example: bool = False
    ) -> Audit:
        """Compare measured models, and return every line of evidence and the verdict.

        Args:
            unlearned: what `measure` returned for the model to judge.
            retrained: what `measure` returned for the models trained without the forget set; may be empty.
            alpha: level of every equivalence test, and of all reasons for rejection together. Default: 0.05.
            per_example: True to attack every forget row by itself. Default: False.

        Raises:
            ValueError: a retrained model is the original, the unlearned model, or another retrained model.
        """
        _check_distinct(self.original, unlearned, retrained)
        decides = Yardsticks(self.classes, self.in_forgotten_class, self.same_shares, self.original, alpha)
        sound, faults = decides.sound(unlearned, retrained)
        lines = self._lines(unlearned, sound, alpha)
        settle(lines, alpha)
        for line in lines:
            line.words = describe(line)
        verdict, because = decide([x for x in lines if x.difference is not None], bool(sound))
        if _is_same(unlearned, self.original):
            verdict, because = UNCHANGED, []
        forbidding = self._forbidding([unlearned, *sound])
        if verdict == SAME and forbidding:
            verdict, because = VOID, []
        curves = {m.name: m.curves[0] for m in (self.original, unlearned, *sound) if m.curves}
        sizes = self._sizes()
        said = [*forbidding, *faults, *limits(len(sound), lines, sizes, self.same_shares)]
        run = {
            "kind": "class" if self.classes else "samples",
            "rows": sizes,
            "retrained": len(sound),
            "alpha": alpha,
            "weights": unlearned.weights,
            "models": {m.name: m.weights for m in (self.original, unlearned, *retrained)},
            "sets": self.digests,
            "audit_seed": self.audit_seed,
            "relearning_rate": self.relearning_rate,
            "distance": distance_share(unlearned.sample, self.original.sample, [m.sample for m in sound]),
        }
        rows = self._attacked(unlearned, sound) if per_example and len(sound) >= FEWEST else None
        if per_example:
            said += [too_few(len(sound))] if rows is None else rows.sentences()
        return Audit(verdict, because, lines, said, curves, run, per_example=rows)

    def _attacked(self, unlearned: Measured, retrained: Sequence[Measured]) -> PerExample:
        """What attacks on single forget rows find, under the numbers of these rows in the forget set as it was given."""
        rows = self.sets["forget"].rows
        numbers = rows.chosen.tolist() if isinstance(rows, DrawnRows) else range(len(rows))
        return attack_rows(numbers, unlearned, retrained, self.in_forgotten_class)

    def _forbidding(self, models: Sequence[Measured]) -> list[str]:
        """Sentences that say why no model can be called indistinguishable from retraining, whatever the figures say."""
        out = []
        for model in models:
            if model.network and not self.allow_other_network:
                out.append(
                    f"`{model.name}` is another network than `original`: {model.network}. What it could hide cannot be compared. "
                    "If that is as it should be, allow it with `allow_other_network`."
                )
            if model.unsteady > UNSTEADY:
                out.append(
                    f"`{model.name}` answers {model.unsteady:.0%} of the rows otherwise in another order and in smaller batches, so "
                    "what it answers here need not be what it answers elsewhere."
                )
        return out

    def _lines(self, unlearned: Measured, retrained: Sequence[Measured], alpha: float) -> list[Evidence]:
        """Every line that the sets allow, compared with retraining if it is known what retraining gives."""
        figures = Figures(
            self.classes, self.in_forgotten_class, self.same_shares, self.original, list(retrained), self.audit_seed
        )
        lines = []
        for key, spec in SPECS.items():
            before, ours = figures.of(key, self.original), figures.of(key, unlearned)
            if before is None or ours is None:
                continue
            known = [figure for m in retrained if (figure := figures.of(key, m)) is not None]
            line = Evidence(key, spec.title, spec.group, before.value, ours.value, [figure.value for figure in known])
            expected = figures.expected(key, known)
            if expected is not None:
                practical = spec.practical if retrained else max(spec.practical, spec.alone)
                compare(
                    line, before, ours, expected, hidden=figures.if_hidden(key),
                    practical=practical, default_spread=spec.spread_at(expected.value), alpha=alpha, upper_only=not spec.below,
                )  # fmt: skip
            lines.append(line)
        return lines


def _check_distinct(original: Measured, unlearned: Measured, retrained: Sequence[Measured]) -> None:
    seen = {original.name: original, unlearned.name: unlearned}
    for model in retrained:
        logits = model.outputs["test"].logits
        for name, other in seen.items():
            if torch.equal(logits, other.outputs["test"].logits):
                raise ValueError(
                    f"`{model.name}` and `{name}` give exactly the same outputs, so they are one model. A retrained model is "
                    "trained anew without the forget set, and each further one with another seed."
                )
        seen[model.name] = model


def _is_same(model: Measured, original: Measured) -> bool:
    """Whether a model is the original: the same weights and the same outputs."""
    pairs = [(model.outputs[name].logits, original.outputs[name].logits) for name in original.outputs]
    return model.weights == original.weights and all(torch.equal(a, b) for a, b in pairs)
