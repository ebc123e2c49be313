"""A page that loads nothing, and names that never become markup."""

import re
from html.parser import HTMLParser

import pytest

from hf_unlearn import UnlearningReport


def test_printed_table_holds_every_measure(finished_run, capsys):
    finished_run.report.print()
    out = capsys.readouterr().out
    for word in ("original", "unlearned", "retrained", "accuracy", "seconds"):
        assert word in out


class Page(HTMLParser):
    """Tags with their attributes, and the text in between."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_the_page_loads_nothing_and_runs_nothing(hostile_run, tmp_path):
    hostile_run.report.save(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "a", "b", "base", "form"}
    for tag, given in page.tags:
        assert not any(name.startswith("on") for name in given)
        for name in ("src", "href", "srcset", "action", "data"):
            assert given.get(name, "data:").startswith("data:"), (tag, given)
    assert "url(" not in text
    assert "@import" not in text
    pictures = [given for tag, given in page.tags if tag == "img"]
    files = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert "answers" in files, "a card shows this one as a picture, and the page draws it itself"
    assert len(pictures) == len(files) - 1 >= 3
    assert "svg" in tags
    assert all(given["alt"] for given in pictures)
    assert 'name="viewport"' in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    assert "certified" not in text.lower() + (tmp_path / "report.md").read_text().lower()


def test_hostile_names_are_inert(hostile_run):
    html, markdown = hostile_run.report.to_html(figures=False), hostile_run.report.to_markdown()
    assert "<script>alert(1)</script>" in Page(html).text  # as text
    assert "<script" not in html
    assert "<" not in markdown
    assert "http://" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    columns = {len(hostile_run.report.models) + 2, 5}  # of the table, and of the answers
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == columns, "no name adds a cell"
    bare = re.sub(
        r"(?<!\\)`(hf-unlearn \w+|--retrain 3|[a-z]+_[a-z_]+)`", "", markdown
    )  # commands and settings of ours
    assert not re.search(r"(?<!\\)`|(?<!\\)\*\*b", bare)
    assert not any(line.startswith("# **b") for line in markdown.splitlines())


def test_a_notebook_shows_the_answers_and_the_picture(hostile_run):
    text = hostile_run.report._repr_html_()
    page = Page(text)
    assert "Did it forget?" in page.text
    assert "<script" not in text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "img"}
    assert ".answers" in text


def test_the_terminal_shows_names_as_they_are(hostile_run, capsys):
    report = UnlearningReport(models={"unlearned": {"test_accuracy": 0.5}}, run={"request": "class [red]x[/red] [/]"})
    report.print()
    assert "[red]x[/red] [/]" in capsys.readouterr().out
