"""What was seen, as lines; in colour on a terminal. Takes nothing but Python itself."""

import os
import shutil
import sys
import textwrap

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, Seen

COLOURS = {WELL: "32", DOUBT: "33", FAULT: "1;31"}  # of the ANSI codes for graphic renditions
VERDICT, PART = 6, 14  # columns
PLAIN_WIDTH = 100  # where there is no terminal


def tell(seen: Seen) -> None:
    """Write its line, and below it the command that helps."""
    verdict = f"{seen.verdict:<{VERDICT}}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        verdict = f"\x1b[{COLOURS[seen.verdict]}m{verdict}\x1b[0m"
    text, *more = _wrapped(seen.text)
    write(f"{verdict}{seen.part:<{PART}}{text}")
    for line in [*more, *([f"→ {seen.help}"] if seen.help else [])]:
        write(f"{'':<{VERDICT + PART}}{line}")


def write(line: str) -> None:
    """Write a line at once, whatever the terminal's letters are."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _wrapped(text: str) -> list[str]:
    """Lines that fit beside the columns; commands and paths stay whole."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    lines = []
    for line in text.splitlines() or [""]:
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, max(columns - VERDICT - PART, 40), subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return lines
