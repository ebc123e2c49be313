"""The audit of a model that any tool made: has it forgotten as a model retrained without the forget set would?

`Auditor` runs every model once over every set. `Auditor.audit` compares what they gave, and returns an `Audit`: a verdict in
words, with its evidence line by line. The null hypothesis is that the model still remembers. It is rejected only if every
line of evidence speaks against it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...data.sampling import drawn_rows
from ...models.processor import Processor
from ...models.snapshot import weights_digest
from ..relearning import RELEARNED, RELEARNING_ROWS, relearn
from .audit import Audit
from .checks import check_models, check_sets, find_classes, same_shares
from .evidence import Evidence, compare, settle
from .evidence_lines import Figures
from .model_outputs import Measured, Outputs, adapter_layers, adapters_off, quantized, run_model, unchanged_share
from .probing import feature_similarity
from .verdicts import SPECS, decide, describe, limits

RELEARNING_DRAWS = 3  # repetitions, each from other rows
RELEARNING_STEPS = 100  # at most
PROBE_ROWS = 100  # test rows of the forgotten classes, on which relearning is measured


def audit_models(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: Sequence[nn.Module] = (),
    *,
    alpha: float = 0.05,
    **settings: Any,
) -> Audit:
    """Audit `unlearned` against the original and against models retrained without the forget set.

    Args:
        original: the model that learned everything.
        unlearned: the model to judge.
        retrained: models trained anew without the forget set, each with another seed. Three or more are best. By default
            there are none; then nothing can be found indistinguishable from retraining.
        alpha: level of every equivalence test, and of all reasons for rejection together. Default: 0.05.
        settings: `forget`, `test` and the other arguments of `Auditor`.

    Raises:
        ValueError: as `Auditor` and `Auditor.audit`.

    Example:
        ```python
        audit = audit_models(original, unlearned, [retrained], forget=forget, test=test, processing_class=processor)
        print(audit.verdict)
        ```
    """
    models = {"unlearned": unlearned, **{f"retrained[{i}]": m for i, m in enumerate(retrained)}}
    auditor = Auditor(original, others=models, **settings)
    measured = [auditor.measure(model, name) for name, model in models.items()]
    return auditor.audit(measured[0], measured[1:], alpha=alpha)


class Auditor:
    """Measures models on one request to forget, and compares them.

    The constructor checks the sets and the models in `others`, and then runs the original. A model that is first given to
    `measure` is not checked against the original.

    Args:
        original: the model that learned everything.
        forget: labeled training rows that were to be forgotten.
        test: labeled rows that no model was trained on. If whole classes were forgotten, also rows of these classes.
        retain: labeled training rows that were kept. Default: None, and kept data is judged on test rows alone.
        others: name -> model that will be measured later, checked here before any model runs. Default: None.
        processing_class: image processor or tokenizer of the original. Default: None, for rows that are prepared already.
        image_column, text_column, label_column: names of the columns. Default: None, and `Processor` finds them.
        kind: `class` if whole classes were forgotten, `samples` if single rows were. Default: `auto`, which takes whole
            classes if no class of the forget set is in the retain set, or, without a retain set, if the forget set has one
            class only.
        max_rows: most rows of each set that are used; they are drawn by `seed`. Default: 10,000.
        batch_size: rows in one forward pass. Default: 128.
        seed: seed of all draws. Default: 0.

    Raises:
        ValueError: a set is empty, lacks labels, or overlaps with another, or a model has another head or other inputs than
            the original.
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
        image_column: str | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        kind: str = "auto",
        max_rows: int = 10_000,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        columns: dict[str, Any] = {
            "image_column": image_column,
            "text_column": text_column,
            "label_column": label_column,
        }
        self.processor = Processor(original, processing_class, **columns)
        self.original_model, self.batch_size, self.seed = original, batch_size, seed
        check_models(original, others or {})
        given = {"forget": forget, "test": test, **({} if retain is None else {"retain": retain})}
        self.sets, labels = check_sets(given, self.processor, max_rows, seed)
        self.classes = find_classes(kind, labels)
        self.same_shares = bool(self.classes) or same_shares(labels["forget"], labels["test"])
        self.in_forgotten_class = torch.isin(
            labels["test"], torch.tensor(self.classes, dtype=torch.long)
        )  # (test rows,)
        if bool(self.in_forgotten_class.all()):
            raise ValueError("`test` has rows of the forgotten classes only: add rows of what is kept.")
        self.original = self.measure(original, "original")

    def measure(self, model: nn.Module, name: str) -> Measured:
        """Run `model` over every set once, and measure its features, its weights and how fast it relearns.

        Args:
            model: the model; its weights do not change.
            name: what errors and `Audit.curves` call the model. Only the original may be called `original`.

        Raises:
            ValueError: the model gives NaN or infinite logits.
        """
        outputs = run_model(model, self.sets, self.processor, name=name, batch_size=self.batch_size)
        original = outputs if name == "original" else self.original.outputs

        def on_forget_rows(changed: nn.Module) -> Outputs:
            return run_model(changed, {"forget": self.sets["forget"]}, self.processor, name=name)["forget"]

        rounded = {precision: on_forget_rows(quantized(model, precision)).right for precision in ("int8", "bf16")}
        without_adapters = None
        if adapter_layers(model):
            with adapters_off(model):
                without_adapters = on_forget_rows(model)
        return Measured(
            name=name,
            outputs=outputs,
            rounded=rounded,
            curves=self._relearn(model, original["test"]),
            similarity=feature_similarity(outputs["forget"].features, original["forget"].features),
            unchanged=unchanged_share(model, self.original_model),
            without_adapters=without_adapters,
            weights=weights_digest(model),
        )

    def _relearn(self, model: nn.Module, original: Outputs) -> list[list[tuple[int, float]]]:
        """One curve per draw of rows to learn from; none if the test set has no row of the forgotten classes."""
        if not self.in_forgotten_class.any():
            return []
        forget, rows = self.sets["forget"], self.in_forgotten_class.nonzero()[:PROBE_ROWS, 0]
        probe = self.sets["test"].many(rows.tolist())
        stop = RELEARNED * original.right[self.in_forgotten_class].float().mean().item()
        seeds = range(self.seed, self.seed + RELEARNING_DRAWS)
        taught = [forget.many(drawn_rows(len(forget), RELEARNING_ROWS, seed).tolist()) for seed in seeds]
        return [
            list(relearn(model, rows, probe, self.processor, stop=stop, limit=RELEARNING_STEPS, every_step=False))
            for rows in taught
        ]

    def audit(self, unlearned: Measured, retrained: Sequence[Measured], alpha: float = 0.05) -> Audit:
        """Compare measured models, and return every line of evidence and the verdict.

        Args:
            unlearned: what `measure` returned for the model to judge.
            retrained: what `measure` returned for the models trained without the forget set; may be empty.
            alpha: level of every equivalence test, and of all reasons for rejection together. Default: 0.05.

        Raises:
            ValueError: a retrained model is the original, the unlearned model, or another retrained model.
        """
        _check_distinct(self.original, unlearned, retrained)
        lines = self._lines(unlearned, retrained, alpha)
        settle(lines, alpha)
        for line in lines:
            line.words = describe(line)
        verdict, because = decide([x for x in lines if x.difference is not None], bool(retrained))
        curves = {m.name: m.curves[0] for m in (self.original, unlearned, *retrained) if m.curves}
        sizes = {name: len(rows) for name, rows in self.sets.items()}
        run = {
            "kind": "class" if self.classes else "samples",
            "rows": sizes,
            "retrained": len(retrained),
            "alpha": alpha,
        }
        run["weights"] = unlearned.weights
        return Audit(verdict, because, lines, limits(len(retrained), lines, sizes, self.same_shares), curves, run)

    def _lines(self, unlearned: Measured, retrained: Sequence[Measured], alpha: float) -> list[Evidence]:
        """Every line that the sets allow, compared with retraining if it is known what retraining gives."""
        figures = Figures(self.classes, self.in_forgotten_class, self.same_shares, self.original, list(retrained))
        lines = []
        for key, spec in SPECS.items():
            before, ours = figures.of(key, self.original), figures.of(key, unlearned)
            if before is None or ours is None:
                continue
            known = [figure for m in retrained if (figure := figures.of(key, m)) is not None]
            line = Evidence(key, spec.title, spec.group, before.value, ours.value, [figure.value for figure in known])
            expected = figures.expected(key, known)
            if expected is not None:
                practical = spec.practical if retrained else max(spec.practical, 0.05)
                compare(
                    line, before, ours, expected,
                    practical=practical, default_spread=spec.default_spread, alpha=alpha, upper_only=not spec.below,
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
