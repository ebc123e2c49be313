"""UIB: the start at the prior and the pull towards it, bases, streams of requests and resume."""

import copy
import json
import logging
import math

import pytest
import torch
import transformers
from torch import nn

from hf_unlearn import METHODS, UIB, FineTune, GradientAscent, JiT, MarginalInformation
from hf_unlearn.methods.components.influence import SampleGradients
from hf_unlearn.methods.information_bottleneck import _read_prior
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.structure import layer_groups
from tests.methods.support import distance
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import SGD, trainer_for, whole_and_resumed
from tests.support.tables import slow

# --- the prior, the start at it, and the pull towards it --------------------------------------------------------------


class Still(FineTune):
    """No gradient at all: so only the prior moves the weights."""

    name = "still"

    def loss(self, model, batch, reference):
        return {"retain": 0 * super().loss(model, batch, reference)["retain"]}


class Shifted(UIB):
    """Its mean lies a tenth beside where the run starts, so that there is something to pull."""

    def setup(self, trainer):
        super().setup(trainer)
        self.start = state(trainer.model)
        for mean in self._mean.values():
            mean.add_(0.1)


def still(kind=UIB, **settings):
    return kind(base=Still(), **{"samples": 16, "hold": 0.0, **settings})


@pytest.mark.parametrize(
    ("settings", "schedule", "strengths"),
    [
        ({"beta": 30.0, "normalise": False}, "constant", (0.3, 0.3, 0.3)),
        ({"beta": 30.0, "normalise": False}, "linear", (0.3, 0.2, 0.1)),
        ({"beta": 0.6}, "constant", (0.2, 0.2, 0.2)),
        ({"beta": 0.6}, "linear", (0.3, 0.2, 0.1)),
    ],
)
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_pull_is_the_closed_form_whatever_the_optimizer(tmp_path, optim, settings, schedule, strengths):
    method = still(Shifted, **settings)
    trainer = trainer_for("vit", tmp_path, method, **{**SGD, "optim": optim, "lr_scheduler_type": schedule})
    trainer.train()
    start, end = method.start, state(trainer.model)
    assert changed(start, end)
    for name, mean in method._mean.items():
        expected = start[name]
        for strength in strengths:
            pull = strength * method._precision[name]
            expected = (expected + pull * mean) / (1 + pull)
        assert torch.allclose(end[name], expected, rtol=1e-5, atol=1e-7), name


def test_the_run_starts_at_the_mean_and_the_first_check_is_of_the_original(tmp_path):
    trainer = trainer_for("vit", tmp_path, still(), **SGD)
    before = state(trainer.model)
    trainer.train()
    method = trainer.method
    for name, mean in method._mean.items():
        assert torch.allclose(trainer.model.get_parameter(name), mean, atol=1e-6), name
    assert distance(method._mean, before) > 1e-3
    assert trainer.forgetting.path[0]["forget"] == 1.0  # every answer is the original's own
    with trainer.original_weights() as model:
        assert not changed(before, state(model))
    for layer, names in layer_groups(trainer.model, method._mean).items():
        precision = torch.cat([method._precision[n].flatten() for n in names])
        assert precision.mean().item() == pytest.approx(1, rel=1e-4)
        assert precision.min() > 0
        move = distance({n: method._mean[n] for n in names}, before)
        size = torch.stack([before[n].norm() for n in names]).norm().item()
        assert method.diagnostics[layer] == pytest.approx(move / size, rel=1e-3)
    logged = [entry for entry in trainer.state.log_history if "displacement/head" in entry]
    assert logged
    assert logged[0]["displacement/head"] == method.diagnostics["head"]


