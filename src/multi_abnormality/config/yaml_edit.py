"""Reading and editing the text of params.yaml or a recipe; an edit changes only the values."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from multi_abnormality.config.yaml_reader import Yaml12Loader, load_yaml

KeyPath = tuple[str, ...]


def flatten(text: str) -> dict[KeyPath, Any]:
    """Values by key path; a list is one value.

    Raises:
        ValueError: the text is not valid YAML, or has no sections.
    """
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
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
    loader = Yaml12Loader(text)
    found = {}
    for path, node in _nodes(loader.get_single_node(), ()):
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            value = loader.construct_object(node, deep=True)
            found[path] = yaml.safe_dump(value, default_flow_style=True, width=10**9).strip()
        else:
            found[path] = text[node.start_mark.index : node.end_mark.index]
    return found


def replace_values(text: str, values: Mapping[KeyPath, str]) -> str:
    """Replace values of a valid file; comments keep their columns if there is room.

    A comment that a longer value has pushed to the right returns to the column of most comments.
    Comments inside a list that is replaced are removed.
    """
    nodes = dict(_nodes(Yaml12Loader(text).get_single_node(), ()))
    columns = Counter(len(found[0]) for found in re.finditer(r"^[^#\n]*\S +(?=#)", text, re.M))
    usual = max(columns, key=columns.__getitem__, default=0)
    for path in sorted(values, key=lambda path: nodes[path].start_mark.index, reverse=True):
        start, end, value = nodes[path].start_mark.index, _end(text, nodes[path]), values[path]
        if start == end:  # no value after the colon
            value = f" {value}"
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
    for path, node in _nodes(Yaml12Loader(text).get_single_node(), ()):
        position, others = node.start_mark.index, ""  # text between the items
        for item in _scalars(node):
            others += text[position : item.start_mark.index]
            position = item.end_mark.index
        others += text[position : _end(text, node)]
        if comments := re.findall(r"#[^\r\n]*", others):
            found[path] = comments
    return found


def _scalars(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for item in pair:
                yield from _scalars(item)
    else:
        for item in node.value:
            yield from _scalars(item)


def _nodes(node: yaml.Node | None, path: KeyPath) -> Iterator[tuple[KeyPath, yaml.Node]]:
    for key, item in node.value if node else ():
        here = (*path, str(key.value))
        if isinstance(item, yaml.MappingNode) and item.value:
            yield from _nodes(item, here)
        else:
            yield here, item


def _end(text: str, node: yaml.Node) -> int:
    """End of a value; that of a block list is after the comment in the line of its last item.

    PyYAML's mark of a block list is after all comments that follow.
    """
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        last = _end(text, node.value[-1])
        comment = re.compile(r" +#[^\r\n]*").match(text, last)
        return comment.end() if comment else last
    end: int = node.end_mark.index
    return end
