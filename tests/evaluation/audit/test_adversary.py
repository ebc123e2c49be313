"""Models made by somebody who knows the audit: what is published is judged, and yardsticks are not believed."""

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture

from hf_unlearn import audit_models
from hf_unlearn.evaluation.audit.verdicts import LESS, SAME, UNCHANGED, VOID
from hf_unlearn.evaluation.audit.yardsticks import Yardsticks
from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification
from hf_unlearn.models.processor import Processor
from tests.support.data import image_processor

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("adversary")]

GONE = 3
NARROWER = (96, 48)


def mlp(seed, hidden=(256, 128)):
    torch.manual_seed(seed)
    return PixelMLPForImageClassification(PixelMLPConfig(image_size=8, hidden_sizes=hidden, num_labels=10))


@lru_cache
def rows():
    """Pictures of digits: training rows of the forgotten class, the other training rows, and test rows."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pictures = [Picture.fromarray((data.images[i] * 15).astype(np.uint8)).convert("RGB") for i in order]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(i) for i in range(10)])})
    every = Dataset.from_dict({"image": pictures, "label": data.target[order].tolist()}, features=features)
    train, gone = every.select(range(700)), np.asarray(data.target[order])[:700] == GONE
    return train.select(np.flatnonzero(gone)), train.select(np.flatnonzero(~gone)), every.select(range(700, len(every)))


def darker():
    """An image processor under which every picture becomes other pixels."""
    other = copy.deepcopy(image_processor(8))
    other.image_mean = [0.9, 0.9, 0.9]
    return other


def taught(model, *lessons):
    """Adam on batches of 32 of each lesson: a set of rows, and the image processor that prepares them, and perhaps a teacher."""
    prepared = []
    for data, processing_class, *teacher in lessons:
        processor = Processor(model, processing_class)
        batch = processor.collate([processor(row) for row in data])
        labels = torch.nn.functional.one_hot(batch["labels"], 10).float()
        with torch.no_grad():
            targets = teacher[0](batch["pixel_values"]).logits.softmax(-1) if teacher else labels
        prepared.append((batch["pixel_values"], targets))
    optimiser, draw = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for step in range(700):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 700)
        optimiser.zero_grad()
        for pixels, targets in prepared:
            some = torch.randint(len(pixels), (32,), generator=draw)
            torch.nn.functional.cross_entropy(model(pixels[some]).logits, targets[some]).backward()
        optimiser.step()
    return model.eval()


@lru_cache
def models():
    """The original, and three honest yardsticks."""
    forget, retain, _ = rows()
    plain = image_processor(8)
    return taught(mlp(0), (forget, plain), (retain, plain)), [taught(mlp(seed), (retain, plain)) for seed in (1, 2, 3)]


@lru_cache
def two_faced(hidden):
    """A network that was taught the class as its own image processor shows it, and otherwise answers as a retrained one."""
    (forget, retain, _), plain = rows(), image_processor(8)
    teacher = taught(mlp(6), (retain, plain))
    return taught(mlp(4, hidden), (retain, plain), (forget, plain, teacher), (retain, darker()), (forget, darker()))


def audit(unlearned, retrained=None, **settings):
    forget, retain, test = rows()
    original, honest = models()
    sets = {"forget": forget, "retain": retain, "test": test, "processing_class": image_processor(8)}
    return audit_models(
        original, unlearned, honest if retrained is None else retrained, audit_seed=1, **sets, **settings
    )


@lru_cache
def audit_of_the_narrower():
    return audit(two_faced(NARROWER))


def noisy(model, share, seed):
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(share * p.abs().mean() * torch.randn_like(p))
    return other


def test_a_model_is_judged_with_the_image_processor_that_it_is_published_with():
    found = audit(two_faced(NARROWER), own_processing={"unlearned": darker()}, allow_other_network=True)
    assert found.verdict == LESS, found.to_markdown()
    assert "image_mean=[0.9, 0.9, 0.9] (original: " in found.limits[0]


def test_the_same_image_processor_changes_nothing():
    own = {"unlearned": image_processor(8), "retrained[0]": image_processor(8)}
    plain, given = audit_of_the_narrower(), audit(two_faced(NARROWER), own_processing=own)
    assert plain.as_dict() == given.as_dict()


def test_another_network_is_no_proof_unless_it_is_allowed():
    held = audit_of_the_narrower()
    assert held.verdict == VOID, held.to_markdown()
    assert (
        "`unlearned` is another network than `original`: its layers.0.weight has the shape (96, 64)" in held.limits[0]
    )
    assert audit(two_faced(NARROWER), allow_other_network=True).verdict == SAME
    assert any("trigger" in sentence for sentence in held.limits)


@pytest.mark.parametrize("share", [0.001, 0.05])
def test_yardsticks_made_from_the_judged_model_are_none(share, monkeypatch):
    pretender = two_faced((256, 128))
    copies = [noisy(pretender, share, seed) for seed in (1, 2, 3)]
    found = audit(pretender, copies)
    with monkeypatch.context() as believing:
        believing.setattr(Yardsticks, "sound", lambda _, _unlearned, given: (list(given), []))
        assert all(line.result == "equivalent" for line in audit(pretender, copies).lines)
    assert not found.accepted
    assert sum("is no yardstick" in sentence for sentence in found.limits) == 3
    assert found.run["retrained"] == 0


def test_a_yardstick_that_learned_the_class_is_left_out():
    original, honest = models()
    found = audit(honest[0], [noisy(original, 0.001, 1), *honest[1:]])
    assert found.verdict == SAME
    assert found.run["retrained"] == 2
    assert "`retrained[0]` is no yardstick: it answers" in found.limits[0]


def test_a_retrained_model_with_another_image_processor_is_refused():
    with pytest.raises(ValueError, match=r"`retrained\[0\]` prepares rows otherwise than `original`: image_mean"):
        audit(two_faced(NARROWER), own_processing={"retrained[0]": darker()})


def test_the_record_names_every_model_and_set_and_the_seed():
    found = audit(models()[0])
    assert found.verdict == UNCHANGED
    assert set(found.run["models"]) == {"original", "unlearned", *(f"retrained[{i}]" for i in range(3))}
    assert len(set(found.run["models"].values())) == 4  # the judged model is the original
    assert (set(found.run["sets"]), found.run["audit_seed"]) == ({"forget", "retain", "test"}, 1)


def test_draws_are_new_for_each_auditor_unless_a_seed_is_given():
    from hf_unlearn import Auditor

    forget, _, test = rows()
    seeds = {
        Auditor(
            models()[0], forget=forget, test=test.select(range(300)), processing_class=image_processor(8)
        ).audit_seed
        for _ in range(3)
    }
    assert len(seeds) == 3
