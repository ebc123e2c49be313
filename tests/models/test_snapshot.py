"""Copies and digests of weights."""

import torch
from safetensors.torch import save_file

from hf_unlearn.models.snapshot import Snapshot, fingerprints, joint_digest, weights_digest
from hf_unlearn.models.trainable import updated_names
from tests.support.models import build, changed, state


def test_fingerprints_change_with_one_bit_and_only_there():
    model = build("resnet")
    before = fingerprints(model)
    assert before.keys() == model.state_dict().keys()
    assert fingerprints(model) == before
    with torch.no_grad():
        weight = next(model.parameters()).view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    after = fingerprints(model)
    assert [n for n in before if before[n] != after[n]] == [next(iter(dict(model.named_parameters())))]
    model.half()
    assert fingerprints(model).keys() == before.keys()


def test_snapshot_goes_back_exactly_and_only_for_its_names():
    model = build("resnet")
    before, names = state(model), updated_names(model, "head")
    snapshot = Snapshot(model, names)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert changed(before, state(model)) == set(before)
    snapshot.restore(model)
    buffers = {name for name, _ in model.named_buffers()}
    assert changed(before, state(model)) == set(before) - set(names) - buffers


def test_snapshot_holds_the_statistics_that_belong_to_its_parameters():
    model = build("resnet")
    original = Snapshot(model, updated_names(model, "head"))
    before = state(model)
    model.train()
    for _ in range(3):
        model(pixel_values=torch.randn(4, 3, 16, 16))
    moved = Snapshot(model, updated_names(model, "head"))
    assert len(changed(before, state(model))) > 0
    original.mixed(moved, 0.5).restore(model)
    name = "resnet.embedder.embedder.normalization."
    middle = (before[name + "running_mean"] + moved.tensors[name + "running_mean"]) / 2
    assert torch.allclose(model.state_dict()[name + "running_mean"], middle)
    assert model.state_dict()[name + "num_batches_tracked"] == 3
    original.restore(model)
    assert not changed(before, state(model))


def test_snapshot_of_channels_last_weights_can_be_saved(tmp_path):
    model = build("resnet").to(memory_format=torch.channels_last)
    save_file(Snapshot(model, updated_names(model, "all")).tensors, tmp_path / "good.safetensors")


def test_digests_of_weights_know_values_and_not_names():
    model = build("vit")
    renamed = torch.nn.ModuleDict({"inner": model})
    assert weights_digest(renamed) == weights_digest(model)
    assert joint_digest(fingerprints(renamed)) != joint_digest(fingerprints(model))
    prints = fingerprints(model)
    assert joint_digest(dict(reversed(prints.items()))) == joint_digest(prints)
    with torch.no_grad():
        model.classifier.bias[0] += 1
    assert weights_digest(model) != weights_digest(build("vit"))
