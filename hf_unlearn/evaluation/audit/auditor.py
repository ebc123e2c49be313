"""The audit: has this model, by whoever's tool, forgotten as retraining would have made it forget?

`Auditor` measures models, each once over each set, and `Audit` is the answer: a verdict in words with its evidence line by
line. The null hypothesis is that the model still remembers; only evidence on every line overturns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...data.sampling import drawn_rows
from ...models.processor import Processor
from ...models.snapshot import weights_digest
from ..relearning import relearn
from .audit import Audit
from .checks import check_models, check_sets, find_classes, same_shares
from .evidence import Evidence, compare, settle
from .evidence_lines import Figures
from .model_outputs import Measured, Outputs, adapter_layers, adapters_off, quantised, run_model, unchanged_share
from .probing import feature_similarity
from .verdicts import SPECS, decide, describe, limits

TAUGHT, PROBED, DRAWS, LIMIT = 20, 100, 3, 100  # rows relearned from, rows probed, repetitions, most steps
BACK = 0.9  # of the original's accuracy: relearned


def audit_models(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: Sequence[nn.Module] = (),
    *,
    alpha: float = 0.05,
    **settings: Any,
) -> Audit:
    """Audit `unlearned` against the original and models retrained without the forget set.

    Args:
        alpha: level of every equivalence test, and of all reasons for rejection together.
        settings: `forget`, `test` and what else `Auditor` takes.

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
    """Measures models on one request, and compares them. All inputs are checked before any model is run.

    Args:
        original: the model that learned everything.
        forget: labelled training rows that were to be forgotten.
        test: labelled rows that no model was trained on; for class requests those of the forgotten classes as well.
        retain: labelled training rows that were kept, if at hand.
        others: models that will be measured, by name, to check them first.
        processing_class: image processor or tokenizer; columns as in `Processor`.
        kind: `class` where whole classes were forgotten, `samples`, or `auto`: by whether `retain` (or else the forget set
            alone) shows several classes.
        max_rows: of each set, drawn by `seed`.

    Raises:
        ValueError: what cannot be compared: sets that are empty, overlap or lack labels, models with other heads or inputs.
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
        text_column: str | None = None,
        label_column: str | None = None,
        kind: str = "auto",
        max_rows: int = 10_000,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        columns = {"image_column": image_column, "text_column": text_column, "label_column": label_column}
        self.processor = Processor(original, processing_class, **columns)
        self.original_model, self.batch_size, self.seed = original, batch_size, seed
        check_models(original, others or {})
        given = {"forget": forget, "test": test, **({} if retain is None else {"retain": retain})}
        self.sets, labels = check_sets(given, self.processor, max_rows, seed)
        self.classes = find_classes(kind, labels)
        self.alike = bool(self.classes) or same_shares(labels["forget"], labels["test"])
        self.gone = torch.isin(
            labels["test"], torch.tensor(self.classes, dtype=torch.long)
        )  # test rows of those classes
        if bool(self.gone.all()):
            raise ValueError("`test` has rows of the forgotten classes only: add rows of what is kept.")
        self.original = self.measure(original, "original")

    def measure(self, model: nn.Module, name: str) -> Measured:
        """Run `model` over every set, once, and look behind its outputs."""
        outputs = run_model(model, self.sets, self.processor, name=name, batch_size=self.batch_size)
        original = outputs if name == "original" else self.original.outputs
        forget = {"forget": self.sets["forget"]}
        rounded = {
            p: run_model(quantised(model, p), forget, self.processor, name=name)["forget"].right
            for p in ("int8", "bf16")
        }
        switched_off = None
        if adapter_layers(model):
            with adapters_off(model):
                switched_off = run_model(model, forget, self.processor, name=name)["forget"]
        return Measured(
            name,
            outputs,
            rounded,
            self._relearn(model, original["test"]),
            feature_similarity(outputs["forget"].features, original["forget"].features),
            unchanged_share(model, self.original_model),
            switched_off,
            weights_digest(model),
        )

    def _relearn(self, model: nn.Module, original: Outputs) -> list[list[tuple[int, float]]]:
        """A curve for each draw of rows to learn from; none where the test set has no row of the forgotten classes."""
        if not self.gone.any():
            return []
        probe = self.sets["test"].many(self.gone.nonzero()[:PROBED, 0].tolist())
        stop = BACK * original.right[self.gone].float().mean().item()
        count = len(self.sets["forget"])
        taught = [self.sets["forget"].many(drawn_rows(count, TAUGHT, self.seed + i).tolist()) for i in range(DRAWS)]
        return [
            list(relearn(model, rows, probe, self.processor, stop=stop, limit=LIMIT, every_step=False))
            for rows in taught
        ]

    def audit(self, unlearned: Measured, retrained: Sequence[Measured], alpha: float = 0.05) -> Audit:
        """Compare measured models: every line of evidence, and the verdict.

        Raises:
            ValueError: a retrained model that is the original, the unlearned model, or another retrained one.
        """
        _check_yardsticks(self.original, unlearned, retrained)
        lines = self.lines(unlearned, retrained, alpha)
        settle(lines, alpha)
        for line in lines:
            line.words = describe(line)
        verdict, because = decide([x for x in lines if x.difference is not None], bool(retrained))
        sizes = {name: len(rows) for name, rows in self.sets.items()}
        everyone = [self.original, unlearned, *retrained]
        return Audit(
            verdict,
            because,
            lines,
            limits(len(retrained), lines, sizes, self.alike),
            {m.name: m.curves[0] for m in everyone if m.curves},
            {
                "kind": "class" if self.classes else "samples",
                "rows": sizes,
                "retrained": len(retrained),
                "alpha": alpha,
                "weights": unlearned.weights,
            },
        )

    def lines(self, unlearned: Measured, retrained: Sequence[Measured], alpha: float) -> list[Evidence]:
        """Every line that these sets allow, compared with retraining where its value is known."""
        figures = Figures(self.classes, self.gone, self.alike, self.original, list(retrained))
        return [
            line
            for key in SPECS
            if (line := _line(key, figures, self.original, unlearned, retrained, alpha)) is not None
        ]


def _line(
    key: str, figures: Any, original: Measured, unlearned: Measured, retrained: Sequence[Measured], alpha: float
) -> Evidence | None:
    ours = figures.of(key, unlearned)
    if ours is None:
        return None
    before, spec = figures.of(key, original), SPECS[key]
    known = [figures.of(key, m) for m in retrained]
    values = [e.value for e in known if e is not None]
    line = Evidence(key, spec.title, spec.group, before.value, ours.value, values)
    expected = figures.expected(key, [e for e in known if e is not None])
    if expected is None:
        return line
    return compare(
        line,
        before,
        ours,
        expected,
        practical=spec.practical if retrained else max(spec.practical, 0.05),
        default_spread=spec.default_spread,
        alpha=alpha,
        upper_only=not spec.below,
    )


def _check_yardsticks(original: Measured, unlearned: Measured, retrained: Sequence[Measured]) -> None:
    seen = {original.name: original, unlearned.name: unlearned}
    for model in retrained:
        logits = model.outputs["test"].logits
        for name, other in seen.items():
            if torch.equal(logits, other.outputs["test"].logits):
                raise ValueError(
                    f"`{model.name}` and `{name}` give the same outputs to the last bit: they are one model. A retrained model "
                    "is trained anew without the forget set; a further one, with another seed."
                )
        seen[model.name] = model