def test_the_prior_moves_outputs_as_far_as_it_is_trusted_and_layers_as_far_as_clipped(tmp_path):
    moved = {}
    for trust in (0.01, 0.04):
        trainer = trainer_for("vit", tmp_path / str(trust), still(trust=trust, clip=1e6), forget_target=-1.0, **SGD)
        before = state(trainer.model)
        trainer.train()
        after = state(trainer.model)
        rows = trainer.method._probe.retain
        batch = trainer.processor.collate([rows.rows[i] for i in rows.own_rows().tolist()])
        log_probs = []
        for weights in (before, after):
            trainer.model.load_state_dict(weights)
            with torch.no_grad():
                out = trainer.model.eval()(pixel_values=batch["pixel_values"]).logits
            log_probs.append(out.log_softmax(-1))
        moved[trust] = (log_probs[0].exp() * (log_probs[0] - log_probs[1])).sum(-1).mean().item()
    for trust, value in moved.items():
        assert 0.7 * trust <= value <= 1.4 * trust
    clipped = trainer_for("vit", tmp_path / "clip", still(trust=0.04, clip=1e-3), **SGD)
    clipped.train()
    assert max(clipped.method.diagnostics.values()) <= 1.001e-3


def test_the_prior_goes_on_to_the_target_and_never_beyond_its_limit(tmp_path):
    def remembered(**settings):
        target = settings.pop("target")
        folder = tmp_path / f"{target}-{len(list(tmp_path.iterdir()))}"
        trainer = trainer_for("vit", folder, still(clip=1e6, **settings), forget_target=target, **SGD)
        trainer.train()
        return trainer.method._probe.remembered(), trainer.method._probe.moved()

    share, moved = remembered(target=0.5, reach=50.0)
    assert share <= 0.7
    short, held = remembered(target=0.0, trust=0.004, reach=0.004)
    assert held <= 0.006 < moved
    assert short > share


def test_what_the_prior_costs_counts_as_training():
    # 8 of 100 forget rows and 8 of 1,000 retain rows: two rows of a training each, or seven where gradients are taken one by one.
    assert UIB(samples=8).rows_before_steps(100, 1000, 1_000_000) == 32
    assert UIB(samples=8).rows_before_steps(100, 1000, 22_000_000) == 112
    assert UIB(samples=8).rows_before_steps(3, 1000, 1_000_000) == 22
    assert UIB(beta=0.0).rows_before_steps(100, 1000, 1_000_000) == 0
    assert JiT().rows_before_steps(100, 1000, 22_000_000) == 0


def test_what_is_kept_is_twice_the_parameters(tmp_path):
    trainer = trainer_for("vit", tmp_path, UIB(samples=16), **SGD)
    trainer.train()
    method = trainer.method
    held = [t for table in (method._mean, method._precision) for t in table.values()]
    own = [p for p in trainer.model.parameters() if p.requires_grad]
    assert sum(t.numel() for t in held) == 2 * sum(p.numel() for p in own)
    tables = [v for v in vars(method).values() if isinstance(v, dict) and any(torch.is_tensor(t) for t in v.values())]
    assert len(tables) == 2  # displacement, curvature and start of the pass are gone


@pytest.mark.parametrize(("settings", "update"), [({"layers": r"\.1\."}, "all"), ({}, "head"), ({}, "last:1")])
def test_only_chosen_and_movable_parameters_are_moved(tmp_path, settings, update):
    trainer = trainer_for("vit", tmp_path, still(**settings), update=update, **SGD)
    before = state(trainer.model)
    trainer.train()
    moved = changed(before, state(trainer.model))
    assert moved
    assert moved <= set(trainer.updated)
    assert all(".1." in n for n in moved) or not settings


