"""What users of the HF Trainer expect to work: loggers, callbacks, search, precision, compilation, checkpointing."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_unlearn import (
    UIB,
    CounterfactualDistillation,
    FineTune,
    ForgetRequest,
    GradientAscent,
    GradientDifference,
    JiT,
    MarginalInformation,
    UnlearningMethod,
    UnlearningTrainer,
)
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.structure import default_targets
from hf_unlearn.training.hyperparameter_search import measures_of, remaining_damage, tuned
from tests.support.data import class_split, data_for, processing_class, text_data
from tests.support.models import changed, state, trained
from tests.support.runs import SGD, arguments, trainer_for

pytestmark = pytest.mark.slow

# --- loggers ----------------------------------------------------------------------------------------------------------


def looks_of(trainer):
    return {int(look["step"]): (look["forget"], look["retain"]) for look in trainer.outcome.path}


def test_looks_are_entries_of_the_log_at_their_steps(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientDifference(), max_steps=6, check_steps=2, logging_steps=3)
    trainer.train()
    history = trainer.state.log_history
    found = {e["step"]: (e["forget_remembered"], e["retain_accuracy"]) for e in history if "forget_remembered" in e}
    assert found == looks_of(trainer)
    assert list(found) == [0, 2, 4, 6]
    assert [e["step"] for e in history if "loss" in e] == [3, 6], "a look must not swallow the step's own entry"
    quiet = trainer_for("vit", tmp_path / "quiet", GradientDifference(), max_steps=2, logging_strategy="no")
    quiet.train()
    assert not [e for e in quiet.state.log_history if "forget_remembered" in e]


def test_tensorboard_has_the_terms_and_the_looks(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    data = text_data(64).add_column("user", [f"secret-{i}" for i in range(64)])
    split = ForgetRequest(column="user", values=[f"secret-{i}" for i in range(9)]).split(data)
    trainer = trainer_for(
        "bert", tmp_path, GradientDifference(), split=split, report_to="tensorboard", max_steps=4, check_steps=2,
        forget_kind="samples", eval_strategy="no",
    )  # fmt: skip
    trainer.train()
    files = list(tmp_path.rglob("events.out.tfevents*"))
    assert len(files) == 1
    events = accumulator.EventAccumulator(str(files[0]))
    events.Reload()
    found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert {"train/loss", "train/loss/forget", "train/loss/retain", "train/learning_rate"} <= found.keys()
    looks = looks_of(trainer)
    assert found["train/forget_remembered"] == pytest.approx({step: forget for step, (forget, _) in looks.items()})
    assert found["train/retain_accuracy"] == pytest.approx({step: retain for step, (_, retain) in looks.items()})
    logged = {e["step"]: e["loss/forget"] for e in trainer.state.log_history if "loss/forget" in e}
    assert found["train/loss/forget"] == pytest.approx(logged, rel=1e-5)
    content = files[0].read_bytes()
    assert b"secret-" not in content
    assert not any(text.encode() in content for text in split.forget["text"])


def test_trackio_has_the_terms_and_the_looks(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="needs trackio, whose local dashboard brings a web server")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    trainer = trainer_for(
        "vit", tmp_path / "out", GradientDifference(), report_to="trackio", project="forgetting", run_name="first",
        max_steps=4, check_steps=2, trackio_space_id=None,
    )  # fmt: skip
    trainer.train()
    entries = SQLiteStorage.get_logs("forgetting", "first")
    shares = [e["train/forget_remembered"] for e in entries if "train/forget_remembered" in e]
    assert shares == pytest.approx([forget for forget, _ in looks_of(trainer).values()])
    assert {"train/loss/forget", "train/loss/retain"} <= set().union(*entries)


# --- callbacks --------------------------------------------------------------------------------------------------------


class Every(TrainerCallback):
    """Notes every event, and what it is told."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(args, state, control, **kwargs):
            self.events.append((name, state.global_step, kwargs.get("model")))

        return note


def test_every_event_reaches_a_callback_in_its_turn(tmp_path):
    every = Every()
    split = class_split("vit")
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(
            tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            gradient_accumulation_steps=2, per_device_train_batch_size=4,
        ),
        GradientDifference(),
        split.forget,
        split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain},
        processing_class=processing_class("vit"),
        callbacks=[every],
    )  # fmt: skip
    trainer.train()
    names = [name for name, _, _ in every.events]
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    wanted = ["on_init_end", "on_train_begin", "on_epoch_begin", *step, "on_log", "on_evaluate", "on_save", *step]
    remaining = iter(names)
    assert all(any(found == want for found in remaining) for want in wanted), names
    assert names[-1] == "on_train_end"
    assert names.count("on_evaluate") == 4
    assert names.count("on_prediction_step") == 4
    assert all(model is None or model is trainer.model for _, _, model in every.events)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


