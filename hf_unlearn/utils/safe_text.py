"""Names from data sets, models and users, made safe to print: one line, no hidden characters, no markup."""

import re

LENGTH = 60  # characters of a name that is printed in full

# Control characters, lone surrogates, and characters that hide or reverse text. The joiners U+200C and U+200D stay: scripts need them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
# Markup. `_` between two letters is no markup, and a dot is only dangerous before something that may be a domain.
_MARKUP = re.compile(r"[`*{}\[\]|~#!$&<>\\@]|(?<![^\W_])_|_(?![^\W_])|//|(?<=\w)\.(?=[^\W\d_]{2})")
# A backslash is an entity, because a doubled one would open a formula on the Hub: \\( … \\).
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"}


def visible(line: str) -> str:
    """Replace hidden characters by �, so that two names that differ only in those do not look alike."""
    return _HIDDEN.sub("�", line)


def plain(text: object) -> str:
    """Return `text` as one `visible` line."""
    return visible(" ".join(str(text).split()))


def shown(name: object, length: int = LENGTH) -> str:
    """Return a name as `plain` text of at most `length` characters (60 by default)."""
    text = plain(str(name)[: 4 * length])
    return text if len(text) <= length else text[: length - 1] + "…"


def inert(text: object) -> str:
    """Return `text` as `plain` text in which markdown finds no markup, HTML, formula, table cell, link or mention."""
    return _MARKUP.sub(lambda found: _escaped(found.group()), plain(text))


def _escaped(sign: str) -> str:
    if sign in _ENTITIES:
        return _ENTITIES[sign]
    # Some renderers look for links in the text that they have decoded, so an entity is not enough: an invisible joiner is.
    return f"{sign[0]}&#8288;{sign[1:]}" if sign in ("//", "@", ".") else f"\\{sign}"
