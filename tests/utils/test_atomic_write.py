"""A file is replaced as a whole."""

from hf_unlearn.utils.files import write_atomically


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "a.json"
    for text in ("one", "zwei ü"):
        write_atomically(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [file]
