"""The part of Drive's query language that file system clients use."""

import re
from typing import NamedTuple

_PARENT = re.compile(r"'((?:[^'\\]|\\.)*)' in parents")
_TITLE = re.compile(r"title\s*=\s*'((?:[^'\\]|\\.)*)'")
_TRASHED = re.compile(r"trashed\s*=\s*(true|false)")
_REST = re.compile(r"(?:\s|\(|\)|\bor\b|\band\b)*")


class Query(NamedTuple):
    """Query for items in any of `parents`, with a title if it is set."""

    parents: tuple[str, ...]
    title: str | None
    trashed: bool


def parse(text: str) -> Query:
    """Parse `'a' in parents or 'b' in parents`, `title='t'` and `trashed=false`, joined by `and`.

    Raises:
        ValueError: the query has another form. Drive responds with status 400.
    """
    rest, titles = text, _TITLE.findall(text)
    for pattern in (_TITLE, _PARENT, _TRASHED):
        rest = pattern.sub("", rest)
    parents = tuple(_unescape(parent) for parent in _PARENT.findall(_TITLE.sub("", text)))
    if not parents or len(titles) > 1 or not _REST.fullmatch(rest):
        raise ValueError(f"Invalid query: {text}")
    trashed = "true" in _TRASHED.findall(text)
    return Query(parents, _unescape(titles[0]) if titles else None, trashed)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
