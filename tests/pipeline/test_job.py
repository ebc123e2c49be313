"""The training arguments that original and retrained model share."""

from types import SimpleNamespace

from hf_unlearn.pipeline.job import Job
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.training_settings import given_settings
from tests.support.data import class_split, text_data
from tests.support.runs import arguments


def test_the_batch_is_shared_by_the_processes_and_the_warmup_is_a_tenth(tmp_path):
    run = RunArguments("m", "d", text_column="text", train_epochs=4, train_batch_size=10)
    args = arguments(tmp_path)
    job = Job(run, args, text_data(64), None, None, None)
    assert job.columns == {"image_column": None, "text_column": "text", "label_column": "label"}
    found = job.train_arguments(given_settings(run))
    assert (found["num_train_epochs"], found["per_device_train_batch_size"]) == (4, 10)
    assert found["warmup_steps"] == 7 * 4 // 10  # 64 rows are 7 batches of 10
    three = {"world_size": 3, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    job.args = SimpleNamespace(**three)
    assert job.train_arguments(given_settings(run))["per_device_train_batch_size"] == 4  # 10 / 3, rounded up
    job.split = class_split("bert")  # 48 of 64 rows are kept: 5 batches
    assert job.train_arguments(given_settings(run))["warmup_steps"] == 5 * 4 // 10
