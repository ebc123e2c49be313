"""Workers of a data loader change nothing in the weights that a run ends with."""

import pytest

from hf_unlearn import (
    GradientDifference,
    UnlearningTrainer,
)
from tests.support.data import class_split, image_processor
from tests.support.models import changed, state, trained
from tests.support.runs import arguments

pytestmark = pytest.mark.slow


def worked(folder, retain=None, method=None, **changes):
    """A run of nine steps, which are three epochs (or as `changes` say), with random retain rows."""
    split = class_split("vit", n=96)
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(folder, **{"max_steps": 9, "update": "all", **changes}),
        method or GradientDifference(),
        split.forget,
        split.retain if retain is None else retain(split.retain),
        processing_class=image_processor(),
        compute_metrics=lambda p: {},  # cannot be sent to a process
    )
    trainer.train()
    return trainer


def shuffled_stream(data):
    return data.to_iterable_dataset(num_shards=3).shuffle(seed=3, buffer_size=10)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("retain", [None, shuffled_stream], ids=["map", "stream"])
def test_workers_change_nothing(tmp_path, retain):
    alone = worked(tmp_path / "0", retain)
    for i, changes in enumerate(({}, {"dataloader_prefetch_factor": 4, "gradient_accumulation_steps": 1})):
        run = worked(tmp_path / f"w{i}", retain, dataloader_num_workers=2, **changes)
        assert not changed(state(alone.model), state(run.model))
    assert changed(state(trained("vit")), state(alone.model))
    assert not alone.args.dataloader_pin_memory


# Each epoch starts a process that imports for seconds.
@pytest.mark.parametrize(("retain", "steps"), [(None, 3), (shuffled_stream, 4)], ids=["map", "stream, two epochs"])
def test_workers_of_fresh_processes_change_nothing(tmp_path, retain, steps):
    if "dataloader_multiprocessing_context" not in arguments(tmp_path).to_dict():
        pytest.skip("this version of transformers starts workers in the platform's own way")
    changes = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}
    spawned = worked(tmp_path / "1", retain, max_steps=steps, **changes)
    assert not changed(state(worked(tmp_path / "0", retain, max_steps=steps).model), state(spawned.model))