def test_early_stopping_by_a_named_evaluation_set(tmp_path):
    split, patience = class_split("vit"), 2
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(
            tmp_path, max_steps=30, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="eval_retain_loss", greater_is_better=False, check_steps=100,
            update="all", trust_region=0.02, lr_scheduler_type="constant",
        ),
        GradientAscent(),
        split.forget,
        split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain},
        processing_class=processing_class("vit"),
        callbacks=[EarlyStoppingCallback(patience)],
    )  # fmt: skip
    trainer.train()
    losses = [e["eval_retain_loss"] for e in trainer.state.log_history if "eval_retain_loss" in e]
    best = int(np.argmin(losses))
    assert trainer.state.global_step == best + 1 + patience == len(losses) < 30
    assert trainer.outcome.stopped == "ended by a callback"
    assert trainer.state.best_global_step == best + 1
    assert trainer.evaluate()["eval_retain_loss"] == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_ended_by_a_callback_ends_with_its_average(tmp_path, stop):
    """The average after so many steps, whether a look falls on the last of them or not."""
    seen = []

    class Note(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append(state_of(model))

    def state_of(model):
        return {n: p.detach().clone() for n, p in model.named_parameters()}

    trainer = trainer_for(
        "vit", tmp_path, GradientDifference(), max_steps=8, check_steps=4, weight_average=0.5, update="all",
        callbacks=[Note(), StopAt(stop)], **SGD,
    )  # fmt: skip
    average = state_of(trainer.model)
    trainer.train()
    for weights in seen:
        average = {n: torch.lerp(average[n], w, 0.5) for n, w in weights.items()}
    assert len(seen) == stop
    assert trainer.outcome.stopped == "ended by a callback"
    final = state_of(trainer.model)
    assert all(torch.allclose(final[n], average[n], atol=1e-7) for n in final)
    assert not all(torch.allclose(final[n], seen[-1][n], atol=1e-7) for n in final)


# --- hyper-parameter search -------------------------------------------------------------------------------------------

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


def test_fields_of_either_and_the_method_itself_can_be_searched(tmp_path):
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
        ({"method.sigmaa": 1.0}, r"`method\.sigmaa` is no field of `JiT`\. Did you mean `method\.sigma`"),
        ({"trust_regoin": 0.1}, r"`trust_regoin` is no field of `UnlearningArguments`\. Did you mean `trust_region`"),
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
    """Lowers all logits, or has no finite loss."""

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


# --- precision, accumulation, compilation, checkpointing --------------------------------------------------------------

FAMILIES = {
    "jit": lambda: JiT(num_perturbations=2),
    "counterfactual_distillation": lambda: CounterfactualDistillation(relearning_steps=1),
    "gradient_difference": GradientDifference,
    "marginal_information": MarginalInformation,
    "uib": lambda: UIB(refresh=2),
    "fine_tune": FineTune,
}


def family(folder, key, arch="vit", **changes):
    settings = {"update": "all", "max_steps": 3, "logging_steps": 1, **changes}
    trainer = trainer_for(arch, folder, FAMILIES[key](), **settings)
    trainer.train()
    logged = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    assert len(logged) == settings["max_steps"]
    assert np.isfinite(logged).all()
    assert set(state(trainer.model)) == set(state(trained(arch))), "the names of the model's own tensors"
    return trainer


def displacement(trainer, arch="vit"):
    before, after = state(trained(arch)), state(trainer.model)
    assert all(after[n].dtype == t.dtype for n, t in before.items())
    return torch.cat([(after[n] - t).flatten() for n, t in before.items() if t.is_floating_point()])


def report_of(trainer):
    return trainer.report(test_dataset=data_for("vit", 24, seed=3)).models["unlearned"]


@pytest.mark.parametrize("key", ["jit", "gradient_difference", "uib", "fine_tune"])
def test_bf16_goes_the_same_way(tmp_path, key):
    plain, half = family(tmp_path / "32", key), family(tmp_path / "16", key, bf16=True)
    a, b = displacement(plain), displacement(half)
    assert torch.isfinite(b).all()
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > (0.6 if key == "fine_tune" else 0.95)
    assert changed(state(plain.model), state(half.model)), "bf16 was not used"
    assert half.outcome.outputs_moved == pytest.approx(plain.outcome.outputs_moved, abs=0.02)
    assert report_of(half)["test_accuracy"] == pytest.approx(report_of(plain)["test_accuracy"], abs=0.05)


@pytest.mark.parametrize("key", ["jit", "gradient_difference"])
def test_accumulated_micro_batches_give_the_same_weights(tmp_path, key):
    whole = family(tmp_path / "1", key, per_device_train_batch_size=8)
    parts = family(tmp_path / "4", key, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    a, b = displacement(whole), displacement(parts)
    assert (a - b).norm() < 1e-3 * a.norm()


@pytest.mark.parametrize(
    ("key", "backend"),
    [
        ("gradient_difference", "eager"),
        ("gradient_difference", "aot_eager"),
        pytest.param("jit", "eager", marks=pytest.mark.slow),
        pytest.param("uib", "eager", marks=pytest.mark.slow),
    ],
)
def test_compiled_models_give_the_same_weights(tmp_path, key, backend):
    import torch._dynamo.utils as dynamo

    torch._dynamo.reset()
    dynamo.counters.clear()
    compiled = family(tmp_path / "c", key, torch_compile=True, torch_compile_backend=backend)
    graphs, missed = dynamo.counters["stats"]["unique_graphs"], dict(dynamo.counters["recompile_limit"])
    torch._dynamo.reset()
    assert 0 < graphs < 6
    assert not missed
    a, b = displacement(family(tmp_path / "p", key)), displacement(compiled)
    assert (a - b).norm() <= 1e-5 * a.norm()
    assert report_of(compiled).keys() >= {"forget_accuracy", "test_accuracy"}
    compiled.save_model(str(tmp_path / "saved"))
    assert not changed(state(compiled.model), state(type(compiled.model).from_pretrained(tmp_path / "saved")))


CHECKPOINTING = {"gradient_checkpointing": True}


@pytest.mark.filterwarnings("error:None of the inputs")
@pytest.mark.parametrize(
    ("key", "arch"),
    [*((key, "vit") for key in FAMILIES), *((key, "bert") for key in ("jit", "gradient_difference", "uib"))],
)
def test_gradient_checkpointing_recomputes_and_gives_the_same_weights(tmp_path, caplog, key, arch):
    forwards = []

    def counted(folder, **changes):
        calls = [0]

        class Count(TrainerCallback):
            def on_step_begin(self, args, state_, control, model=None, **kwargs):
                if state_.global_step == 0:
                    layer = next(m for n, m in model.named_modules() if n.endswith(("attention", "self")))
                    layer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

        trainer = family(folder, key, arch, callbacks=[Count()], **changes)
        forwards.append(calls[0])
        return trainer

    plain, recomputed = counted(tmp_path / "p"), counted(tmp_path / "c", **CHECKPOINTING)
    assert not changed(state(plain.model), state(recomputed.model))
    assert forwards[1] > forwards[0]
    assert "one after another" not in caplog.text, "UIB's gradients of single samples were slowed down"


@pytest.mark.parametrize("update", ["head", "last:1", "peft"])
def test_gradient_checkpointing_above_frozen_layers_gives_the_same_weights(tmp_path, update):
    split = class_split("bert")

    def run(folder, **changes):
        own = {} if update == "peft" else {"update": update}
        trainer = UnlearningTrainer(
            trained("bert"),
            arguments(tmp_path / folder, forget_kind="class", **own, **changes),
            GradientDifference(),
            split.forget,
            split.retain,
            processing_class=processing_class("bert"),
            peft_config={"peft_type": "LORA", "r": 2} if update == "peft" else None,
        )
        trainer.train()
        return trainer

    plain, recomputed = run("p"), run("c", **CHECKPOINTING)
    assert plain.outcome.tensors_changed == recomputed.outcome.tensors_changed > 0
    assert not changed(state(plain.model), state(recomputed.model))


def test_the_form_of_checkpointing_that_loses_gradients_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`gradient_checkpointing_kwargs=\{'use_reentrant': True\}` loses"):
        arguments(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="does not support"):
        trainer_for("resnet", tmp_path, GradientDifference(), **CHECKPOINTING).train()
