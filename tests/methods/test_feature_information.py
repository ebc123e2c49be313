"""IT-reg for features: the closed form on a batch, stratified batches, groups that are missing, and a bias unlearned."""

import datasets
import numpy as np
import pytest
import torch

from hf_unlearn import FeatureInformation, UnlearningTrainer
from hf_unlearn.data.columns import read_groups
from hf_unlearn.data.sampling import EpochSampler
from hf_unlearn.metrics.functional.information_audit import audit
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from tests.support.data import CLASSES, data_for, groups_for, image_processor, processing_class
from tests.support.models import build, trained
from tests.support.runs import arguments


def trainer_on(arch, folder, data, model=None, method=None, **changes):
    settings = {"update": "all", "trust_region": 0.0, "learning_rate": 3e-3, "forget_kind": "auto", **changes}
    return UnlearningTrainer(
        model=trained(arch) if model is None else model,
        args=arguments(folder, **settings),
        method=method or FeatureInformation(attribute="group"),
        retain_dataset=data,
        processing_class=processing_class(arch),
    )


def information(p, z):
    """Of the joint table of (Ŷ, Z), by its definition."""
    table = torch.stack([p[z == k].sum(0) for k in z.unique()]).double() / len(p)
    ratio = table / (table.sum(0) * table.sum(1, keepdim=True))
    return torch.xlogy(table, ratio).sum().item()


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_term_is_the_information_of_the_joint_table(tmp_path, arch, conditional):
    method = FeatureInformation(attribute="group", weight=3.0, conditional=conditional, memory=0.0, temperature=1.0)
    trainer = trainer_on(arch, tmp_path, data_for(arch, 64), model=build(arch), method=method)
    with torch.no_grad():
        list(trainer.model.parameters())[-2].mul_(30)  # an untrained model has nearly equal outputs on all inputs
    trainer._set_up()
    batch = next(iter(trainer.get_train_dataloader()))
    value = method.loss(trainer.model, batch, trainer.reference)["information"].item()
    with torch.no_grad():
        inputs = {k: v for k, v in batch["retain"].items() if k != "labels"}
        p = trainer.model.eval()(**inputs).logits.softmax(-1)
    z, y = batch["group"], batch["retain"]["labels"]
    if not conditional:
        assert value == pytest.approx(3 * information(p, z), rel=1e-3, abs=1e-6)
        return
    by_label = [(y == c).float().mean().item() * information(p[y == c], z[y == c]) for c in y.unique()]
    assert value == pytest.approx(3 * sum(by_label), rel=1e-3, abs=1e-6)


def test_groups_of_the_batch_are_those_of_its_rows(tmp_path):
    data = data_for("vit", 40)
    trainer = trainer_on("vit", tmp_path, data)
    for batch in trainer.get_train_dataloader():
        assert batch["group"].tolist() == [groups_for(40)[i] for i in batch["index"].tolist()]


@pytest.mark.parametrize("n", [40, 101, 1000])
def test_stratified_order_spreads_every_stratum(n):
    rng = np.random.default_rng(0)
    strata = rng.choice(5, n, p=[0.6, 0.2, 0.1, 0.06, 0.04])
    sampler = EpochSampler(n, seed=1, strata=strata)
    order = [index for _, _, index in sampler]
    assert sorted(order) == list(range(n))
    for start in range(0, n - 20, 20):
        part = strata[order[start : start + 20]]
        for s in range(5):
            assert abs((part == s).sum() - 20 * (strata == s).mean()) < 2
    sampler.epoch = 1
    assert order != [index for _, _, index in sampler]


def test_a_group_that_a_batch_lacks_is_no_nan(tmp_path):
    data = data_for("vit", 64)
    rare = data.remove_columns("group").add_column("group", [1 if i in (3, 17) else 0 for i in range(64)])
    trainer = trainer_on("vit", tmp_path, rare, max_steps=8, per_device_train_batch_size=8)
    trainer.train()
    assert trainer.outcome.tensors_changed > 0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_names_of_groups_from_strings_booleans_and_class_labels():
    data = datasets.Dataset.from_dict({"s": ["b", "a", "b"] * 20, "t": [True, False, True] * 20})
    ids, names = read_groups(data, "s")
    assert names == ["a", "b"]
    assert ids[:3].tolist() == [1, 0, 1]
    assert read_groups(data, "t")[1] == ["False", "True"]
    named = data.cast_column("s", datasets.ClassLabel(names=["b", "a"]))
    assert read_groups(named, "s")[1] == ["b", "a"]


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        (None, [0, 1] * 20, "`attribute` is missing"),
        ("sex", [0, 1] * 20, "`attribute='sex'` is not a column"),
        ("group", [0] * 40, "one value only"),
        ("group", [0, None] * 20, "20 missing values"),
        ("group", [0.0, 1.0, float("nan"), 1.0] * 10, "10 missing values"),
        ("group", [float(i) for i in range(40)], "Bin a continuous one"),
    ],
)
def test_bad_attributes_are_refused_before_the_model_is_touched(tmp_path, column, values, match):
    data = data_for("vit", 40).remove_columns("group").add_column("group", values)
    with pytest.raises(ValueError, match=match):
        trainer_on("vit", tmp_path, data, method=FeatureInformation(attribute=column))


def test_retain_set_is_needed_and_may_not_be_a_stream(tmp_path):
    with pytest.raises(ValueError, match="needs `retain_dataset`"):
        trainer_on("vit", tmp_path, None)
    with pytest.raises(ValueError, match=r"`attribute='group'`.*stream"):
        trainer_on("vit", tmp_path, data_for("vit").to_iterable_dataset())


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"memory": -0.1}, {"temperature": 0.0}])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        FeatureInformation(attribute="group", **settings)


def biased(n, share, seed):
    """A faint class in one half of the image, a bright patch in the other that names the class in `share` of the rows."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    z = np.where(rng.random(n) < share, y, 1 - y)
    x = rng.normal(-0.3, 0.3, (n, 3, 16, 16))
    x[np.arange(n), y, :, :8] += 0.08
    x[np.arange(n), z, :, 8:] += 1.5
    features = datasets.Features(
        {
            "pixel_values": datasets.Array3D((3, 16, 16), "float32"),
            "label": datasets.ClassLabel(CLASSES),
            "patch": datasets.Value("string"),
        }
    )
    rows = {
        "pixel_values": np.clip(x, -2, 2).astype(np.float32),
        "label": y,
        "patch": ["left" if v else "right" for v in z],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.slow
def test_a_bias_is_unlearned(tmp_path):
    train, test = biased(2000, 0.9, 0), biased(400, 0.5, 1)
    model = build("resnet")
    processor = Processor(model, image_processor())
    batch = processor.collate([processor(r) for r in train])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    y, z = np.asarray(test["label"]), np.asarray([v == "left" for v in test["patch"]])

    def measure():
        logits, _ = predict(model, test, processor)
        right = (logits.argmax(-1).numpy() == y)[y != z]
        return right.mean(), audit(logits.softmax(-1), z.tolist(), y.tolist(), resamples=50).value

    conflicting, information_before = measure()
    assert conflicting < 0.7, "the original must have learned the bias"
    trainer = trainer_on(
        "resnet", tmp_path, train, model=model, method=FeatureInformation(attribute="patch"),
        num_train_epochs=6, max_steps=None, per_device_train_batch_size=100, max_retain_drop=0.3,
    )  # fmt: skip
    trainer.train()
    after, information_after = measure()
    assert information_after < 0.3 * information_before
    assert after > conflicting + 0.15
