"""Every command explains itself."""

import subprocess
import sys
from dataclasses import fields

import pytest

from hf_unlearn import METHODS, __version__
from hf_unlearn.cli import COMMANDS, LONG, main
from hf_unlearn.cli.shards import COMMANDS as SHARD_COMMANDS
from hf_unlearn.pipeline.audit_job import AuditArguments
from hf_unlearn.pipeline.run_arguments import RunArguments

WORDS = [
    *COMMANDS,
    *(f"receipt {c}" for c in ("verify", "prove", "seal", "keygen", "sign")),
    *(f"shards {c}" for c in SHARD_COMMANDS),
    *(f"run --method {m}" for m in METHODS),
    "run --help-all",
    "run --method uib --help-all",
]


@pytest.mark.parametrize("words", WORDS)
def test_every_command_explains_itself(words, capsys):
    assert main([*words.split(), "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: hf-unlearn {' '.join(words.split()[: 1 if 'run' in words else 2])}")
    assert not shown.err
    assert "examples:" in shown.out or words.startswith("receipt ")


@pytest.mark.parametrize("arguments", [RunArguments, AuditArguments, *(c.arguments for c in SHARD_COMMANDS.values())])
def test_every_option_is_explained_in_a_sentence(arguments):
    texts = {f.name: f.metadata["help"] for f in fields(arguments)}
    assert not {name: text for name, text in texts.items() if not (text[0].isupper() and text.endswith("."))}


def test_without_a_command_the_usage_is_shown_as_an_error(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert all(f"hf-unlearn {command} " in usage for command in COMMANDS)
    assert main(["pus"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("`pus` is no command of hf-unlearn. Did you mean `push`?")
    assert said.endswith(usage)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG)
def test_a_long_command_gives_a_sign_before_it_loads_a_library(command):
    # An import that ends the command shows what was written before it.
    code = f"import sys; from hf_unlearn.cli import main; sys.modules['torch'] = None; sys.exit(main(['{command}']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith(f"hf-unlearn {command}: loading libraries, models and data\n")
    assert done.returncode
