"""Short runs of the published baselines, and their published algorithms restated on the batches of such a run."""

import copy

import torch

from hf_unlearn import UnlearningTrainer
from hf_unlearn.models.forward import model_inputs
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import state, trained
from tests.support.runs import SGD, arguments

RATE = 0.05


def run_of(arch, folder, method, *, split=None, base="none", model=None, held_out=True, **changes):
    """A trainer with plain steps of SGD, so that what it did can be computed again."""
    split = class_split(arch, 96) if split is None else split
    settings = {"max_steps": 4, **SGD, "learning_rate": RATE, **changes}
    return UnlearningTrainer(
        trained(arch) if model is None else model, arguments(folder, **settings), method, split.forget, split.retain,
        eval_dataset=data_for(arch, 32, 9) if held_out else None, processing_class=processing_class(arch), base_model=base,
    )  # fmt: skip


def recorded(trainer):
    """Train, and return the batches of all steps."""
    batches, before = [], trainer.method.before_step

    def record(model, given):
        batches.extend(copy.deepcopy(given))
        return before(model, given)

    trainer.method.before_step = record
    trainer.train()
    return batches


def replayed(model, batches, loss, after=None):
    """Take a step of SGD down `loss(model, batch, step)` for each batch, then call `after(model, before)`. Return the weights."""
    for step, batch in enumerate(batches):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        model.zero_grad()
        loss(model, batch, step).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(RATE * parameter.grad)
            if after is not None:
                after(model, before)
    return state(model)


def logits_of(model, side):
    return model(**model_inputs(side)).logits


def forget_rows(trainer):
    """All rows to forget, as one batch."""
    rows = trainer.forget_rows
    return trainer.processor.collate(rows.many(range(len(rows))))


def close(found, expected, tolerance=1e-5):
    """Check that two tables of weights are equal up to rounding."""
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)