def test_hold_is_the_divergence_from_the_outputs_at_the_mean(tmp_path):
    method = UIB(base=Still(), samples=16, hold=2.0)
    trainer = trainer_for("vit", tmp_path, method, **SGD)
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        trainer.model.classifier.weight.add_(
            torch.linspace(-1, 1, trainer.model.classifier.weight.numel()).view_as(trainer.model.classifier.weight)
        )
        terms = method.loss(trainer.model, batch, trainer.reference)
        logits = trainer.model.eval()(**{k: v for k, v in batch["forget"].items() if k != "labels"}).logits
    at_mean = copy.deepcopy(trainer.model)
    for name, mean in method._mean.items():
        at_mean.get_parameter(name).data.copy_(mean)
    with torch.no_grad():
        target = at_mean(**{k: v for k, v in batch["forget"].items() if k != "labels"}).logits.softmax(-1)
    expected = 2 * (target * (target.log() - logits.log_softmax(-1))).sum(-1).mean()
    assert expected > 1e-4
    assert terms["hold"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_large_beta_stays_at_the_mean_and_zero_is_the_base_alone(tmp_path):
    large = trainer_for("vit", tmp_path / "large", UIB(beta=1e9, samples=16), **SGD)
    large.train()
    for name, mean in large.method._mean.items():
        assert torch.allclose(large.model.get_parameter(name), mean, atol=1e-6), name

    def weights(folder, method):
        trainer = trainer_for("vit", tmp_path / folder, method, trust_region=0.0, learning_rate=1e-3)
        trainer.train()
        return state(trainer.model)

    assert not changed(
        weights("c", UIB(beta=0.0, base=GradientAscent(), retain_weight=0.0)), weights("d", GradientAscent())
    )
    assert not changed(weights("e", UIB(beta=0.0, base=MarginalInformation())), weights("f", MarginalInformation()))


def test_a_base_pauses_while_the_forget_set_is_at_its_target(tmp_path):
    def terms(target):
        method = UIB(base=GradientAscent(), samples=16, clip=1e6, reach=50.0)
        trainer = trainer_for("vit", tmp_path / str(target), method, forget_target=target, **SGD)
        trainer.train()
        return {k for entry in trainer.state.log_history for k in entry if k.startswith("loss/")}

    assert "loss/forget" not in terms(0.9)
    assert "loss/forget" in terms(-1.0)  # no target is wanted, so there is none to pause at


def test_without_a_prior_the_base_ends_where_it_does_alone(tmp_path):
    def run(folder, method):
        trainer = trainer_for("vit", tmp_path / folder, method, forget_target=0.5, max_steps=60)
        trainer.train()
        return trainer

    carried, alone = run("carried", UIB(beta=0.0, base=GradientAscent())), run("alone", GradientAscent())
    assert alone.outcome.stopped == carried.outcome.stopped == "target reached"
    assert not changed(state(carried.model), state(alone.model))


@pytest.mark.parametrize("arch", ["vit", *slow("resnet", "convnext", "swin", "bert")])
def test_half_precision_models_have_a_prior(tmp_path, arch):
    model = trained(arch).to(torch.bfloat16)
    trainer = trainer_for(arch, tmp_path, UIB(samples=16), model=model, peft_config="lora", **SGD)
    trainer.train()
    assert max(trainer.method.diagnostics.values()) > 1e-3
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_an_average_of_the_weights_starts_where_the_run_does(tmp_path):
    method = still(beta=0.0 + 1e-9)
    trainer = trainer_for("vit", tmp_path, method, **{**SGD, "weight_average": 0.99})
    trainer.train()
    for name, mean in method._mean.items():
        assert torch.allclose(trainer.model.get_parameter(name), mean, atol=1e-5), name


@pytest.mark.slow
def test_refresh_keeps_the_mean_of_the_request_before(tmp_path):
    first = trainer_for("vit", tmp_path / "first", UIB(samples=16), split=class_split("vit", label=1), **SGD)
    first.train()
    first.method.save_prior(tmp_path / "prior.safetensors")
    former = dict(first.method._mean)
    method = still(refresh=1, prior=str(tmp_path / "prior.safetensors"))
    second = trainer_for("vit", tmp_path / "second", method, split=class_split("vit", label=2), **SGD)
    second.model.load_state_dict(state(first.model))
    distances = []
    take = method._take_prior

    def watched(model):
        take(model)
        distances.append(distance(former, method._mean))

    method._take_prior = watched
    second.train()
    assert len(distances) == 4
    assert min(distances) > 0.5 * distances[0] > 1e-3


def test_tied_parameters_count_once(tmp_path):
    model = trained("vit")
    first, second = (next(m for m in layer.mlp.modules() if isinstance(m, nn.Linear)) for layer in model.vit.layers)
    second.weight = first.weight
    names = [n for n, _ in model.named_parameters()]
    processor = Processor(model, processing_class("vit"))
    rows = [processor(row) for row in data_for("vit", 4)]
    gradients = next(iter(SampleGradients(model, names)(processor.collate(rows))))
    model(**processor.collate(rows[:1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[name][0], parameter.grad, atol=1e-5), name
    model.zero_grad()
    method = still(Shifted, beta=0.1, normalise=False)
    trainer = trainer_for("vit", tmp_path, method, model=model, max_steps=1, **{**SGD, "learning_rate": 1.0})
    trainer.train()
    (name,) = (n for n, p in model.named_parameters() if p is first.weight)
    start = method.start[name]
    pull = 0.1 * method._precision[name]
    assert second.weight is first.weight
    assert torch.allclose(first.weight, (start + pull * method._mean[name]) / (1 + pull), atol=1e-6)  # pulled once


def test_adapters_alone_are_held(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=r".*(query|q_proj|q_lin)", modules_to_save=["classifier"])
    model = peft.get_peft_model(trained("bert"), config)
    before = state(model)
    trainer = trainer_for("bert", tmp_path, UIB(samples=16), model=model, update=r"lora_|modules_to_save", **SGD)
    trainer.train()
    moved = changed(before, state(model))
    assert any("lora_B" in n for n in moved)
    assert moved <= set(trainer.method._mean) == set(trainer.updated)
    assert "embeddings" not in trainer.method.diagnostics


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_prior_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_text("none")
    for name, match in (
        ("y.safetensors", "`prior='.*y.safetensors'` is no file"),
        ("x.safetensors", "`prior`: A file of weights"),
    ):
        with pytest.raises(ValueError, match=match):
            _read_prior(tmp_path / name)


def test_a_silent_prior_warns(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer_for("vit", tmp_path, still(scale=1e-9), **SGD).train()
    assert "The prior has no effect" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "`beta`"),
        ({"damping": 0.0}, "`damping`"),
        ({"hold": -1.0}, "`hold`"),
        ({"hold": 0.0, "retain_weight": 0.0}, "nothing to train on"),
        ({"trust": 0.5}, "`reach=0.3`"),
        ({"samples": 0}, "`samples`"),
        ({"base": "nothing"}, "`base='nothing'`"),
        ({"base": "retrain"}, "`base='retrain'`"),
        ({"base": "wasserstein_barycenter"}, "`base='wasserstein_barycenter'`"),
        ({"base": UIB()}, "`base='uib'`"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        UIB(**settings)


@pytest.mark.parametrize("layers", ["nowhere", "("])
def test_layers_that_match_nothing_are_refused(tmp_path, layers):
    with pytest.raises(ValueError, match="`layers="):
        trainer_for("vit", tmp_path, UIB(layers=layers), **SGD).train()


def test_command_line_takes_a_base_by_key_and_describe_is_json_ready():
    (method,) = transformers.HfArgumentParser(METHODS["uib"]).parse_args_into_dataclasses(
        ["--base", "gradient_ascent", "--beta", "2", "--prior", "/some/folder/prior.safetensors"]
    )
    assert isinstance(method.base, GradientAscent)
    described = json.loads(json.dumps(method.describe()))
    assert described["base"] == {"method": "gradient_ascent", "anchors": False, "anchor_weight": 1.0}
    assert described["prior"] == "prior.safetensors"
    assert transformers.HfArgumentParser(METHODS["uib"]).parse_args_into_dataclasses([])[0].base is None


# --- bases, refresh, requests, resume ---------------------------------------------------------------------------------


def test_what_the_base_needs_is_needed():
    alone, ascent = UIB(), UIB(base=GradientAscent())
    assert all(m.needs_forget and m.needs_retain and not m.stops_at_target for m in (alone, ascent))
    assert ascent.arguments_for(None, "class") == {**GradientAscent.arguments, **UIB.arguments}
    assert UIB(base=JiT()).arguments_for(None, "class")["update"] == JiT().arguments_for(None, "class")["update"]
    assert all(m.reads_labels(side) for m in (alone, ascent, UIB(base=JiT())) for side in ("forget", "retain"))
    column = UIB(base=METHODS["feature_information"](attribute="group"))
    assert column.needs_column
    assert not column.needs_forget
    assert column.attribute == "group"


BASES = [n for n, m in METHODS.items() if not (m.one_shot or m.reads_base or n in ("uib", "retrain"))]


@pytest.mark.slow
@pytest.mark.usefixtures("few_anchors")
@pytest.mark.parametrize("name", BASES)
def test_every_gradient_method_can_carry_the_prior(tmp_path, name):
    settings = {"attribute": "group"} if name == "feature_information" else {}
    settings |= {"num_perturbations": 3} if name == "jit" else {}
    trainer = trainer_for("vit", tmp_path, UIB(base=METHODS[name](**settings), samples=16), update="all", **SGD)
    before = state(trainer.model)
    trainer.train()
    assert changed(before, state(trainer.model))
    terms = {k for entry in trainer.state.log_history for k in entry if k.startswith("loss/")}
    assert "loss/retain" in terms
    assert all(math.isfinite(v) for entry in trainer.state.log_history for k, v in entry.items() if k in terms)


def test_refresh_takes_the_prior_anew_and_counts_from_the_original(tmp_path):
    method = UIB(refresh=2, samples=16, clip=1e6)
    trainer = trainer_for("vit", tmp_path, method, forget_target=-1.0, **{**SGD, "learning_rate": 1e-3, "max_steps": 4})
    priors, moved = [], []
    take = method._take_prior

    def watched(model):
        take(model)
        priors.append(dict(method._mean))
        moved.append(method._probe.moved())
        assert all(torch.allclose(model.get_parameter(n), m, atol=1e-6) for n, m in method._mean.items())

    method._take_prior = watched
    trainer.train()
    assert len(priors) == 3  # at the start, after step 2 and after step 4
    assert distance(priors[0], priors[1]) > 1e-6
    assert max(moved) <= 1.5 * method.trust


@pytest.mark.slow
def test_a_second_request_adds_its_displacement_to_the_prior_of_the_first(tmp_path):
    first = trainer_for("vit", tmp_path / "first", UIB(samples=16, clip=1e6), split=class_split("vit", label=1), **SGD)
    first.train()
    first.method.save_prior(tmp_path / "prior.safetensors")
    method = UIB(samples=16, clip=1e6)
    method.load_prior(tmp_path / "prior.safetensors")
    split = class_split("vit", label=2)
    second = trainer_for("vit", tmp_path / "second", method, model=first.model, split=split, **SGD)
    plain = trainer_for("vit", tmp_path / "plain", UIB(samples=16, clip=1e6), model=trained("vit"), split=split, **SGD)
    plain.model.load_state_dict(state(first.model))
    start = state(first.model)
    plain.train()
    second.train()
    for name, mean in second.method._mean.items():
        own = plain.method._mean[name] - start[name]
        assert torch.allclose(mean, first.method._mean[name] + own, atol=1e-4), name
    with pytest.raises(ValueError, match="no such file"):
        method.load_prior(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        trainer_for("bert", tmp_path / "other", UIB(prior=str(tmp_path / "prior.safetensors")), **SGD).train()
    with pytest.raises(RuntimeError, match="no prior yet"):
        UIB().save_prior(tmp_path / "none.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "killed_at"),
    [
        pytest.param({"refresh": 3}, 5, id="refresh between checkpoints"),
        pytest.param({}, 5, id="once", marks=pytest.mark.slow),
        pytest.param({"refresh": 2}, 5, id="refresh at a checkpoint", marks=pytest.mark.slow),
        pytest.param({"refresh": 3, "base": "marginal_information"}, 7, id="with a base", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_has_the_same_prior_and_weights(tmp_path, settings, killed_at):
    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit",
            tmp_path / folder,
            UIB(samples=16, **settings),
            split=class_split("vit", 80),
            callbacks=list(callbacks),
            update="all",
            max_steps=8,
            save_strategy="steps",
            save_steps=2,
            trust_region=0.0,
            learning_rate=1e-2,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, resumed = whole_and_resumed(run, killed_at)
    assert not changed(state(whole.model), state(resumed.model))
    assert not changed(whole.method._mean, resumed.method._mean)
    assert not changed(whole.method._precision, resumed.method._precision)
    assert resumed.method._steps == 8
