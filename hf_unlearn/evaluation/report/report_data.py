"""`ReportData`: the figures of a report, and facts that follow from them. It needs no torch, so that reading a report is fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

REPORT_SCHEMA = "hf_unlearn/report/2"
UNFIT = 0.05  # accuracy on the retain set by which a retrained model that is a yardstick may be below the original
STILL = 1e-3  # mean total variation distance of outputs below which nothing moved
UNSEEN = 0.6  # AUC of the loss attack that rows which the original treats as unseen ones stay below
GRAIN = 3  # steps of relearning by which models differ at least, to be called different
FOR_SINGLE_ROWS = ("uib", "marginal_information", "gradient_difference")  # methods to try


def retrained_names(count: int) -> list[str]:
    """Return the names of `count` retrained models: in a report, and of the folders in which a run saves them."""
    return ["retrained", *(f"retrained-{number}" for number in range(2, count + 1))][:count]


@dataclass
class ReportData:
    """What was run, and what was measured of each model.

    Attributes:
        models: model -> measure -> value. Accuracies, F1 and attacks are shares in [0, 1]; Jensen–Shannon divergence is in
            nats. Models are `original`, `unlearned` and, if one was given, `retrained`.
        gap: model -> mean absolute difference to the retrained model over `GAP_MEASURES`, in percentage points.
        intervals: model -> measure (and `gap`) -> [low, high], at 95 % over the rows measured. The number of relearning
            steps has none, because it comes from one run.
        per_class, per_class_intervals: model -> test accuracy of every class, and its [low, high].
        roc: model -> curve of the loss attack: `false_positives`, `true_positives`, numbers of `members` and `others`.
        relearning: model -> test accuracy on the forgotten classes after 0, 1, 2, … steps of teaching them again. The original has
            none: it knows them.
        confidence: model -> set -> histogram (20 bins over [0, 1], shares of rows) of the highest probability.
        information: model -> information in its outputs (`InformationAudit`, on all rows measured): about whether a row is
            in the forget set or, if an attribute was unlearned, about its value given the label.
        groups, group_intervals: model -> value of the attribute -> accuracy on the test set, and its [low, high].
        retrained: retrained model -> measure (also `gap` and `information`) -> value, if there are several. Under the name
            `retrained`, the other attributes then hold the means of these models, and intervals that span those of all. Curves
            (`roc`, `relearning`, `confidence`) have an entry for each of them. Empty with one retrained model.
        seconds: of unlearning and of retraining, and their ratio.
        outcome: checks, warnings and path of the run (`Outcome`).
        run: method, arguments, sizes, versions.
        schema: version of the JSON format.
    """

    models: dict[str, dict[str, float]]
    gap: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    per_class_intervals: dict[str, list[list[float] | None]] = field(default_factory=dict)
    roc: dict[str, dict[str, Any]] = field(default_factory=dict)
    relearning: dict[str, list[float]] = field(default_factory=dict)
    confidence: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    information: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    group_intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    retrained: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    schema: str = REPORT_SCHEMA

    @property
    def void(self) -> str:
        """Why the retrained model is no yardstick, as a sentence: it does not fit the rows it was trained on. "" if it is one."""
        theirs, ours = (self.models.get(n, {}).get("retain_accuracy") for n in ("retrained", "original"))
        limits = [self.intervals.get(n, {}).get("retain_accuracy") for n in ("retrained", "original")]
        if theirs is None or ours is None or theirs >= ours - UNFIT:
            return ""
        if limits[0] and limits[1] and limits[0][1] >= limits[1][0]:
            return ""  # too few rows to tell the two apart
        are, they, were, of_them = (
            ("are, on average,", "they were", "They were", "them")
            if self.retrained
            else ("is", "it was", "It was", "it")
        )
        return (
            f"the comparison is void: {self.yardstick} {are} right on {theirs:.1%} of the retain set, the rows {they} trained on, and "
            f"the original on {ours:.1%}. {were} not trained as the original was, so no figure of {of_them} says what forgetting should "
            "look like. Set `train_epochs`, `train_learning_rate` and `train_batch_size` as in the training of the original"
        )

    @property
    def retrained_before(self) -> bool:
        """True if an earlier run trained the retrained model, or some of several."""
        return bool((self.run.get("retraining") or {}).get("cached"))

    @property
    def yardstick(self) -> str:
        """What sentences call that with which the run is compared: the retrained model, or for example the 3 retrained models."""
        return f"the {len(self.retrained)} retrained models" if self.retrained else "the retrained model"

    @property
    def of_yardstick(self) -> str:
        """The possessive form of `yardstick`."""
        return f"{self.yardstick}'{'' if self.retrained else 's'}"

    def spread(self, name: str, measure: str) -> list[float] | None:
        """Return the lowest and the highest value of several retrained models; None for another model, or if there is one."""
        found = [each[measure] for each in self.retrained.values() if measure in each] if name == "retrained" else []
        return [min(found), max(found)] if found else None

    def heading(self, name: str) -> str:
        """Return the heading of a model's column in a table."""
        if name != "retrained":
            return name
        told = [f"{len(self.retrained)} models"] if self.retrained else []
        told += ["void"] if self.void else []
        return f"{name} ({', '.join(told)})" if told else name

    @property
    def nothing_to_forget(self) -> str:
        """Say that outputs hardly moved because the original treats the forget set as unseen rows; "" if that is not shown."""
        attack = self.intervals.get("original", {}).get("loss_attack_auc")
        if not self._is_still() or not attack or not attack[0] <= 0.5 <= attack[1] < UNSEEN:
            return ""
        limits = [self.intervals.get(n, {}).get("forget_accuracy") for n in ("original", "retrained")]
        if limits[0] and limits[1] and not self.void and limits[0][0] > limits[1][1]:
            return ""  # a model that never saw them does clearly worse
        return (
            "nothing to forget: the original already treats these rows as unseen ones, as far as the loss attack can tell "
            f"(AUC {self.models['original']['loss_attack_auc']:.2f}, 0.5 is chance), and the run left its outputs as they were"
        )

    @property
    def nothing_forgotten(self) -> str:
        """Say that outputs hardly moved although the original may know the forget set, and what to try; "" if they did."""
        if not self._is_still() or self.nothing_to_forget:
            return ""
        auc, method = self.models.get("original", {}).get("loss_attack_auc"), self.run.get("method", {}).get("method")
        known = "" if auc is None else f", and its loss attack has an AUC of {auc:.2f} (0.5 is chance)"
        others = " or ".join(f"`{name}`" for name in FOR_SINGLE_ROWS if name != method)
        return (
            f"nothing was forgotten: the outputs on the forget set moved by {self.outcome['outputs_moved']:.1g} of at most 1. It is not "
            f"shown that the original treats these rows as unseen ones{known}. Try the method {others}, or a larger `trust_region` "
            "or `max_steps`"
        )

    def _is_still(self) -> bool:
        """Return True if single rows were to be forgotten, without a target, and the outputs on them hardly moved."""
        moved, asked = self.outcome.get("outputs_moved"), self.run.get("kind") == "samples"
        untold = self.outcome.get("target_reached") is None and "attribute" not in self.run
        return moved is not None and moved < STILL and asked and untold and "original" in self.models

    def began_lower(self, measure: str) -> bool:
        """Return True if the original's value is below the unlearned model's. A low value is then no over-forgetting."""
        values = [self.models.get(name, {}).get(measure) for name in ("original", "unlearned")]
        return None not in values and values[0] < values[1]  # type: ignore[operator]

    @property
    def comes_back_sooner(self) -> bool:
        """True if the class comes back in less than half of the steps that it takes in the yardstick, and in `GRAIN` fewer at least.

        Steps are few on models that were fine-tuned from a base, and retrained models differ there by one or two.
        """
        ours, theirs = (self.models.get(n, {}).get("relearning_steps") for n in ("unlearned", "retrained"))
        return ours is not None and theirs is not None and ours < 0.5 * theirs and theirs - ours >= GRAIN

    def relearned(self, name: str) -> str:
        """Return the number of steps that teach a model the forgotten class again, or that it took more than were tried.

        For several retrained models it is their mean.
        """
        steps, models = self.models[name]["relearning_steps"], {name: self.models[name]}
        models = self.retrained if name == "retrained" and self.retrained else models
        tried = {n: len(self.relearning.get(n, ())) - 1 for n in models}
        never = [tried[n] for n, each in models.items() if 0 <= tried[n] < each["relearning_steps"]]
        return f"more than {min(*never, steps - 1):.0f}" if never else f"{steps:.0f}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the report that `as_dict` gave as `data`.

        Raises:
            ValueError: `data` has another schema, or is malformed.
        """
        if data.get("schema") != REPORT_SCHEMA:
            raise ValueError(f"`schema` is {data.get('schema')!r}, this version reads {REPORT_SCHEMA!r}.")
        parts = {k: v for k, v in data.items() if k not in ("schema", "warnings")}
        wrong = {k for k, v in parts.items() if not isinstance(v, dict)} | parts.keys() - {f.name for f in fields(cls)}
        wrong |= {"models"} - parts.keys()
        if not wrong and not all(isinstance(measures, dict) for measures in parts["models"].values()):
            wrong = {"models"}
        if wrong:
            raise ValueError(f"report.json is malformed at {min(wrong)[:60]!r}.")
        return cls(**parts)
