"""Terminal output of all programs: log lines, progress, and errors without a traceback.

Every program has the same options: `-q` shows only warnings, errors and the program's result, `-v`
also the log of libraries and the traceback of an error. DVC starts the stages without options: for
them the environment variable MULTI_ABNORMALITY_VERBOSITY is `quiet`, `normal` or `verbose`.
"""

import argparse
import errno
import io
import logging
import os
import sys
import textwrap
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from multi_abnormality.utils.errors import InputError, describe_missing
from multi_abnormality.utils.warning_filters import filter_warnings

if TYPE_CHECKING:
    from rich.console import Console


class TerminalConsole:
    """Standard error; not a terminal in quiet mode, which disables progress bars.

    Rich takes 50 ms to import, so it is imported only when something is drawn or styled.
    """

    is_quiet = False

    @property
    def is_terminal(self) -> bool:
        """Whether progress bars can be drawn; never in quiet mode."""
        # sys.stderr may be missing or closed; its number is always 2.
        may_be = os.isatty(2) or not _TERMINAL_VARIABLES.isdisjoint(os.environ)
        return may_be and not self.is_quiet and self.rich.is_terminal

    @cached_property
    def rich(self) -> "Console":
        """Rich's console of standard error."""
        from rich.console import Console

        return Console(stderr=True)

    def print(self, text: str, style: str = "") -> None:
        """Print a text without markup; no line is wrapped."""
        from rich.text import Text

        self.rich.print(Text(text, style=style), soft_wrap=True)

    def print_wrapped(self, text: str, style: str = "") -> None:
        """Print a text without markup; on a terminal lines are wrapped at words."""
        if self.rich.is_terminal:
            text = "\n".join(wrap_words(text, self.rich.width))
        self.print(text, style)


console = TerminalConsole()
log = logging.getLogger("multi_abnormality")

T = TypeVar("T")

PLAIN_LINE_SECONDS = 15.0  # between log lines of progress without a terminal

# Variables that make rich treat any stream as a terminal.
_TERMINAL_VARIABLES = {"FORCE_COLOR", "TTY_COMPATIBLE"}

VARIABLE = "MULTI_ABNORMALITY_VERBOSITY"
VERBOSITY_OPTIONS = {
    "quiet": "show only warnings, errors and the result",
    "verbose": "also show the log of libraries and the traceback of an error",
}
_LEVELS = {  # log levels of this project and of libraries
    "quiet": (logging.WARNING, logging.WARNING),
    "normal": (logging.INFO, logging.WARNING),
    "verbose": (logging.DEBUG, logging.INFO),
}
# Categories of characters that a terminal acts on or does not show: control and format characters
# (escape sequences, text direction), bytes of a file name that are not UTF-8, line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str, keep: str = "") -> str:
    """Escape what could change or garble a terminal, such as "\\x1b", "\\u202e" or "\\xff"."""
    if text.isprintable():
        return text
    return "".join(
        _escape(one) if unicodedata.category(one) in _HIDDEN and one not in keep else one
        for one in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python holds it (PEP 383)
        code -= 0xDC00
    elif code > 0xFFFF:
        return f"\\U{code:08x}"
    elif code > 0x7F:
        return f"\\u{code:04x}"
    return f"\\x{code:02x}"


def wrap_words(text: str, width: int) -> list[str]:
    """Wrap each line of a text at whitespace; longer words, such as paths, stay whole."""
    lines = []
    for line in text.splitlines() or [""]:
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return lines


def escape_path(message: str, path: Path) -> str:
    """Make a path in a message printable, including line breaks in file names."""
    return message.replace(str(path), printable(str(path)))


def can_show(text: str, stream: TextIO) -> bool:
    """Whether a stream's encoding can represent all characters of `text`."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def describe_failure(path: Path, error: Exception) -> str:
    """Describe an unexpected exception, and log its traceback for --verbose."""
    log.debug("%s", printable(str(path)), exc_info=error)
    if isinstance(error, MemoryError):
        return (
            f"{path}: needs more memory than there is; close other programs, or use a machine "
            "with more"
        )
    return (
        f"{path}: failed with an unexpected {type(error).__name__} ({error}); please report this "
        "as a bug, with the output of --verbose"
    )


def track(items: Iterable[T], description: str, total: int, unit: str = "volumes") -> Iterator[T]:
    """Yield `items` and show the progress, if any: a bar on a terminal, otherwise log lines."""
    if total == 0:
        yield from items
    elif console.is_terminal:
        from multi_abnormality.utils.progress_bar import track_bar

        yield from track_bar(items, description, total, unit, console.rich)
    else:
        yield from _track_lines(items, description, total, unit)


def _track_lines(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    start = logged = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - logged >= PLAIN_LINE_SECONDS:
            logged, rate = now, done / (now - start)
            left = (total - done) / rate
            log.info(
                "%s: %d/%d, %.1f %s/s, %.0f s left", description, done, total, rate, unit, left
            )
    seconds = time.monotonic() - start
    log.info("%s: %d/%d %s in %.1f s", description, done, total, unit, seconds)


class _PrintableFormatter(logging.Formatter):
    """Formatter that escapes control characters, which file names may contain."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message, keep="\n\t")
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), keep="\n\t")


