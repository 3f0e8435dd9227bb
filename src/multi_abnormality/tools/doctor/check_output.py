"""Results as lines of text, in colour on a terminal; imports only the standard library."""

import os
import shutil
import sys

from multi_abnormality.tools.doctor.context import FAIL, OK, WARN, CheckResult
from multi_abnormality.utils.console import wrap_words

COLOURS = {OK: "32", WARN: "33", FAIL: "1;31"}  # ANSI codes
STATUS, PART = 6, 14  # widths of the first columns
PLAIN_WIDTH = 100  # columns without a terminal


def print_result(result: CheckResult) -> None:
    """Print a result, and below it the command that fixes it."""
    status = f"{result.status:<{STATUS}}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        status = f"\x1b[{COLOURS[result.status]}m{status}\x1b[0m"
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    text, *more = wrap_words(result.text, max(columns - STATUS - PART, 40))
    write(f"{status}{result.part:<{PART}}{text}")
    for line in [*more, *([f"→ {result.help}"] if result.help else [])]:
        write(f"{'':<{STATUS + PART}}{line}")


def write(line: str) -> None:
    """Write a line, with escapes for characters that the encoding lacks, and flush."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
