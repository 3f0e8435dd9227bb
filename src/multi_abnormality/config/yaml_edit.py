"""Reading and editing the text of params.yaml or a recipe; an edit changes only the values."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from multi_abnormality.config.yaml_reader import compose_yaml, load_yaml

KeyPath = tuple[str, ...]


def flatten(text: str) -> dict[KeyPath, Any]:
    """Values by key path; a list is one value.

    Raises:
        ValueError: the text is not valid YAML, or has no sections.
    """
    try:
        content = load_yaml(text)
    except YAMLError as error:
        raise ValueError(f"is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("has no sections")
    return dict(leaves(content))


def leaves(value: dict[Any, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield each value of nested sections with its key path; a list is one value."""
    for key, item in value.items():
        here = (*path, str(key))
        if isinstance(item, dict) and item:
            yield from leaves(item, here)
        else:
            yield here, item


def value_texts(text: str) -> dict[KeyPath, str]:
    """Text of each value of a valid file; block lists are converted to one line."""
    values, found = flatten(text), {}
    for path, node in _nodes(compose_yaml(text), ()):
        if isinstance(node, CollectionNode) and not node.flow_style:
            found[path] = _in_one_line(values[path])
        else:
            found[path] = text[node.start_mark.index : node.end_mark.index]
    return found


def _in_one_line(value: Any) -> str:
    writer, stream = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.width = True, 10**9
    writer.dump(value, stream)
    return stream.getvalue().strip()


def replace_values(text: str, values: Mapping[KeyPath, str]) -> str:
    """Replace values of a valid file; comments keep their columns if there is room.

    A comment that a longer value has pushed to the right returns to the column of most comments.
    Comments inside a list that is replaced are removed.
    """
    nodes = dict(_nodes(compose_yaml(text), ()))
    columns = Counter(len(found[0]) for found in re.finditer(r"^[^#\n]*\S +(?=#)", text, re.M))
    usual = max(columns, key=columns.__getitem__, default=0)
    for path in sorted(values, key=lambda path: nodes[path].start_mark.index, reverse=True):
        start, end, value = nodes[path].start_mark.index, _end(text, nodes[path]), values[path]
        if start == end:  # no value after the colon
            start = end = text.index(":", start) + 1
            value = f" {value}"
        elif _is_block_list(nodes[path]):  # may be in the column of its key, where no value can be
            value, key = f"  {value}", text[:start].rstrip()
            if "#" not in key[key.rfind("\n") + 1 :]:
                start, value = len(key), value[1:]
        rest = text[end:]
        if comment := re.match(" +(?=#)", rest):
            column = _column(text, end) + len(comment[0])
            if len(comment[0]) == 1:
                column = min(column, usual)
            room = column - _column(text, start) - len(value)
            rest = " " * max(room, 1) + rest[len(comment[0]) :]
        text = text[:start] + value + rest
    return text


def _column(text: str, index: int) -> int:
    return index - text.rfind("\n", 0, index) - 1


def comments_in_lists(text: str) -> dict[KeyPath, list[str]]:
    """Comments inside each list of a valid file, which `replace_values` removes with the list."""
    found = {}
    for path, node in _nodes(compose_yaml(text), ()):
        position, others = node.start_mark.index, ""  # text between the items
        for item in _scalars(node):
            others += text[position : item.start_mark.index]
            position = item.end_mark.index
        others += text[position : _end(text, node)]
        if comments := re.findall(r"#[^\r\n]*", others):
            found[path] = comments
    return found


def _scalars(node: Node) -> Iterator[Node]:
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, MappingNode):
        for pair in node.value:
            for item in pair:
                yield from _scalars(item)
    else:
        for item in node.value:
            yield from _scalars(item)


def _nodes(node: Node | None, path: KeyPath) -> Iterator[tuple[KeyPath, Node]]:
    for key, item in node.value if node else ():
        here = (*path, str(key.value))
        if isinstance(item, MappingNode) and item.value:
            yield from _nodes(item, here)
        else:
            if item.start_mark.index == item.end_mark.index:  # no value: that of what follows
                item.start_mark = item.end_mark = key.end_mark
            yield here, item


def _is_block_list(node: Node) -> bool:
    return isinstance(node, SequenceNode) and not node.flow_style and bool(node.value)


def _end(text: str, node: Node) -> int:
    """End of a value; that of a block list is after the comment in the line of its last item.

    Its own mark is after all comments that follow.
    """
    if _is_block_list(node):
        last = _end(text, node.value[-1])
        comment = re.compile(r" +#[^\r\n]*").match(text, last)
        return comment.end() if comment else last
    end: int = node.end_mark.index
    return end
