"""The trainer finds the base of its original, and takes steps of the length that a method finds."""

import pytest
import torch

from hf_unlearn import GradientDifference, SurrogateDistillation, UnlearningMethod, UnlearningTrainer
from hf_unlearn.models.base import Base
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.training.base_model import LONGEST
from tests.models.test_base import save_encoder
from tests.support.data import class_split, processing_class
from tests.support.models import build, state, trained
from tests.support.runs import arguments, trainer_for


class Quick(UnlearningMethod):
    """Finds a learning rate of its own, and moves a little."""

    def setup(self, run):
        vars(self)["_found_rate"] = 3e-4

    def loss(self, model, batch, reference):
        return {"any": model(**model_inputs(batch["forget"])).logits.mean()}


@pytest.mark.parametrize(("given", "rate"), [({}, 3e-4), ({"learning_rate": 1e-3}, 1e-3)])
def test_the_rate_that_a_method_finds_holds_unless_the_user_gives_one(tmp_path, given, rate):
    trainer = trainer_for("vit", tmp_path, Quick(), trust_region=0.0, lr_scheduler_type="constant", **given)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == rate
    assert trainer.lr_scheduler.get_last_lr()[0] == rate


def test_an_optimizer_of_the_user_keeps_its_rate(tmp_path):
    model, split = trained("vit"), class_split("vit")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    trainer = UnlearningTrainer(
        model, arguments(tmp_path, lr_scheduler_type="constant"), Quick(), split.forget,
        processing_class=processing_class("vit"), optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train()
    assert optimizer.param_groups[0]["lr"] == 0.25


def started(tmp_path, base, model=None):
    split = class_split("bert")
    return UnlearningTrainer(
        trained("bert") if model is None else model, arguments(tmp_path / "out"), SurrogateDistillation(),
        split.forget, split.retain, processing_class=processing_class("bert"), base_model=base,
    )  # fmt: skip


@pytest.mark.slow
def test_the_base_is_the_given_one_random_weights_or_unknown(tmp_path):
    encoder = save_encoder("bert", tmp_path / "base")
    start = started(tmp_path, tmp_path / "base").starting_point()
    weight = encoder.embeddings.word_embeddings.weight
    assert start.pretrained
    assert torch.equal(start.model.bert.embeddings.word_embeddings.weight, weight)
    assert "bert.embeddings.word_embeddings.weight" in start.shared
    assert not any(n.startswith("classifier") for n in start.shared)
    fresh = started(tmp_path, "none").starting_point()
    assert not fresh.pretrained
    assert started(tmp_path, None).starting_point() is None


def test_the_base_is_found_beside_the_original(tmp_path):
    save_encoder("bert", tmp_path / "base")
    trained("bert").save_pretrained(tmp_path / "original")
    (tmp_path / "original" / "README.md").write_text(f"---\nbase_model: {tmp_path / 'base'}\n---\n")
    loaded = type(build("bert")).from_pretrained(tmp_path / "original")
    trainer = started(tmp_path, None, loaded)
    assert trainer.starting_point().pretrained
    assert isinstance(trainer.base_model, Base)


def test_a_found_base_that_does_not_fit_is_left_out_and_a_given_one_refused(tmp_path):
    save_encoder("vit", tmp_path / "base")
    with pytest.raises(ValueError, match="is a vit, and the original a bert"):
        started(tmp_path, tmp_path / "base").starting_point()
    trained("bert").save_pretrained(tmp_path / "original")
    (tmp_path / "original" / "README.md").write_text(f"---\nbase_model: {tmp_path / 'base'}\n---\n")
    assert started(tmp_path, None, type(build("bert")).from_pretrained(tmp_path / "original")).starting_point() is None
    with pytest.raises(ValueError, match="base_model"):
        started(tmp_path, tmp_path / "nowhere")


def test_finding_the_start_leaves_the_random_numbers_alone(tmp_path):
    trainer = started(tmp_path, "none")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.starting_point()
    assert torch.equal(torch.rand(3), expected)


def near_base(folder):
    """Save an encoder as a base, and return a classifier whose training moved every weight by a thousandth."""
    save_encoder("bert", folder)
    original = Base(str(folder)).load(trained("bert"))
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.001)
    return original


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "given", "rate"),
    [("base", {}, LONGEST * 0.001 / 1.001), ("base", {"trust_region": 0.002}, 0.002), ("none", {}, 0.002)],
    ids=["as far as training went", "as given", "random weights"],
)
def test_a_step_of_a_trust_region_is_a_share_of_the_way_that_training_went(tmp_path, base, given, rate):
    original, split = near_base(tmp_path / "base"), class_split("bert")
    trainer = UnlearningTrainer(
        original, arguments(tmp_path / "out", lr_scheduler_type="constant", update="all", **given), GradientDifference(),
        split.forget, split.retain, processing_class=processing_class("bert"),
        base_model=base if base == "none" else tmp_path / base,
    )  # fmt: skip
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-3)
    before, after = state(near_base(tmp_path / "again")), state(trainer.model)
    weight = "bert.embeddings.word_embeddings.weight"
    way = float((after[weight] - before[weight]).norm() / before[weight].norm())
    assert 0 < way <= 3.01 * rate