def _handler() -> logging.Handler:
    if console.is_terminal:
        from rich.logging import RichHandler

        rich = RichHandler(console=console.rich, show_path=False, log_time_format="[%H:%M:%S]")
        rich.setFormatter(_PrintableFormatter("%(message)s"))  # rich shows time and level itself
        return rich
    plain = logging.StreamHandler()
    plain.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return plain


def set_verbosity(name: str) -> None:
    """Set the log levels of this project and of libraries."""
    if name not in _LEVELS:
        raise InputError(f"{VARIABLE}: must be one of {', '.join(_LEVELS)}, not {name!r}")
    ours, libraries = _LEVELS[name]
    for own in ("multi_abnormality", "chest_phantom"):
        logging.getLogger(own).setLevel(ours)
    logging.getLogger().setLevel(libraries)
    console.is_quiet = name == "quiet"


def parse_stage_args(argument: str | None = None) -> str:
    """Parse the options of a stage that is run as a program; return its argument.

    A stage calls it before slow imports, so that --help is answered at once, and an import that
    fails names the extra to install.

    Args:
        argument: name of the stage's only argument, if it has one.
    """
    sys.excepthook = _report_exception
    stage = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m multi_abnormality.stages.{stage}",
        description=f"Run this stage alone. `dvc repro {stage}` also runs what it depends on, and "
        "only if something has changed.",
        epilog=f"Under DVC set the environment variable {VARIABLE} instead of the options: quiet, "
        "normal or verbose. All other settings are in params.yaml.",
    )
    choice = parser.add_mutually_exclusive_group()
    for name, text in VERBOSITY_OPTIONS.items():
        choice.add_argument(
            f"-{name[0]}", f"--{name}", help=text,
            dest="verbosity", action="store_const", const=name,
        )  # fmt: skip
    if argument:
        parser.add_argument(argument)
    parsed = parser.parse_args()
    if parsed.verbosity:
        os.environ[VARIABLE] = parsed.verbosity  # also of the ranks that a stage starts
        set_verbosity(parsed.verbosity)
    return getattr(parsed, argument) if argument else ""


def _report_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a message for a package that is missing, else a traceback."""
    missing = describe_missing(error) if isinstance(error, ModuleNotFoundError) else None
    if missing is None or log.isEnabledFor(logging.DEBUG):
        sys.__excepthook__(kind, error, trace)
    if missing is not None:
        sys.stderr.write(f"error: {missing}\n")


def run(main: Callable[[], None], verbosity: str | None = None) -> None:
    """Run a program's main function: set up logging, turn an InputError into exit code 1.

    Args:
        main: main function.
        verbosity: name of the verbosity; None: that of the environment.
    """
    _never_fail_to_encode()
    logging.basicConfig(handlers=[_handler()])
    filter_warnings()
    try:
        set_verbosity(verbosity or os.environ.get(VARIABLE) or "normal")
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_stdout_closed():
            raise
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _discard_stdout()
        console.print("error: standard output: the disk is full", style="red")
        sys.exit(1)
    except InputError as error:
        if log.isEnabledFor(logging.DEBUG):
            console.print(printable(traceback.format_exc(), keep="\n\t"))
        # An error of a loading process is wrapped in the traceback of that process.
        message = str(error).rpartition(f"{InputError.__module__}.InputError: ")[2].rstrip()
        console.print_wrapped(printable(f"error: {message}", keep="\n\t"), style="red")
        _print_experiment_hint()
        sys.exit(1)
    except ModuleNotFoundError as error:
        _report_exception(type(error), error, error.__traceback__)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped")
        _print_experiment_hint()
        sys.exit(130)


def _print_experiment_hint() -> None:
    if _is_experiment_in_workspace():
        console.print_wrapped(
            "hint: the work tree keeps the parameters of this experiment. To return to the last "
            "commit: git restore . && dvc checkout --force (docs/how-to/experiments.md lists "
            "what this discards)"
        )


def _is_experiment_in_workspace() -> bool:
    """Whether `dvc exp run` started this stage in the work tree; a queue does not run there."""
    root = os.environ.get("DVC_ROOT")
    return "DVC_EXP_NAME" in os.environ and root is not None and Path(root).resolve() == Path.cwd()


def _never_fail_to_encode() -> None:
    """Have streams escape what their encoding lacks, so that a file name cannot end a program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_stdout_closed() -> bool:
    """Whether the reader of standard output, such as `head`, has ended; then discard the rest."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return True
    return False


def _discard_stdout() -> None:
    """Discard what is not written yet: the interpreter flushes once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
