"""Intervals against restated ones, bias rows by hand, and a page that loads nothing and lets no name become markup."""

import itertools
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, bootstrap, chi2_contingency, ncx2
from sklearn.metrics import f1_score

from hf_unlearn import ForgetRequest, GradientAscent, JiT, UnlearningReport
from hf_unlearn.evaluation.relearning import relearn
from hf_unlearn.evaluation.report.bias_pattern import Pattern, bias_measures, read_pattern
from hf_unlearn.evaluation.report.interpretation import reading
from hf_unlearn.metrics.functional import fairness, intervals
from hf_unlearn.metrics.functional.membership import threshold_attack
from hf_unlearn.models.prediction import predict
from hf_unlearn.utils.safe_text import inert
from tests.support.data import class_split, data_for, text_data
from tests.support.models import trained
from tests.support.runs import trainer_for

HOSTILE = "x|</td><script>alert(1)</script>\n# **b** `c` [l](http://evil.example/a) ![i](http://evil.example) www.evil.example"

# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "size"), [(0, 1), (0, 40), (7, 40), (40, 40), (971, 1000)])
def test_shares_have_exact_limits(hits, size):
    exact = binomtest(hits, size).proportion_ci(0.95, method="exact")
    value, low, high = intervals.share([True] * hits + [False] * (size - hits))
    assert (value, low, high) == pytest.approx((hits / size, exact.low, exact.high), abs=1e-12)
    lows, highs = intervals.share_limits([hits, hits], [size, size])
    assert np.allclose((lows, highs), [[low] * 2, [high] * 2])


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="`hits` must lie between"):
        intervals.share([])


def test_a_mean_has_the_limits_of_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(size=300)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=4000).confidence_interval
    assert intervals.mean(values) == pytest.approx((values.mean(), theirs.low, theirs.high), rel=0.03)


def test_macro_f1_has_the_limits_of_resampled_rows():
    generator = np.random.default_rng(0)
    true = generator.integers(4, size=250)
    predicted = np.where(generator.random(250) < 0.7, true, generator.integers(6, size=250))

    def one(rows):
        y = true[rows]
        return f1_score(y, predicted[rows], average="macro", labels=np.unique(y), zero_division=0)

    drawn = [one(generator.integers(250, size=250)) for _ in range(600)]
    value, low, high = intervals.macro_f1(predicted, true)
    assert value == pytest.approx(one(np.arange(250)))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def test_a_difference_has_newcombes_limits():
    # Table II of Newcombe 1998, 56/70 − 48/80, with Wilson's limits of each share: the square-and-add of method 10.
    first, second = (0.8, 0.6918, 0.8774), (0.6, 0.4904, 0.7005)
    assert intervals.difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-3)


def test_a_distance_that_may_be_none_reaches_down_to_0():
    a, b, far = intervals.share([1] * 9 + [0]), intervals.share([1] * 8 + [0] * 2), intervals.share([0] * 200)
    value, low, high = intervals.mean_distance([a], [b])
    assert value == pytest.approx(0.1)
    assert low == 0 < value < high
    assert intervals.mean_distance([a], [far])[1] > 0.5
    assert intervals.mean_distance([a], [far]) == pytest.approx(intervals.mean_distance([far], [a]))


def test_cramers_v_has_the_limits_of_the_noncentral_distribution():
    generator = np.random.default_rng(0)
    attribute = generator.integers(3, size=400)
    for follow in (0.0, 0.5):
        predicted = np.where(generator.random(400) < follow, attribute, generator.integers(4, size=400))
        value, low, high = intervals.cramers_v(predicted, attribute)
        table = np.array([[((attribute == a) & (predicted == p)).sum() for p in range(4)] for a in range(3)])
        statistic = chi2_contingency(table, correction=False).statistic
        assert (
            value
            == pytest.approx(np.sqrt(statistic / (400 * 2)))
            == pytest.approx(fairness.cramers_v(predicted, attribute))
        )
        assert low <= value <= high
        assert ncx2.cdf(statistic, 6, high**2 * 800) == pytest.approx(0.025, abs=1e-6)
        if follow:
            assert ncx2.cdf(statistic, 6, low**2 * 800) == pytest.approx(0.975, abs=1e-6)
        else:
            assert low == 0
    assert intervals.cramers_v(np.zeros(9, int), np.arange(9) % 2) == (0, 0, 0)


