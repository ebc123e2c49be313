"""Names and sentences with names from data, made safe to show: on one line, without hidden characters or markup."""

from __future__ import annotations

import re

LENGTH = 60  # of a name that is shown whole

# Control characters, lone surrogates, and what turns or hides text (not the joiners that scripts need, U+200C and U+200D).
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)

# What has a meaning; between two letters `_` has none, and a dot only before what might be a domain.
_MEANING = re.compile(r"[`*{}\[\]|~#!$&<>\\@]|(?<![^\W_])_|_(?![^\W_])|//|(?<=\w)\.(?=[^\W\d_]{2})")
# A doubled backslash would open a formula on the Hub: \\( … \\).
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"}


def visible(line: str) -> str:
    """`line` with � in the place of hidden characters, so that two names that differ in them do not look alike."""
    return _HIDDEN.sub("�", line)


def plain(text: object) -> str:
    """`text` as one `visible` line."""
    return visible(" ".join(str(text).split()))


def shown(name: object, length: int = LENGTH) -> str:
    """A name as `plain` text of at most `length` characters."""
    text = plain(str(name)[: 4 * length])
    return text if len(text) <= length else text[: length - 1] + "…"


def inert(text: object) -> str:
    """`text` as `plain` text without meaning to markdown: no markup, HTML, formula, table cell, link or mention."""
    return _MEANING.sub(lambda found: _replaced(found.group()), plain(text))


def _replaced(sign: str) -> str:
    if sign in _ENTITIES:
        return _ENTITIES[sign]
    if sign in (
        "//",
        "@",
        ".",
    ):  # an invisible joiner: some renderers look for links in the text that they have decoded
        return f"{sign[0]}&#8288;{sign[1:]}"
    return f"\\{sign}"
