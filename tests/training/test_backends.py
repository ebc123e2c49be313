"""Which method runs on which backend: what methods declare, what the page on methods says, and what is refused."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hf_unlearn import METHODS, UIB, FeatureInformation, JiT, UnlearningMethod, UnlearningTrainer
from hf_unlearn.cli.run import main
from hf_unlearn.training.backends import BACKENDS, backend_of, check_backend
from tests.support.data import class_split, processing_class
from tests.support.models import trained
from tests.support.runs import arguments

ROOT = Path(__file__).parents[2]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}
ENVIRONMENT = {"fsdp": FSDP, "deepspeed": DEEPSPEED, "single": {}}


def asked(monkeypatch, tmp_path, environment, zero3=False, **changes):
    """The arguments of a run that `accelerate launch` started with this environment."""
    args = arguments(tmp_path, trust_region=0.0, **changes)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args.deepspeed_plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(is_zero3=lambda: zero3))
    return args


@pytest.mark.parametrize("backend", ENVIRONMENT)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_refused_where_it_does_not_say_that_it_runs(monkeypatch, tmp_path, name, backend):
    args, method = asked(monkeypatch, tmp_path, ENVIRONMENT[backend]), METHODS[name]()
    assert backend_of(args) == backend
    if backend in method.backends:
        check_backend(method, args)
        return
    with pytest.raises(ValueError, match=f"`method='{name}'` does not run under .*--num-processes") as refused:
        check_backend(method, args)
    assert METHODS[name].reasons[backend] in str(refused.value)
    able = str(refused.value).rpartition(": ")[2].rstrip(".").split(", ")
    assert able == [key for key, other in METHODS.items() if backend in other.backends]


def test_every_declared_backend_is_known_and_every_missing_one_has_a_reason():
    for method in METHODS.values():
        assert {"single", "ddp"} <= method.backends <= set(BACKENDS)
        assert method.reasons.keys() >= set(BACKENDS) - method.backends
        assert all(method.reasons[b] != UnlearningMethod.reasons[b] for b in set(BACKENDS) - method.backends)
    assert UnlearningMethod.backends == {"single", "ddp"}  # of a private method
    assert UIB(base=FeatureInformation(attribute="group")).backends == {"single", "ddp"}


def test_the_table_of_methods_says_the_same():
    page = (ROOT / "docs" / "choosing-a-method.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \|(?:[^|]*\|){3} ([^|]*) \|", page, re.M))
    names = {"fsdp": "FSDP2", "deepspeed": "ZeRO-2"}
    assert table == {
        key: ", ".join(text for b, text in names.items() if b in method.backends) or "–"
        for key, method in METHODS.items()
    }


@pytest.mark.parametrize(
    ("environment", "zero3", "match"),
    [
        ({**FSDP, "FSDP_VERSION": "1"}, False, "`fsdp_version: 2`"),
        ({**FSDP, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, False, "`fsdp_cpu_ram_efficient_loading`"),
        ({**FSDP, "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, False, "SHARDED_STATE_DICT"),
        (DEEPSPEED, True, "`zero_stage: 3`"),
    ],
)
def test_settings_that_would_break_a_run_are_refused(monkeypatch, tmp_path, environment, zero3, match):
    args = asked(monkeypatch, tmp_path, environment, zero3)
    with pytest.raises(ValueError, match=match):
        check_backend(METHODS["fine_tune"](), args)


def test_a_trust_region_is_refused_where_tensors_are_cut(monkeypatch, tmp_path):
    args = asked(monkeypatch, tmp_path, DEEPSPEED)
    args.trust_region = None  # the method's own
    with pytest.raises(ValueError, match="`--trust_region 0`"):
        check_backend(METHODS["gradient_ascent"](), args)
    check_backend(METHODS["fine_tune"](), args)


def test_batches_that_accelerate_would_cut_anew_are_refused(tmp_path):
    for setting in ("split_batches", "dispatch_batches"):
        with pytest.raises(ValueError, match=f"`{setting}`"):
            check_backend(JiT(), arguments(tmp_path, accelerator_config={setting: True}))


def test_the_trainer_refuses_before_it_touches_the_model(monkeypatch, tmp_path):
    args, model, split = asked(monkeypatch, tmp_path, FSDP, update="head"), trained("vit"), class_split("vit")
    with pytest.raises(ValueError, match="`method='jit'` does not run under FSDP2"):
        UnlearningTrainer(model, args, JiT(), split.forget, processing_class=processing_class("vit"))
    assert all(p.requires_grad for p in model.parameters())


def test_one_process_uses_one_gpu(tmp_path, caplog):
    args, split = arguments(tmp_path), class_split("vit")
    args._n_gpu = 4  # what the base class finds where there are four
    trainer = UnlearningTrainer(trained("vit"), args, JiT(), split.forget, processing_class=processing_class("vit"))
    assert trainer.args.n_gpu == 1
    assert trainer._train_batch_size == args.per_device_train_batch_size
    assert "`--num-processes 4`" in caplog.text


def test_a_run_refuses_before_it_loads_the_model(monkeypatch, tmp_path, capsys):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    words = ["--model", "no-such-model", "--dataset", "digits", "--forget_class", "3", "--output_dir", str(tmp_path)]
    assert main([*words, "--method", "uib", "--use_cpu", "true"]) == 2
    assert "`method='uib'` does not run under FSDP2" in capsys.readouterr().err


FILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_accelerate_reads_each_of_its_files_in_full(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    read = load_config_from_file(str(path))
    kinds = {"fsdp2": "FSDP", "zero2": "DEEPSPEED"}
    assert read.distributed_type.value == kinds.get(path.stem, "MULTI_GPU")
    assert read.num_processes > 1
    assert (read.num_machines > 1) == (path.stem == "multi_node")
    assert read.use_cpu == (path.stem == "cpu")
    # The loader keeps what stands in sections as it is: each entry must be an option of the launcher.
    options = {a.dest for a in launch_command_parser()._actions}
    for section in ("fsdp_config", "deepspeed_config"):
        assert yaml.safe_load(path.read_text()).get(section, {}) == getattr(read, section)
        assert getattr(read, section).keys() <= options


def test_a_run_accepts_the_files_for_sharding(monkeypatch, tmp_path):
    shards = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    environment = {name.upper(): str(value) for name, value in shards.items()}
    check_backend(METHODS["fine_tune"](), asked(monkeypatch, tmp_path, {**FSDP, **environment}))
    assert yaml.safe_load((ROOT / "recipes/accelerate/zero2.yaml").read_text())["deepspeed_config"]["zero_stage"] == 2
