"""What `hf-unlearn init` writes can be run as it is, and nothing that was there changes."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from hf_unlearn.cli import init, main
from hf_unlearn.cli.compare import read_arguments
from hf_unlearn.cli.run import parse

ROOT = Path(__file__).parents[2]
PATHS = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in PATHS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the present one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_a_name_every_recipe_is_listed_with_what_it_does(folder, capsys):
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in NAMES] == NAMES
    assert lines[lines.index("digits-vit/random") + 1] == "    Forget a random 10 % with JiT."
    assert not files(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_written_recipe_finds_every_file_that_it_names(folder, capsys, name):
    assert main(["init", name]) == 0
    path, told = Path("recipes", f"{name}.yaml"), capsys.readouterr().out
    assert path.read_bytes() == (ROOT / path).read_bytes()
    entries = yaml.safe_load(path.read_text("utf-8"))
    if name.startswith("accelerate/"):
        assert Path("recipes/unlearn.py").read_bytes() == (ROOT / "recipes" / "unlearn.py").read_bytes()
        assert f"accelerate launch --config_file {path} recipes/unlearn.py" in told
        return
    configuration = (entries.get("options") or entries).get("model_config")
    assert configuration is None or json.loads(Path(configuration).read_text("utf-8"))["model_type"]
    assert Path("recipes/prepare.py").exists() == ("recipes/prepare.py" in path.read_text("utf-8"))
    assert ("name a `model` and a `dataset`" in told) == ("minilm" in name or "dinov2" in name)
    command = told.splitlines()[-1].partition("hf-unlearn ")[2].split()
    {"run": parse, "compare": read_arguments}[command[0]](command[1:])


def test_the_script_for_a_cluster_comes_with_the_file_that_names_it(folder):
    assert main(["init", "accelerate/multi_node"]) == 0
    named = "recipes/accelerate/multi_node.yaml", "recipes/accelerate/slurm.sh", "recipes/unlearn.py"
    assert files(folder) == {*named}


def test_output_names_the_file_and_what_it_needs_is_found_from_there(folder, capsys):
    assert main(["init", "digits-vit/jit", "--output", "mine/forget.yaml"]) == 0
    assert files(folder) == {"mine/forget.yaml", "recipes/digits-vit/config.json"}
    assert capsys.readouterr().out.endswith("run: hf-unlearn run --config mine/forget.yaml\n")
    run, _, _ = parse(["--config", "mine/forget.yaml"])
    assert Path(run.model_config).is_file()


def test_a_comment_that_names_the_file_names_the_one_that_was_written(folder):
    assert main(["init", "accelerate/ddp", "--output", "two.yaml"]) == 0
    assert "--config_file two.yaml recipes/unlearn.py" in Path("two.yaml").read_text("utf-8")


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_overwritten(folder, capsys, there):
    path = Path("recipes/digits-vit/jit.yaml")
    path.parent.mkdir(parents=True)
    {"file": lambda: path.write_text("mine"), "folder": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[there]()
    assert main(["init", "digits-vit/jit"]) == 2
    assert "recipes/digits-vit/jit.yaml is there already, and is not overwritten" in capsys.readouterr().err
    assert files(folder) == ({path.as_posix()} if there == "file" else set())
    assert there != "file" or path.read_text() == "mine"
    assert not Path("nowhere").exists()


def test_a_configuration_that_the_user_edited_is_kept(folder, capsys):
    assert main(["init", "digits-vit/jit"]) == 0
    edited = Path("recipes/digits-vit/config.json")
    edited.write_text("{}")
    capsys.readouterr()
    assert main(["init", "digits-vit/random"]) == 0
    assert edited.read_text() == "{}"
    assert "Kept as they were: recipes/digits-vit/config.json" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["digits-vit/jit.yaml", "recipes/digits-vit/jit.yaml", "recipes/digits-vit/jit"])
def test_a_name_may_be_a_path(folder, given):
    assert main(["init", given]) == 0
    assert Path("recipes/digits-vit/jit.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits-vit/jitt"], "Did you mean `digits-vit/jit`?"),
        (["jit"], "Did you mean one of `digits-vit/jit`, `mnist-resnet/jit`, `trec-distilbert/jit`?"),
        (["hate-distilbert"], "Did you mean one of `hate-distilbert/feature`, `hate-distilbert/uib`?"),
        (["../secret"], "'../secret' is no recipe"),
        ([""], "'' is no recipe. `hf-unlearn init` lists them."),
        (["--output", "x.yaml"], "`--output` needs the name of a recipe"),
        (["digits-vit/jit", "--output", ""], "`--output` is empty"),
        (["digits-vit/jit", "more"], "`more` belongs to no option"),
        (["digits-vit/jit", "--out", "x"], "`--out` is no option of `hf-unlearn init`. Did you mean `--output`?"),
    ],
)
def test_an_error_names_what_was_typed_and_writes_nothing(folder, capsys, words, told):
    assert main(["init", *words]) == 2
    assert told in capsys.readouterr().err
    assert not files(folder)


def test_an_installed_package_has_its_own_recipes(tmp_path, monkeypatch):
    assert init.root() == ROOT
    shutil.copytree(ROOT / "recipes" / "digits-vit", tmp_path / "hf_unlearn" / "recipes" / "digits-vit")
    monkeypatch.setattr(init, "PACKAGE", tmp_path / "hf_unlearn")
    assert init.root() == tmp_path / "hf_unlearn"
    assert list(init.recipes()) == [name for name in NAMES if name.startswith("digits-vit/")]


def test_a_recipe_that_is_not_there_leads_to_this_command(folder, capsys):
    assert main(["run", "--config", "recipes/digits-vit/jit.yaml"]) == 2
    assert "is no file. `hf-unlearn init` lists recipes, and writes one." in capsys.readouterr().err
