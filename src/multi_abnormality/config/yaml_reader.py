"""Reader of YAML 1.2 that interprets a file as DVC does."""

import re
from contextlib import suppress
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

MAX_DEPTH = 50
MAX_NODES = 10_000  # with every alias counted as often as it is used
MAX_CHARACTERS = 1_000_000  # PyYAML takes seconds for more
MAX_BITS = 1000  # of an integer; larger ones do not fit a float
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")  # end a line in YAML 1.1, not in 1.2
_TAG = "tag:yaml.org,2002:"


def load_yaml(text: str) -> Any:
    """Parse one document.

    Raises:
        yaml.YAMLError: the text is not valid, or exceeds the limits of nesting, size or aliases.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"has more than {MAX_CHARACTERS:,} characters")
    if found := _OTHER_BREAKS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise yaml.YAMLError(f"line {line} has the character {found[0]!a}; delete it")
    return yaml.load(text, Loader=Yaml12Loader)


class Yaml12Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, as ruamel.yaml reads them for DVC.

    PyYAML reads YAML 1.1, where `1e-4` is text, `on` is True, `010` is 8 and `1:30` is 90. It also
    takes the last of two equal keys, and does not bound nesting or aliases.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[Node, int] = {}  # nodes below each node and itself, aliases expanded

    def process_directives(self) -> Any:
        directives = super().process_directives()  # type: ignore[no-untyped-call]
        if self.yaml_version not in (None, (1, 2)):
            raise yaml.YAMLError("is not of YAML 1.2; delete the line %YAML")
        return directives

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        is_alias = self.check_event(AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(f"is nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and node not in self._sizes:  # it is still being composed
            raise _error("the value contains itself", mark)
        if not is_alias:
            self._sizes[node] = 1 + sum(self._sizes[child] for child in _children(node))
        if self._sizes[node] > MAX_NODES:
            raise _error(f"has more than {MAX_NODES:,} values, aliases expanded", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        # Checked here, since merge keys later add keys of other mappings, which may be equal.
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen = set()
        for key, _ in node.value:
            value = key.value
            if isinstance(key, ScalarNode) and not key.tag.endswith((":merge", ":value")):
                value = self.construct_object(key)
            with suppress(TypeError):  # unhashable: construct_mapping refuses it
                if value in seen:
                    raise _error(f"the key {key.value!r} is given twice; keep one", key.start_mark)
                seen.add(value)
        return node

    def construct_int(self, node: ScalarNode) -> int:
        digits = self.construct_scalar(node).replace("_", "")
        sign, digits = (digits[0], digits[1:]) if digits.startswith(("-", "+")) else ("", digits)
        base = _BASES.get(digits[:2], 10)
        number = int(sign + (digits if base == 10 else digits[2:]), base)
        if number.bit_length() > MAX_BITS:
            raise ValueError
        return number

    def construct_float(self, node: ScalarNode) -> float:
        text = self.construct_scalar(node).replace("_", "").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:  # of 2001-02-30, or !!timestamp x
            text, kind = str(node.value)[:50], node.tag.removeprefix(_TAG)
            raise _error(f"{text!r} cannot be read as {kind}", node.start_mark) from error


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(problem: str, mark: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)


Yaml12Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if not one[0].endswith((":float", ":bool", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12Loader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
# More than the core schema: ruamel.yaml takes underscores and binary numbers, and an exponent
# after a leading point only with its sign.
Yaml12Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"^(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
Yaml12Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)$"),
    list("-+0123456789"),
)
Yaml12Loader.add_constructor(f"{_TAG}int", Yaml12Loader.construct_int)
Yaml12Loader.add_constructor(f"{_TAG}float", Yaml12Loader.construct_float)
