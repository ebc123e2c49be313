"""A run that damages retained rows goes back, halves its steps and goes on, and it gives up after a bounded number of times."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD, Adagrad, AdamW

from hf_unlearn import GradientAscent, MarginalInformation, UnlearningTrainer
from hf_unlearn.models.prediction import predict
from tests.support.data import class_split, image_data, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import arguments, trainer_for, whole_and_resumed

DROP = 0.2
STEPS = 12


@dataclass(kw_only=True)
class Recorded(GradientAscent):
    """Gradient ascent that keeps its batches, and the rates that it is told."""

    batches: list = field(default_factory=list, init=False)
    rates: list = field(default_factory=list, init=False)

    def loss(self, model, batch, reference):
        self.batches.append(batch["forget"])
        return super().loss(model, batch, reference)

    def after_step(self, model, learning_rate, share):
        self.rates.append((learning_rate, share))


def accuracy(model, rows, processor):
    logits, labels = predict(model, rows, processor)
    return (logits.argmax(-1) == labels).float().mean().item()


class RelativeStep(torch.optim.Optimizer):
    """The trust region, written again."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self):
        for group in self.param_groups:
            largest = max(p.grad.norm() for p in group["params"])
            for p in group["params"]:
                if p.grad.norm() > 1e-6 * largest:
                    length = group["lr"] * max(p.norm().item(), 0.01 * p.numel() ** 0.5)
                    p.data -= length * p.grad / p.grad.norm()


OPTIMIZERS = {  # name: the optimizer, its full rate, arguments of the run
    "trust region": (RelativeStep, 0.1, {"trust_region": 0.1}),
    "adamw": (lambda p, lr: AdamW(p, lr, weight_decay=0.0), 0.05, {"optim": "adamw_torch"}),
    "sgd": (lambda p, lr: SGD(p, lr, momentum=0.9), 1.0, {"optim": "sgd", "momentum": 0.9}),
    "adagrad": (Adagrad, 0.1, {"optim": "adagrad"}),
    "given": (lambda p, lr: SGD(p, lr, momentum=0.5, nesterov=True), 4.0, None),
}


