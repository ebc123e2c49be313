"""What mkdocs does with a page before it renders it: include a file of the repository's root.

A page that holds the line `<!-- include: NAME -->` gets the text of that file. Links of the file to other files of the
repository become links to pages of the site, or plain text where no page holds the file.

Flowcharts in mermaid stay as text on the site: the theme would load their renderer from elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the text of a page with the file that it includes."""
    return re.sub(r"^<!-- include: ([\w.]+) -->$", lambda found: included(found[1]), markdown, flags=re.M)


def included(name: str) -> str:
    """Return the text of a file of the root without its title, with links that work on the site."""
    text = (ROOT / name).read_text("utf-8")
    text = re.sub(r"\A# .*\n", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", _link, text)


def _link(found: re.Match[str]) -> str:
    text, target = found[1], found[2]
    page = target.removeprefix("docs/") if target.startswith("docs/") else PAGES.get(target)
    return f"[{text}]({page})" if page else f"`{text}`"
