"""Reader of YAML 1.2, by the library that DVC reads params.yaml with."""

import math
from datetime import date
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

MAX_DEPTH = 50
MAX_NODES = 10_000  # with every alias counted as often as it is used
MAX_CHARACTERS = 1_000_000  # more take seconds
_HINTS = {  # for beginnings of the library's messages
    r"found character '\t'": "indent by spaces, not by tabs",
    "expected <block end>": "here or in the line above: align the keys of a section, with a space "
    "after each colon",
    "mapping values are not allowed": "align the keys of a section, and put text with a colon in "
    "quotes",
    "could not find expected ':'": "put a colon and a space after each key",
}


def load_yaml(text: str) -> Any:
    """Parse one document.

    Raises:
        YAMLError: the text is not valid, or exceeds the limits of nesting, size or aliases.
    """
    try:
        return _reader(text).load(text)
    except MarkedYAMLError as error:
        if isinstance(error, DuplicateKeyError):
            error.note = None  # names a setting of the library
        raise YAMLError(_describe(error)) from error
    except (ValueError, LookupError, AttributeError) as error:  # of 2001-02-30, or !!int x
        raise YAMLError(f"has a value that cannot be read: {error}") from error


def in_yaml(value: Any) -> str:
    """Return a value for a message: null, true and lists as in a file, text in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {in_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return str(value) if isinstance(value, date) else repr(value)


def _describe(error: MarkedYAMLError) -> str:
    """Return the library's message, without its name for a file that it only has the text of."""
    message = str(error).replace('in "<unicode string>", ', "in ")
    problem = error.problem or ""
    hints = [hint for start, hint in _HINTS.items() if problem.startswith(start)]
    return "\n".join([message, *hints])


def compose_yaml(text: str) -> Node | None:
    """Return the tree of nodes of a document, with their positions in the text."""
    node: Node | None = _reader(text).compose(text)
    return node


def _reader(text: str) -> YAML:
    if len(text) > MAX_CHARACTERS:
        raise YAMLError(f"has more than {MAX_CHARACTERS:,} characters")
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _BoundedComposer
    return reader


class _BoundedComposer(Composer):
    """Composer that counts nodes: by aliases of aliases, 1 KB may hold billions."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self._sizes: dict[int, int] = {}  # nodes below each node and itself, aliases expanded

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        is_alias, mark = self.parser.check_event(AliasEvent), self.parser.peek_event().start_mark
        if self.depth >= MAX_DEPTH:
            problem = f"is nested more than {MAX_DEPTH} levels deep"
            raise ComposerError(None, None, problem, mark)
        node: Node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:  # it is still being composed
            raise ComposerError(None, None, "the value contains itself", mark)
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if self._sizes[id(node)] > MAX_NODES:
            problem = f"has more than {MAX_NODES:,} values, aliases expanded"
            raise ComposerError(None, None, problem, mark)
        return node


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, CollectionNode) else []
