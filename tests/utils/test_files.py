import errno
import hashlib
import os
import stat

import pytest
from safetensors import SafetensorError

from hf_unlearn.utils.files import (
    WriteError,
    clear_errors,
    file_digest,
    front_matter,
    holds_text,
    read_object,
    write_atomically,
    written_atomically,
)


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    writing = written_atomically(path)
    partial = writing.__enter__()
    partial.write_text("half")
    assert (partial.parent, partial.suffix) == (tmp_path, ".json")
    assert not writing.__exit__(KeyError, KeyError(), None)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == "é".encode()


def test_a_private_file_has_its_mode_whatever_a_killed_process_left(tmp_path):
    path = tmp_path / "key"
    partial = tmp_path / f".key.{os.getpid()}.partial"
    partial.write_text("left")
    partial.chmod(0o666)
    write_atomically(path, b"x", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"x"
    assert not partial.exists()


def test_digests_are_those_of_hashlib(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 5000)
    content = (tmp_path / "x").read_bytes()
    assert file_digest(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert file_digest(tmp_path / "x", hashlib.blake2b) == hashlib.blake2b(content).hexdigest()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: no space"),
        RuntimeError("[enforce fail at inline_container.cc:595] unexpected pos"),
    ],
)
def test_a_full_disk_is_named_with_what_was_written(tmp_path, error):
    wanted = r"the model could not be written to .*needs about 2.5 MB, .* were free"
    with pytest.raises(WriteError, match=wanted), clear_errors("the model", tmp_path / "none" / "yet", 2_500_000):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("other"), ValueError("x")])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, clear_errors("the model", tmp_path):
        raise error
    assert caught.value is error


def test_json_files_hold_an_object_or_are_refused_by_name(tmp_path):
    path = tmp_path / "report.json"
    assert read_object(path) is None
    path.write_text('{"a": [1]}')
    assert read_object(path) == {"a": [1]}
    for content, match in (
        ("[1]", "must hold a JSON object"),
        ("{", "is no valid JSON"),
        ("[" * 10**5, "no valid JSON"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"report.json {match}" if match[0] == "m" else match):
            read_object(path)


@pytest.mark.parametrize(
    ("text", "data", "more"),
    [
        ("---\ntitle: x\n---\n# A\n", {"title": "x"}, True),
        ("\n---\ntitle: x\n--- \n\n", {"title": "x"}, False),
        ("---\r\na: 1\r\n---", {"a": 1}, False),
        ("---\n- x\n---\n", {}, False),
        ("---\na: [\n---\nB", {}, True),
        ("# A\n---\na: 1\n---\n", {}, True),
        (" \n", {}, False),
    ],
)
def test_front_matter_is_the_yaml_before_the_text(tmp_path, text, data, more):
    path = tmp_path / "README.md"
    assert front_matter(path) == {}
    path.write_bytes(text.encode())
    assert front_matter(path) == data
    assert holds_text(path) is more
