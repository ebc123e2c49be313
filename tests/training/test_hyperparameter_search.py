"""Every trial of a search is the run that a fresh trainer makes."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from transformers import TrainerCallback

from hf_unlearn import UIB, GradientDifference, JiT, UnlearningMethod, UnlearningTrainer
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.structure import default_targets
from hf_unlearn.training.hyperparameter_search import measures_of, remaining_damage, tuned
from tests.support.data import class_split, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import arguments, trainer_for

pytestmark = pytest.mark.slow

optuna = pytest.importorskip("optuna")


optuna.logging.set_verbosity(optuna.logging.ERROR)


def searching(folder, **changes):
    settings = {"forget_target": 0.1, "max_steps": 3, "logging_strategy": "no", **changes}
    return trainer_for("vit", folder, settings.pop("method", JiT(num_perturbations=2)), **settings)


def grid(**values):
    return {"sampler": optuna.samplers.GridSampler(values), "n_trials": math.prod(map(len, values.values()))}


def space(trial):
    return {
        "method.sigma": trial.suggest_categorical("method.sigma", [0.2, 2.0]),
        "trust_region": trial.suggest_categorical("trust_region", [0.01, 0.3]),
    }


VALUES = {"method.sigma": [0.2, 2.0], "trust_region": [0.01, 0.3]}


def test_each_trial_is_the_run_that_a_fresh_trainer_makes(tmp_path):
    objectives, weights, original = [], [], state(trained("vit"))

    class Note(TrainerCallback):
        def on_train_begin(self, args, state_, control, model=None, **kwargs):
            assert not changed(original, state(model))

        def on_train_end(self, args, state_, control, model=None, **kwargs):
            weights.append((args.trust_region, args.output_dir, state(model)))

    trainer = searching(tmp_path / "search", callbacks=[Note()])
    trainable = [p.requires_grad for p in trainer.model.parameters()]

    def objective(measures):
        objectives.append(measures)
        return remaining_damage(measures)

    best = trainer.hyperparameter_search(space, objective, direction="minimize", **grid(**VALUES))
    assert len(weights) == len(objectives) == 4
    assert not changed(original, state(trainer.model))
    assert [p.requires_grad for p in trainer.model.parameters()] == trainable
    assert trainer.outcome is None
    assert trainer.args.trust_region not in (0.01, 0.3)
    assert {p.name for p in (tmp_path / "search").iterdir()} == {f"run-{i}" for i in range(4)}
    assert len({path for _, path, _ in weights}) == 4
    assert best.objective == min(map(remaining_damage, objectives))
    assert len({json.dumps(m["outputs_moved"]) for m in objectives}) == 4

    values = best.hyperparameters
    alone = searching(
        tmp_path / "alone",
        method=JiT(num_perturbations=2, sigma=values["method.sigma"]),
        trust_region=values["trust_region"],
    )
    alone.train()
    found = [w for _, path, w in weights if path.endswith(f"run-{best.run_id}")]
    assert not changed(found[0], state(alone.model))
    again = tuned(trainer, values, tmp_path / "again")
    assert again.method.sigma == values["method.sigma"]
    again.train()
    assert not changed(state(again.model), state(alone.model))
    assert not changed(original, state(trainer.model))


def test_a_trained_trainer_searches_from_its_original(tmp_path):
    trainer = searching(tmp_path, overwrite=True)
    trainer.train()
    after, outcome = state(trainer.model), trainer.outcome
    assert changed(state(trained("vit")), after)
    starts = []

    class Note(TrainerCallback):
        def on_train_begin(self, args, state_, control, model=None, **kwargs):
            starts.append(state(model))

    trainer.add_callback(Note())
    trainer.hyperparameter_search(
        lambda t: {"method.sigma": t.suggest_categorical("method.sigma", [0.5])}, **grid(**{"method.sigma": [0.5]})
    )
    assert len(starts) == 1
    assert not changed(state(trained("vit")), starts[0])
    assert not changed(after, state(trainer.model))
    assert trainer.outcome is outcome


@pytest.mark.parametrize("stacked", [False, True])
def test_an_adapter_is_searched_over_the_model_below_it(tmp_path, stacked):
    peft = pytest.importorskip("peft")
    model = trained("vit")
    if stacked:
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=default_targets(model)[:2], r=2))
    plain = state(model)
    split = class_split("vit")
    trainer = UnlearningTrainer(
        model, arguments(tmp_path), JiT(num_perturbations=2), split.forget, split.retain,
        processing_class=processing_class("vit"), peft_config={"peft_type": "LORA", "r": 2},
    )  # fmt: skip
    with trainer.patch.off() as off:
        before = state(off)
    new = tuned(trainer, {"trust_region": 0.2}, tmp_path / "new")
    assert new.model is not trainer.model
    assert len(new.model.peft_config) == len(trainer.model.peft_config)
    new.train()
    assert new.outcome.tensors_changed
    with trainer.patch.off() as off:
        assert not changed(before, state(off))
    kept = [n for n in plain if "lora" not in n]
    assert kept


def test_arguments_settings_and_the_method_can_be_searched(tmp_path):
    trainer = searching(tmp_path, method=None, retain_per_forget=None)
    methods = []

    class Note(TrainerCallback):
        def on_train_begin(self, args, state_, control, **kwargs):
            methods.append((args.update, args.check_steps, args.per_device_train_batch_size))

    trainer.add_callback(Note())
    trainer.hyperparameter_search(
        lambda t: {
            "method": t.suggest_categorical("method", ["jit", "gradient_ascent"]),
            "per_device_train_batch_size": 4,
        },
        **grid(method=["jit", "gradient_ascent"]),
    )
    # each takes its own method's values for what was left open
    assert sorted(methods) == sorted([("head", 2, 4), ("all", 1, 4)])
    inner = tuned(searching(tmp_path / "uib", method=UIB(base=JiT(sigma=3.0))), {"method.beta": 0.7}, tmp_path / "x")
    assert (inner.method.beta, inner.method.base.sigma) == (0.7, 3.0)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"method.sigmaa": 1.0}, r"`method\.sigmaa` is not a field of `JiT`\. Did you mean `method\.sigma`"),
        (
            {"trust_regoin": 0.1},
            r"`trust_regoin` is not a field of `UnlearningArguments`\. Did you mean `trust_region`",
        ),
        ({"method.sigma": -1.0}, "`sigma` must be positive"),
        ({"trust_region": 2.0}, "`trust_region`"),
        ({"method": "magic"}, "`method='magic'` is unknown"),
    ],
)
def test_a_wrong_name_or_value_ends_the_search(tmp_path, values, match):
    with pytest.raises(ValueError, match=match):
        searching(tmp_path).hyperparameter_search(lambda trial: values, n_trials=1)


def test_what_cannot_be_searched_is_refused(tmp_path):
    trainer = searching(tmp_path)
    with pytest.raises(ValueError, match="`hp_space` is missing"):
        trainer.hyperparameter_search()
    with pytest.raises(ValueError, match="`backend='ray'`"):
        trainer.hyperparameter_search(space, backend="ray")
    split, model = class_split("vit"), trained("vit")
    bound = UnlearningTrainer(
        model, arguments(tmp_path), JiT(), split.forget, optimizers=(torch.optim.SGD(model.classifier.parameters(), lr=0.1), None),
        processing_class=processing_class("vit"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="`optimizers` hold the parameters of one model"):
        bound.hyperparameter_search(space)


def test_objectives_read_evaluation_sets_and_there_may_be_several(tmp_path):
    split = class_split("vit")
    trainer = UnlearningTrainer(
        trained("vit"), arguments(tmp_path, logging_strategy="no"), JiT(num_perturbations=2), split.forget, split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain}, processing_class=processing_class("vit"),
    )  # fmt: skip
    best = trainer.hyperparameter_search(
        lambda t: {"trust_region": t.suggest_categorical("trust_region", [0.01, 0.3])},
        lambda m: (m["eval_retain_loss"], m["eval_forget_loss"]),
        direction=["minimize", "maximize"],
        **grid(trust_region=[0.01, 0.3]),
    )
    assert all(len(run.objective) == 2 for run in best)


@dataclass(kw_only=True)
class Faulty(UnlearningMethod):
    """Lowers all logits, or has a loss of NaN."""

    fault: bool = False

    def loss(self, model, batch, reference):
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        return {"logits": logits.square().mean() * (math.nan if self.fault else 1.0)}


def test_a_trial_without_a_finite_loss_has_failed_and_the_search_goes_on(tmp_path):
    best = searching(tmp_path, method=Faulty()).hyperparameter_search(
        lambda trial: {"method.fault": trial.number != 1}, n_trials=3
    )
    assert best.run_id == "1"


def test_the_default_objective_is_distance_to_the_target_and_kept_accuracy_lost(tmp_path):
    single = {"whole_classes": 0.0, "forget_remembered": 0.7, "forget_target": 0.9, "retain_drop": 0.05}
    assert remaining_damage(single) == pytest.approx(0.25)
    assert remaining_damage(single | {"forget_remembered": 1.0}) == pytest.approx(0.15)
    assert remaining_damage(single | {"whole_classes": 1.0}) == pytest.approx(0.05)
    assert remaining_damage(single | {"retain_drop": -0.2}) == pytest.approx(0.2)
    assert remaining_damage({"whole_classes": 0.0, "forget_remembered": 0.7}) == pytest.approx(0.7)
    trainer = searching(tmp_path, method=GradientDifference())
    trainer.train()
    measured, outcome = measures_of(trainer), trainer.outcome
    assert measured["forget_remembered"] == outcome.forget_end
    assert measured["retain_drop"] == outcome.retain_start - outcome.retain_end
    assert measured["forget_target"] == 0.1
    assert measured["whole_classes"] == 1.0
