"""MSG resets the weights with the smallest difference of gradients, and lets the others learn slowly."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import MSG
from hf_unlearn.data.sampling import draw
from tests.methods.baselines import close, forget_rows, logits_of, recorded, replayed, run_of
from tests.models.test_base import save_encoder
from tests.support.models import changed, state, trained


def start_of(trainer):
    """The weights after the reset, before the first step."""
    trainer._set_up()
    return state(trainer.model)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_weights_with_the_smallest_difference_of_gradients_are_reset(tmp_path, arch):
    save_encoder(arch, tmp_path / "base")
    trainer = run_of(arch, tmp_path / "out", MSG(share=0.3), base=tmp_path / "base")
    before, began = state(trainer.model), state(trainer.starting_point().model)
    few = draw(trainer.retain_dataset, len(trainer.forget_rows), trainer.args.seed)
    kept = trainer.processor.collate([trainer.processor(row) for row in few])
    model, gradients = trained(arch).eval(), []
    for batch in (kept, forget_rows(trainer)):
        model.zero_grad()
        F.cross_entropy(logits_of(model, batch), batch["labels"]).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    after, shared = start_of(trainer), trainer.starting_point().shared
    names = changed(before, after)
    assert {n for n in names if "embed" in n.lower() and "projection" not in n} == set()
    assert not any("norm" in n.lower() for n in names)
    for name in names & shared:
        size = (gradients[0][name] - gradients[1][name]).abs()
        reset = after[name] != before[name]
        assert torch.equal(after[name][reset], began[name][reset])  # the value of the base
        order = size.flatten().argsort(stable=True)
        chosen = torch.zeros(size.numel(), dtype=torch.bool)
        chosen[order[: round(0.3 * size.numel())]] = True
        assert (reset.flatten() != chosen).sum() <= 2 + 0.001 * size.numel(), name


def test_without_a_base_they_are_drawn_like_the_others_of_their_layer(tmp_path):
    trainer = run_of("vit", tmp_path, MSG(share=0.5), base=None)
    before, after = state(trainer.model), start_of(trainer)
    name = next(n for n in sorted(changed(before, after)) if before[n].numel() > 2000)
    fresh = after[name][after[name] != before[name]]
    assert len(fresh) == pytest.approx(0.5 * before[name].numel(), rel=0.01)
    assert fresh.std().item() == pytest.approx(before[name].std().item(), rel=0.1)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    trainer = run_of(arch, tmp_path, MSG(share=0.3, others=0.25))
    begun = start_of(trainer)
    slow = {n: mask.clone() for n, mask in trainer.method._slow.items()}
    trainer = run_of(arch, tmp_path, MSG(share=0.3, others=0.25))
    batches, model = recorded(trainer), trained(arch)
    model.load_state_dict(begun)

    def loss(model, batch, step):
        return F.cross_entropy(logits_of(model, batch["retain"]), batch["retain"]["labels"])

    def slower(model, before):
        for name, parameter in model.named_parameters():
            quarter = before[name] + 0.25 * (parameter - before[name])
            parameter.copy_(torch.where(slow[name], quarter, parameter) if name in slow else quarter)

    close(state(trainer.model), replayed(model, batches, loss, slower))


def test_kernels_are_turned_around_once(tmp_path):
    trainer = run_of("resnet", tmp_path, MSG(reset="transpose"))
    before, after = state(trainer.model), start_of(trainer)
    turned = {n for n, v in before.items() if v.ndim == 4 and v.shape[-1] > 1}
    assert changed(before, after) == turned
    for name in turned:
        assert torch.equal(after[name], before[name].transpose(-1, -2))


def test_noise_is_a_share_of_the_weights_of_a_layer(tmp_path):
    trainer = run_of("vit", tmp_path, MSG(reset="noise", noise=0.5))
    before, after = state(trainer.model), start_of(trainer)
    names = changed(before, after)
    assert all(before[n].ndim >= 2 for n in names)
    name = max(names, key=lambda n: before[n].numel())
    assert (after[name] - before[name]).std().item() == pytest.approx(0.5 * before[name].std().item(), rel=0.05)


def test_a_transformer_has_no_kernels_to_turn(tmp_path):
    with pytest.raises(ValueError, match="this model has no more than one"):
        run_of("vit", tmp_path, MSG(reset="transpose")).train()


def test_an_update_without_a_layer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`update` lets none of them move"):
        run_of("vit", tmp_path, MSG(), update=r"layernorm").train()


@pytest.mark.parametrize(
    ("settings", "told"), [({"reset": "all"}, "`reset='all'` is not one of"), ({"share": 1.0}, "`share`")]
)
def test_a_setting_that_means_nothing_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        MSG(**settings)
