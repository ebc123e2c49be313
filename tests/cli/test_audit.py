"""`hf-unlearn audit`: which rows it takes as forget and retain set, and what it refuses. tests/evaluation holds its verdicts."""

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.audit import AuditArguments, load_models, load_sets
from tests.support.data import image_data


def options(folders, **changes):
    sources = {"original": folders / "original", "unlearned": folders / "original"}
    rows = {"forget": f"{folders / 'data'}:train", "test": f"{folders / 'data'}:test"}
    return AuditArguments(**{**{k: str(v) for k, v in sources.items()}, **rows, **changes})


def test_classes_and_values_divide_the_rows_into_forget_and_retain_set(folders):
    sets = load_sets(options(folders))
    assert (len(sets["forget"]), len(sets["test"]), sets["retain"]) == (96, 96, None)
    sets = load_sets(options(folders, forget_class=["1"]))
    assert (set(sets["forget"]["label"]), set(sets["retain"]["label"])) == ({1}, {0, 2, 3})
    sets = load_sets(options(folders, forget_column="user", forget_values=["user-3", "user-8"]))
    assert list(sets["forget"]["user"]) == ["user-3", "user-8"]
    assert len(sets["retain"]) == 94
    sets = load_sets(options(folders, forget_class=["1"], retain=f"{folders / 'data'}:test"))
    assert len(sets["retain"]) == 96  # as given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_class": ["7"]}, "`forget_class='7'` is no class"),
        ({"forget_values": ["user-3"]}, "`forget_values` needs `forget_column`"),
        ({"forget_column": "user"}, "`forget_column='user'` needs `forget_values`"),
        ({"forget_column": "usr", "forget_values": ["user-3"]}, "`forget_column='usr'` is not a column"),
    ],
)
def test_an_error_names_the_option_that_was_typed(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        load_sets(options(folders, **changes))


def test_a_model_that_cannot_be_loaded_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match=r"`retrained\[1\]=.*missing'`: there is no such file or folder"):
        load_models(
            options(folders, use_cpu=True, retrained=[str(folders / "original"), str(tmp_path / "missing")]),
            image_data(4),
        )


def test_a_level_outside_its_bounds_is_refused(folders, capsys):
    with pytest.raises(ValueError, match=r"`alpha` must lie strictly between 0 and 0\.5, got 0\.5"):
        options(folders, alpha=0.5)
    words = [w for name in ("original", "unlearned", "forget", "test") for w in (f"--{name}", "x")]
    assert main(["audit", *words, "--alpha", "0"]) == 2
    assert "`alpha`" in capsys.readouterr().err