def test_the_worst_group_is_seen_among_all_groups():
    hits, sizes = np.array([9, 20, 3]), np.array([10, 40, 4])
    value, low, high = intervals.worst_share(hits, sizes)
    exact = [binomtest(h, n).proportion_ci(1 - 0.05 / 3, method="exact") for h, n in zip(hits, sizes, strict=True)]
    assert (value, low, high) == pytest.approx((0.5, min(e.low for e in exact), min(e.high for e in exact)))


# --- bias -------------------------------------------------------------------------------------------------------------


def hand_made():
    generator = np.random.default_rng(3)
    y = generator.integers(4, size=200)
    values = generator.choice(["present", "other", "absent"], size=200)
    answers = np.where((values == "present") & (generator.random(200) < 0.4), 3, y)
    return torch.tensor(np.where(generator.random(200) < 0.1, 3, answers)), torch.tensor(y), values.tolist()


def test_bias_figures_are_those_of_fairness():
    answers, y, values = hand_made()
    pattern = Pattern("pattern", {"present": 3})
    found = bias_measures(answers, y, values, pattern)
    mapping = {"present": 3, "other": None, "absent": None}
    has = np.array(values) == "present"
    aligned, conflicting = fairness.aligned_conflicting_accuracy(answers, y, values, mapping)
    rates, _ = fairness.false_positive_rates(answers, y, has.tolist(), positive=3)
    expected = {
        "bias_following": fairness.bias_following(answers, y, values, mapping),
        "bias_without": rates[False],
        "accuracy_with_pattern": fairness.group_accuracies(answers, y, has.tolist())[True],
        "accuracy_without_pattern": fairness.group_accuracies(answers, y, has.tolist())[False],
        "aligned_minus_conflicting": aligned - conflicting,
        "worst_group_accuracy": fairness.worst_group_accuracy(answers, y, values)[0],
        "cramers_v": fairness.cramers_v(answers, values),
    }
    assert {name: value for name, (value, _, _) in found.items()} == pytest.approx(expected)
    assert all(low <= value <= high for value, low, high in found.values())
    assert rates[True] == pytest.approx(expected["bias_following"])
    against, hits = has & (y.numpy() != 3), ((answers == 3) & (y != 3)).numpy() & has
    exact = binomtest(int(hits.sum()), int(against.sum())).proportion_ci(0.95, method="exact")
    assert found["bias_following"][1:] == pytest.approx((exact.low, exact.high))


def test_several_labels_pointed_to_are_counted_as_trials_and_rows():
    answers, y, values = hand_made()
    found = bias_measures(answers, y, values, Pattern("pattern", {"present": 3, "other": 0}))
    trials = hits = 0
    for value, (label, source) in itertools.product(range(200), ((3, "present"), (0, "other"))):
        if values[value] != source and y[value] != label:
            trials, hits = trials + 1, hits + int(answers[value] == label)
    assert found["bias_without"][0] == pytest.approx(hits / trials)


def test_what_the_rows_do_not_define_is_left_out():
    y = torch.tensor([0, 1, 2, 0])
    found = bias_measures(y, y, ["present"] * 4, Pattern("pattern", {"present": 3}))
    assert set(found) == {"bias_following", "accuracy_with_pattern", "worst_group_accuracy"}


