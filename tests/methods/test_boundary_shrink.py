"""Boundary Shrink: the label of each forget row is the class that one adversarial step of the original reaches."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import BoundaryShrink, ForgetRequest
from tests.methods.baselines import close, forget_rows, logits_of, recorded, replayed, run_of
from tests.support.data import data_for
from tests.support.models import state, trained


def adversarial(model, rows, epsilon, gone):
    """One step up the loss of images, in the range of all of them, and what the model then says."""
    x = rows["pixel_values"].clone().requires_grad_()
    F.cross_entropy(model(pixel_values=x).logits, rows["labels"], reduction="sum").backward()
    pixels = rows["pixel_values"]
    spread = pixels.double().var(correction=0).sqrt().item()
    moved = (pixels + epsilon * spread * x.grad.sign()).clamp(pixels.min(), pixels.max())
    with torch.no_grad():
        logits = model(pixel_values=moved).logits
    logits[:, gone] = -torch.inf
    return logits.argmax(-1)


@pytest.mark.parametrize("kind", ["class", "samples"])
def test_labels_and_steps_are_those_of_the_algorithm(tmp_path, kind):
    split = ForgetRequest(fraction=0.3).split(data_for("vit", 96)) if kind == "samples" else None
    trainer = run_of("vit", tmp_path, BoundaryShrink(epsilon=2.0), split=split, forget_kind=kind)
    batches = recorded(trainer)
    gone = sorted(set(trainer.forget_dataset["label"])) if kind == "class" else []
    labels = adversarial(trained("vit").eval(), forget_rows(trainer), 2.0, gone)
    assert torch.equal(trainer.method._labels, labels)
    assert (labels != torch.tensor(trainer.forget_dataset["label"])).any()

    def loss(model, batch, step):
        return F.cross_entropy(logits_of(model, batch["forget"]), labels[batch["index"]])

    close(state(trainer.model), replayed(trained("vit").eval(), batches, loss))


def test_texts_move_in_their_embeddings(tmp_path):
    split = ForgetRequest(fraction=0.3).split(data_for("bert", 96))
    far, near = (
        run_of("bert", tmp_path / str(e), BoundaryShrink(epsilon=e), split=split, forget_kind="samples")
        for e in (4.0, 1e-6)
    )
    for trainer in (far, near):
        trainer.train()
    labels = torch.tensor(split.forget["label"])
    assert torch.equal(near.method._labels, labels)  # the original knows all rows, and nothing moved them
    assert (far.method._labels != labels).any()


def test_a_step_of_no_length_is_refused():
    with pytest.raises(ValueError, match="`epsilon` must be above 0"):
        BoundaryShrink(epsilon=0.0)
