"""Arguments are refused by name, explained, and completed with the method's values."""

import re

import pytest
from transformers import TrainingArguments

from hf_unlearn import JiT, UnlearningArguments
from tests.support.runs import arguments


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor`"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha`"),
        ({"forget_kind": "rows"}, "`forget_kind='rows'`"),
        ({"trust_region": 1.0}, "`trust_region`"),
        ({"trust_region": -0.1}, "`trust_region`"),
        ({"forget_target": 5}, "`forget_target`"),
        ({"forget_target": float("nan")}, "`forget_target`"),
        ({"check_steps": 0}, "`check_steps`"),
        ({"max_halvings": -1}, "`max_halvings` must be at least 0 and below 64, got -1"),
        ({"retain_per_forget": 0}, "`retain_per_forget`"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be at least 0 and below inf, got nan"),
        ({"weight_decay": -1.0}, "`weight_decay`"),
        ({"adam_beta2": 1.0}, "`adam_beta2`.*below 1"),
        ({"adam_epsilon": -1e-8}, "`adam_epsilon`"),
        ({"max_grad_norm": float("nan")}, "`max_grad_norm`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 2**32}, "`seed`"),
        ({"per_device_train_batch_size": 10**20}, "`per_device_train_batch_size`"),
        ({"optim_args": "fast"}, "`optim_args` must be pairs"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be at least 1, got 0"),
        ({"save_steps": float("inf")}, "`save_steps` must be a finite number, got inf"),
        ({"eval_steps": float("nan")}, "`eval_steps` must be a finite number, got nan"),
        ({"report_to": "nope"}, "`report_to='nope'` is unknown. Known: none, "),
        ({"torch_compile_backend": "nope"}, "`torch_compile_backend='nope'` is unknown. Known: .*inductor"),
        ({"torch_compile_mode": "nope"}, "`torch_compile_mode='nope'` is unknown. Known: default"),
    ],
)
def test_bad_arguments_are_refused_by_name(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        arguments(tmp_path, **changes)


def test_every_own_argument_has_help_and_unset_ones_take_the_methods_value(tmp_path):
    own = set(UnlearningArguments.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert {"update", "trust_region", "forget_target"} <= own
    for name in own:
        text = UnlearningArguments.__dataclass_fields__[name].metadata["help"]
        assert re.fullmatch(r"[A-Z].{15,}\.", text)
        assert re.search(
            rf"^        {name} \([\w| ]+\): {re.escape(text)} Default: ", UnlearningArguments.__doc__, re.M
        )
    unset = UnlearningArguments(output_dir=str(tmp_path), use_cpu=True)
    for key, value in JiT.arguments.items():
        assert getattr(unset.resolved(JiT(), "class"), key) == value
    resolved = UnlearningArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=0.1, num_train_epochs=2
    ).resolved(JiT(), "class")
    assert (resolved.trust_region, resolved.learning_rate, resolved.num_train_epochs, resolved.max_steps) == (
        0.0,
        0.1,
        2,
        -1,
    )
    assert unset.update is None


def test_an_empty_output_dir_is_refused():
    with pytest.raises(ValueError, match="`output_dir` is empty"):
        UnlearningArguments(output_dir="", use_cpu=True)