def test_bias_arguments_are_checked_by_name(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2))
    values = ["present" if i % 3 else "absent" for i in range(24)]
    test = data_for("vit", 24).add_column("pattern", values)
    own = trainer.processor
    assert read_pattern(None, None, own, test) is None
    for labels in ({"present": 3}, ["present=3"], ['{"present": 3}'], {"present": "3"}, {"present": "LABEL_3"}):
        assert read_pattern("pattern", labels, own, test) == Pattern("pattern", {"present": 3})
    for column, labels, data, words in (
        ("pattern", None, test, "`bias_labels` is missing"),
        (None, ["present=3"], test, "`bias_column` is missing"),
        ("pattern", ["present=3"], None, "Name one, with `test_split`"),
        ("colour", ["present=3"], test, "`bias_column='colour'` is not in the test set"),
        ("pattern", ["green=3"], test, "`bias_labels`: 'green' is no value of 'pattern'"),
        ("pattern", ["present=9"], test, "`bias_labels` points to no class of the model"),
        ("pattern", ["present=dog"], test, "`bias_labels` points to no class of the model"),
        ("pattern", {"present": None}, test, "`bias_labels` points to no class of the model"),
        ("pattern", ["present"], test, "is no list of value=label"),
        ("pattern", ["present=3"], test.filter(lambda r: r["label"] == 3), "never points away"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            read_pattern(column, labels, own, data)


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A class forgotten under a hostile column name; the values of the pattern are hostile too."""
    test = data_for("vit", 48, seed=7)
    test = test.add_column("<b>|p", [HOSTILE if i % 3 else "absent" for i in range(48)])
    folder = tmp_path_factory.mktemp("page")
    trainer = trainer_for("vit", folder, GradientAscent(), split=class_split("vit"), max_steps=4, trust_region=0.01)
    trainer.train()
    pattern = read_pattern("<b>|p", {HOSTILE: 2}, trainer.processor, test)
    calls: dict[int, int] = {}
    models = {"unlearned": trainer.model, "retrained": trained("vit")}
    handles = [
        m.register_forward_hook(
            lambda m, _, out: calls.update({id(m): calls.get(id(m), 0) + len(out.logits)}), always_call=True
        )
        for m in models.values()
    ]
    retain = trainer.retain_dataset
    report = UnlearningReport.measure(trainer, retain, test, models["retrained"], pattern=pattern)
    for handle in handles:
        handle.remove()
    report.run["request"] = f"class {HOSTILE}"
    report.outcome.setdefault("warnings", []).append(HOSTILE)
    return SimpleNamespace(trainer=trainer, report=report, test=test, models=models, calls=calls, retain=retain)


def test_each_model_runs_once_over_each_set(run):
    rows = sum(len(data) for data in (run.trainer.forget_dataset, run.retain, run.test))
    assert run.calls[id(run.models["retrained"])] == rows
    # The original is the unlearned model with other weights, or a copy of its own.
    assert run.calls[id(run.models["unlearned"])] in (rows, 2 * rows)


def test_every_figure_lies_in_its_interval(run):
    report = run.report
    for name, measures in report.models.items():
        assert set(measures) - {"gap"} == set(report.intervals[name]) - {"gap"}
        for measure, value in measures.items():
            low, high = report.intervals[name][measure]
            assert low <= value <= high, (name, measure)
        for value, limits in zip(report.per_class[name], report.per_class_intervals[name], strict=True):
            assert limits[0] <= value <= limits[1]
    assert set(report.intervals["unlearned"]) - set(report.models["unlearned"]) == {"gap"}


def test_the_loss_attack_compares_rows_of_the_same_labels(run):
    sets = {"forget": run.trainer.forget_dataset, "retain": run.retain, "test": run.test}
    out = {k: predict(run.trainer.model, rows, run.trainer.processor) for k, rows in sets.items()}
    alike = torch.isin(out["test"][1], out["forget"][1])
    theirs = threshold_attack(out["retain"], (out["test"][0][alike], out["test"][1][alike]), out["forget"])
    ours = run.report.models["unlearned"]
    assert ours["loss_attack_auc"] == pytest.approx(theirs["auc"])
    assert ours["loss_attack_tpr_0.01"] == pytest.approx(theirs["tpr_at_1_percent_fpr"])
    assert ours["loss_attack_tpr_0.001"] == pytest.approx(theirs["tpr_at_0.1_percent_fpr"])
    assert run.report.roc["unlearned"]["others"] == int(alike.sum())


def test_bias_rows_are_in_table_json_and_markdown(run):
    logits, labels = predict(run.models["retrained"], run.test, run.trainer.processor)
    found = bias_measures(logits.argmax(-1), labels, list(run.test["<b>|p"]), Pattern("<b>|p", {HOSTILE: 2}))
    for name, (value, low, high) in found.items():
        assert run.report.models["retrained"][name] == pytest.approx(value)
        assert run.report.intervals["retrained"][name] == pytest.approx([low, high])
    text = run.report.to_markdown()
    for words in ("bias following", "worst-group accuracy", "Cramér's V", "without the pattern", "(points)"):
        assert words in text
    assert re.search(r"\| \d+\.\d \[\d+\.\d, \d+\.\d\] \|", text)


def test_the_report_comes_back_from_json_and_another_schema_does_not(run):
    data = json.loads(json.dumps(run.report.as_dict(), allow_nan=False))
    assert UnlearningReport.from_dict(data) == run.report
    assert data["schema"] == "hf_unlearn/report/2"
    with pytest.raises(ValueError, match="'hf_unlearn/report/1', this version reads 'hf_unlearn/report/2'"):
        UnlearningReport.from_dict({**data, "schema": "hf_unlearn/report/1"})


class Page(HTMLParser):
    """Tags with their attributes, and the text in between."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing(run, tmp_path):
    run.report.save(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "a", "b", "base", "form"}
    for tag, given in page.tags:
        assert not any(name.startswith("on") for name in given)
        for name in ("src", "href", "srcset", "action", "data"):
            assert given.get(name, "data:").startswith("data:"), (tag, given)
    assert "url(" not in text
    assert "@import" not in text
    pictures = [given for tag, given in page.tags if tag == "img"]
    assert len(pictures) == len(list((tmp_path / "figures").glob("*.png"))) >= 4
    assert all(given["alt"] for given in pictures)
    assert 'name="viewport"' in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    assert "certified" not in text.lower() + (tmp_path / "report.md").read_text().lower()


def test_hostile_names_are_inert(run):
    html, markdown = run.report.to_html(figures=False), run.report.to_markdown()
    assert "<script>alert(1)</script>" in Page(html).text  # as text
    assert "<script" not in html
    assert "<" not in markdown
    assert "http://" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, "every row has the same cells"
    assert not re.search(r"(?<!\\)`|(?<!\\)\*\*b", markdown)
    assert not any(line.startswith("# **b") for line in markdown.splitlines())


def test_inert_text_keeps_what_it_says():
    assert inert("plain words, 97.1 % and gradient_ascent") == "plain words, 97.1 % and gradient_ascent"
    assert inert("a\n\n# b") == "a \\# b"
    assert inert("__x__ a_b") == "\\_\\_x\\_\\_ a_b"
    assert inert("_x_ | <i> &amp;") == "\\_x\\_ \\| &lt;i&gt; &amp;amp;"
    assert inert("@someone www.x.org 97.1 et al.") == "@&#8288;someone www.x.&#8288;org 97.1 et al."
    assert inert("http://x \\(y\\)") == "http:/&#8288;/x &#92;(y&#92;)"
    assert inert("a\x1b[31m\u202eb\ud800") == "a�\\[31m�b�"


def test_the_terminal_shows_names_as_they_are(run, capsys):
    report = UnlearningReport(models={"unlearned": {"test_accuracy": 0.5}}, run={"request": "class [red]x[/red] [/]"})
    report.print()
    assert "[red]x[/red] [/]" in capsys.readouterr().out


@pytest.mark.parametrize("figures", [True, False])
def test_no_file_holds_a_row_of_the_forget_set(tmp_path, figures):
    data = text_data(40).add_column("user", [f"secret-{i}" for i in range(40)])
    split = ForgetRequest(column="user", values=["secret-7", "secret-11", "secret-12"]).split(data)
    trainer = trainer_for("bert", tmp_path / "run", JiT(num_perturbations=2), split=split, forget_kind="samples")
    trainer.train()
    trainer.report(test_dataset=text_data(12, seed=3)).save(tmp_path / "report", figures=figures)
    written = b"".join(f.read_bytes() for f in (tmp_path / "report").rglob("*") if f.is_file())
    assert b"secret" not in written
    assert not any(text.encode() in written for text in split.forget["text"])


def test_relearning_has_a_curve_that_ends_where_the_steps_do(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2))
    trainer.train()
    report = trainer.report(test_dataset=data_for("vit", 36, seed=7), relearning=True)
    for name, path in report.relearning.items():
        assert len(path) - 1 == report.models[name]["relearning_steps"] or len(path) == 200
    rows = [trainer.processor(row) for row in trainer.forget_dataset]
    path = list(relearn(trainer.model, rows, rows, trainer.processor, stop=0.9))
    assert path[-1][0] == len(path) - 1
    assert [step for step, _ in relearn(trainer.model, rows, rows, trainer.processor, limit=3)] == [0, 1, 2, 3]
    assert report.to_html().count("<img") >= 3


# --- both ways --------------------------------------------------------------------------------------------------------


def test_more_right_than_the_retrained_model_is_under_forgetting():
    def warned(ours, theirs):
        limits = {"unlearned": {"forget_accuracy": ours}, "retrained": {"forget_accuracy": theirs}}
        models = {name: {"forget_accuracy": sum(pair["forget_accuracy"]) / 2} for name, pair in limits.items()}
        return [w.split(":")[0] for w in UnlearningReport(models=models, intervals=limits).warnings]

    assert warned([0.97, 1.0], [0.91, 0.96]) == ["under-forgetting"]
    assert warned([0.95, 1.0], [0.91, 0.96]) == []
    assert warned([0.1, 0.2], [0.91, 0.96]) == ["over-forgetting"]


def side(**limits):
    return {"intervals": limits, "models": {name: sum(pair) / 2 for name, pair in limits.items()}}


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ({"loss_attack_auc": [0.3, 0.4]}, {"loss_attack_auc": [0.45, 0.55]}, "the loss attack finds less"),
        ({"loss_attack_auc": [0.4, 0.5]}, {"loss_attack_auc": [0.45, 0.55]}, None),
        ({"membership_attack": [0.0, 0.1]}, {"membership_attack": [0.2, 0.3]}, "the entropy attack finds less"),
        ({"loss_attack_auc": [0.3, 0.4]}, None, "below chance"),
        ({"loss_attack_auc": [0.4, 0.6]}, None, None),
        ({"membership_attack": [0.0, 0.1]}, None, None),
    ],
)
def test_an_attack_that_finds_too_little_is_over_forgetting(ours, theirs, word):
    sides = {"original": side(), "unlearned": side(**ours)} | ({"retrained": side(**theirs)} if theirs else {})
    report = UnlearningReport(
        models={name: part["models"] for name, part in sides.items()},
        intervals={name: part["intervals"] for name, part in sides.items()},
    )
    assert len(report.warnings) == (word is not None)
    assert word is None or word in report.warnings[0]
    if theirs and word:
        assert "it over-forgets" in report.to_markdown()


@pytest.mark.parametrize(("original", "words"), [(0.05, "the original's was lower still"), (0.9, "it over-forgets")])
def test_less_than_in_the_retrained_model_is_too_little_where_the_original_had_still_less(original, words):
    shares = {"original": original, "unlearned": 0.2, "retrained": 0.5}
    report = UnlearningReport(
        models={name: {"membership_attack": share} for name, share in shares.items()},
        intervals={name: {"membership_attack": [share - 0.01, share + 0.01]} for name, share in shares.items()},
    )
    (warning,) = report.warnings
    assert warning.startswith("under-forgetting" if original < 0.2 else "over-forgetting")
    (sentence,) = [x for x in reading(report) if "entropy attack" in x]
    assert words in sentence