def by_hand(model, names, batches, make, rate, checks, suffers):
    """Take the steps of a linear schedule as the control should. Returns the steps after which it halved, and the rates."""
    parameters = dict(model.named_parameters())
    moving = [parameters[n] for n in names]
    good, scale, back, halved, rates = state(model), 1.0, 0, [], []
    optimizer = make(moving, rate)
    for step, batch in enumerate(batches, 1):
        rates.append(rate * scale * (1 - (step - 1) / len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        logits = model(pixel_values=batch["pixel_values"]).logits
        (-F.cross_entropy(logits, batch["labels"])).backward()
        optimizer.step()
        optimizer.zero_grad()
        planned = step % checks == 0 or (scale < 1 and step - back in (1, 2, 4, 8))
        if (planned or step == 1) and suffers(model):
            model.load_state_dict(good)
            scale, back, optimizer = scale / 2, step, make(moving, rate)
            halved.append(step)
        elif planned:
            good = state(model)
    return halved, rates


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_a_loop_by_hand(tmp_path, name):
    make, rate, settings = OPTIMIZERS[name]
    method, model, split = Recorded(), trained("vit"), class_split("vit")
    common = {"max_steps": STEPS, "check_steps": 5, "max_retain_drop": DROP, "max_grad_norm": 0.0, "update": "last:1"}
    if settings is None:
        moving = [p for n, p in model.named_parameters() if n.startswith("classifier")]
        trainer = UnlearningTrainer(
            model, arguments(tmp_path, **common), method, split.forget, split.retain,
            processing_class=processing_class("vit"), optimizers=(make(moving, rate), None),
        )  # fmt: skip
        names = ["classifier.weight", "classifier.bias"]
    else:
        settings = {"learning_rate": rate, "trust_region": 0.0, **settings}
        trainer = trainer_for("vit", tmp_path, method, model=model, split=split, **common, **settings)
        names = trainer.updated
    trainer.train()
    ours, start = trained("vit").eval(), accuracy(trained("vit"), split.retain, trainer.processor)

    def suffers(model):
        return start - accuracy(model, split.retain, trainer.processor) > DROP

    halved, rates = by_hand(ours, names, method.batches, make, rate, 5, suffers)
    assert 0 < len(halved) < 6
    assert [c["step"] for c in trainer.outcome.path if "step_scale" in c] == halved
    assert [c["step_scale"] for c in trainer.outcome.path if "step_scale" in c] == [
        0.5 ** (i + 1) for i in range(len(halved))
    ]
    times = "1 time" if len(halved) == 1 else f"{len(halved)} times"
    assert trainer.outcome.stopped == f"all steps done, steps halved {times}"
    assert changed(state(trained("vit")), state(model))
    end, wanted, before = (torch.cat([t.flatten() for t in state(m).values()]) for m in (model, ours, trained("vit")))
    assert (end - wanted).norm() < 2e-3 * (wanted - before).norm()
    total = sum(rate * (1 - i / STEPS) for i in range(STEPS))
    assert [r for r, _ in method.rates] == pytest.approx(rates)
    assert [share for _, share in method.rates] == pytest.approx([r / total for r in rates])


def test_a_run_gives_up_after_the_given_number_of_halvings(tmp_path, caplog):
    settings = {"max_steps": 50, "check_steps": 5, "trust_region": 0.9, "max_retain_drop": 0.02}
    trainer = trainer_for("vit", tmp_path, GradientAscent(), max_halvings=2, **settings)
    trainer.train()
    assert trainer.outcome.steps == 3
    assert trainer.outcome.stopped.startswith("kept data suffers")
    assert trainer.outcome.stopped.endswith(", steps halved 2 times")
    assert trainer.outcome.unchanged
    assert not trainer.outcome.ok
    assert not changed(state(trained("vit")), state(trainer.model))
    assert caplog.text.count("back to the last good state, on with steps of") == 2


def test_damage_at_the_last_step_halves_the_way_until_nothing_suffers(tmp_path):
    """One step, whose way is cut: the reference measures every half of it by hand."""
    settings = {"max_steps": 1, "trust_region": 0.1}
    far = trainer_for("vit", tmp_path / "far", GradientAscent(), **settings)
    far.train()
    trainer = trainer_for("vit", tmp_path / "cut", GradientAscent(), max_retain_drop=DROP, **settings)
    trainer.train()
    start, end, model, retain = state(trained("vit")), state(far.model), trained("vit"), class_split("vit").retain
    accuracies = []
    for share in (0.0, 1.0, 0.5, 0.25, 0.125, 0.0625):
        model.load_state_dict({n: torch.lerp(t, end[n], share) for n, t in start.items()})
        accuracies.append(accuracy(model, retain, trainer.processor))
        if 0 < share < 1 and accuracies[0] - accuracies[-1] <= DROP:
            break
    assert [check["retain"] for check in trainer.outcome.path] == pytest.approx(accuracies)
    assert trainer.outcome.path[-2]["step_scale"] == share < 1
    assert not changed(state(model), state(trainer.model))
    assert trainer.outcome.stopped.startswith("all steps done, steps halved")


RESUMED = {
    "adamw": (GradientAscent, {"learning_rate": 0.02, "trust_region": 0.0, "check_steps": 4}),
    "average and pooled sums": (
        lambda: MarginalInformation(memory=0.5),
        {"learning_rate": 3.0, "trust_region": 0.0, "check_steps": 2, "weight_average": 0.5, "optim": "sgd"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_is_killed_after_a_halving_resumes_to_the_same_weights(tmp_path, name):
    make, settings = RESUMED[name]
    ends = {}

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit", tmp_path / folder, make(), callbacks=list(callbacks), max_steps=9, max_retain_drop=DROP,
            save_strategy="steps", save_steps=1, **settings,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        ends[folder] = trainer
        return state(trainer.model)

    whole, resumed = whole_and_resumed(run, 6)
    steps = [check["step"] for check in ends["whole"].outcome.path if "step_scale" in check]
    assert steps
    assert steps[0] < 6
    assert not changed(whole, resumed)
    assert ends["whole"].outcome == ends["killed"].outcome
    again = ends["killed"]  # the same trainer starts anew, with steps of the full length
    again.args.overwrite, again.outcome = True, None
    again.optimizer = None
    again.train()
    assert not changed(whole, state(again.model))


def test_the_look_after_the_first_step_moves_no_random_number_and_no_weight(tmp_path):
    """Rows with a transform of the user that draws from all three generators each time that it is read."""

    def noisy(rows):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return {**rows, "image": [image.point(lambda v, n=noise: int(v + n)) for image in rows["image"]]}

    ends = []
    for halvings in (0, 6):
        random.seed(0), np.random.seed(0)
        data = image_data(64)
        data.set_transform(noisy)
        split = replace(class_split("vit"), forget=data.select(range(16)), retain=data.select(range(16, 64)))
        trainer = trainer_for(
            "vit", tmp_path / str(halvings), GradientAscent(), split=split, max_steps=6, check_steps=3,
            trust_region=1e-3, max_halvings=halvings,
        )  # fmt: skip
        trainer.train()
        ends.append((state(trainer.model), trainer.outcome))
    assert not changed(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert [check["step"] for check in ends[1][1].path] == [0, 3, 6]


@dataclass(kw_only=True)
class Moved(GradientAscent):
    """Starts beside the original, and notes where each step starts."""

    starts: list = field(default_factory=list, init=False)

    def setup(self, run):
        with torch.no_grad():
            run.model.classifier.bias += 0.125
        run.monitor.model_changed()

    def before_step(self, model, batches):
        self.starts.append(state(model))


def test_before_a_good_check_a_run_goes_back_to_the_start_that_its_method_made(tmp_path):
    method = Moved()
    trainer = trainer_for(
        "vit", tmp_path, method, trust_region=0.5, max_steps=6, check_steps=2, max_retain_drop=DROP, max_halvings=1
    )
    begin = trained("vit").classifier.bias + 0.125
    trainer.train()
    halved = [check["step"] for check in trainer.outcome.path if "step_scale" in check]
    assert halved == [2]
    assert not changed(method.starts[0], method.starts[2])
    assert torch.equal(method.starts[2]["classifier.bias"], begin)
    assert not changed(state(trained("vit")), state(trainer.model)) or trainer.outcome.retain_end > 1 - DROP
