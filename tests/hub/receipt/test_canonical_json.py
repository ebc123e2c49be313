import pytest

from hf_unlearn.hub.receipt import canonical_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane/prior.safetensors", "local"),
        ("C:\\Users\\jane\\x", "local"),
        ("u123.txt", "local"),
        ("~jane", "local"),
        ("linear", "linear"),
        ("last:2", "last:2"),
        ("_a_ b_c", "?a? b_c"),
        ("__init__", "?init?"),
    ],
)
def test_paths_are_local_and_settings_are_themselves(text, expected):
    assert canonical_json.plain({"x": [text]}) == {"x": [expected]}


def test_a_hub_id_is_published_and_a_folder_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "mine").mkdir(parents=True)
    names = ("org/model", "bert-base", "org/mine", str(tmp_path), "../x", None, "", "a/b/c", "org/mo del")
    assert [canonical_json.hub_id(n) for n in names] == ["org/model", "bert-base", *["local"] * 7]
