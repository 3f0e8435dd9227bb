"""The commands of the guides, and the output that they show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_BETWEEN = re.compile(r"[;&|()]+")  # tokens that end a simple command
_INNER = re.compile(r"\$\([^)]*\)")
_PROGRAMS = ("dvc", "make", "python", "git", "gto", "tensorboard")


@dataclass(frozen=True)
class Command:
    """A line that a reader types.

    Attributes:
        place: such as "README.md:23".
        text: as a shell takes it, with the lines that it is continued on.
        output: the lines that stand below it.
    """

    place: str
    text: str
    output: tuple[str, ...] = ()


def documents() -> list[Path]:
    """Every guide of this project."""
    top = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [*top, *(page for page in pages if not is_generated(page))]


def is_generated(page: Path) -> bool:
    """Whether docs/generate_pages.py writes a page, which Git ignores."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    return f"/{page.resolve().relative_to(ROOT)}" in ignored


def commands(document: Path) -> list[Command]:
    """What its console blocks say to type, in order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        found += _in_block(block[1].splitlines(), document, first)
    return found


def _in_block(lines: list[str], document: Path, first: int) -> list[Command]:
    found: list[Command] = []
    at = 0
    while at < len(lines):
        assert lines[at].startswith("$ "), f"{document}:{first + at}: output of no command"
        place = f"{document.relative_to(ROOT)}:{first + at}"
        text = lines[at].removeprefix("$ ")
        at += 1
        while _is_open(text):
            text += "\n" + lines[at]
            at += 1
        begin = at
        while at < len(lines) and not lines[at].startswith("$ "):
            at += 1
        found.append(Command(place, text, tuple(lines[begin:at])))
    return found


def _is_open(text: str) -> bool:
    """Whether a shell would wait for another line."""
    try:
        shlex.split(text, comments=True)
    except ValueError:  # of an open quotation
        return True
    return text.endswith("\\")


def mentions(document: Path) -> list[Command]:
    """Commands in running text and in tables."""
    place = str(document.relative_to(ROOT))
    spans = [span.replace(r"\|", "|") for span in code_spans(document)]
    return [Command(place, span) for span in spans if span.partition(" ")[0] in _PROGRAMS]


def code_spans(document: Path) -> list[str]:
    """What stands in code spans."""
    text = _ANY_BLOCK.sub("", document.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in _SPAN.findall(text)]


def links(document: Path) -> list[str]:
    """Targets of links and pictures."""
    return _LINK.findall(_ANY_BLOCK.sub("", document.read_text(encoding="utf-8")))


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command that a line is made of, without assignments before them."""
    plain = _INNER.sub("VALUE", text.replace("\\\n", " "))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for token in lexer:
        if _BETWEEN.fullmatch(token):
            found.append([])
        elif found[-1] or not re.match(r"\w+=", token):
            found[-1].append(token)
    return [command for command in found if command]
