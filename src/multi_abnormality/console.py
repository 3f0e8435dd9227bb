"""What a program shows: log lines, progress, and errors without a traceback.

How much is the same everywhere: `-q` shows warnings, errors and a program's answer alone, `-v` also
what libraries log, and where an error came from. Stages are started by DVC, which hands no options
on: for them the environment variable MULTI_ABNORMALITY_VERBOSITY says `quiet`, `normal` or
`verbose`.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from multi_abnormality.errors import InputError
from multi_abnormality.noise import silence_noise


class Screen(Console):
    """The terminal, if there is one: a quiet one is none, and so shows no progress."""

    is_quiet = False

    @property
    def is_terminal(self) -> bool:
        return super().is_terminal and not self.is_quiet


console = Screen(stderr=True)
log = logging.getLogger("multi_abnormality")

T = TypeVar("T")

PLAIN_LINE_SECONDS = 15.0  # how often progress is told where there is no terminal

VARIABLE = "MULTI_ABNORMALITY_VERBOSITY"
_LEVELS = {  # of this project's log, and of the libraries'
    "quiet": (logging.WARNING, logging.WARNING),
    "normal": (logging.INFO, logging.WARNING),
    "verbose": (logging.DEBUG, logging.INFO),
}


class RateColumn(ProgressColumn):
    """Units a second, such as "12.3 volumes/s"."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f} {task.fields['unit']}/s" if rate else "")


def track(items: Iterable[T], description: str, total: int, unit: str = "volumes") -> Iterator[T]:
    """Yield `items` under a progress bar, or with a plain line now and then without a terminal."""
    show = _track_bar if console.is_terminal else _track_lines
    yield from show(items, description, total, unit)


def _track_bar(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            progress.advance(task)


def _track_lines(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    start = told = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= PLAIN_LINE_SECONDS:
            told, rate = now, done / (now - start)
            left = (total - done) / rate
            log.info(
                "%s: %d/%d, %.1f %s/s, %.0f s left", description, done, total, rate, unit, left
            )
    seconds = time.monotonic() - start
    log.info("%s: %d %s in %.1f s", description, done, unit, seconds)


def _handler() -> logging.Handler:
    if console.is_terminal:
        rich = RichHandler(console=console, show_path=False, log_time_format="[%H:%M:%S]")
        rich.setFormatter(logging.Formatter("%(message)s"))  # it shows time and level itself
        return rich
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return plain


class _SetVerbosity(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # noqa: ARG002
        set_verbosity(self.const)


def options() -> argparse.ArgumentParser:
    """Of every program: a parent for its parser. They hold from when they are parsed."""
    parser = argparse.ArgumentParser(add_help=False)
    choice = parser.add_mutually_exclusive_group()
    for name, text in (
        ("quiet", "show warnings, errors and the answer alone"),
        ("verbose", "also show what libraries log, and where an error came from"),
    ):
        choice.add_argument(
            f"-{name[0]}", f"--{name}", help=text,
            action=_SetVerbosity, nargs=0, const=name, default=argparse.SUPPRESS,
        )  # fmt: skip
    return parser


def set_verbosity(name: str) -> None:
    """Show as much as one of `quiet`, `normal` and `verbose` says.

    Raises:
        InputError: it is none of them.
    """
    if name not in _LEVELS:
        raise InputError(f"{VARIABLE}: must be one of {', '.join(_LEVELS)}, not {name!r}")
    ours, libraries = _LEVELS[name]
    log.setLevel(ours)
    logging.getLogger().setLevel(libraries)
    console.is_quiet = name == "quiet"


def take_stage_options() -> None:
    """Of a stage, that is run as a program: what decides its results is in params.yaml.

    A stage calls it before it imports what takes seconds, so that nobody waits for --help.
    """
    module = sys.modules["__main__"].__spec__
    if module and module.parent == "multi_abnormality.stages":
        argparse.ArgumentParser(
            prog=f"python -m {module.name}",
            description=f"Run this stage alone. `dvc repro {module.name.rpartition('.')[2]}` also "
            "runs what it depends on, and only if something has changed.",
            epilog=f"Under dvc the environment variable {VARIABLE} stands for the options: quiet, "
            "normal or verbose. All else is in params.yaml.",
            parents=[options()],
        ).parse_args()


def run(main: Callable[[], None]) -> None:
    """Run a program's main function: set up logging, turn an InputError into exit code 1."""
    logging.basicConfig(handlers=[_handler()])
    silence_noise()
    try:
        set_verbosity(os.environ.get(VARIABLE) or "normal")
        take_stage_options()
        main()
    except InputError as error:
        if log.isEnabledFor(logging.DEBUG):
            console.print_exception()
        # One out of a loading process comes wrapped in that process's traceback.
        message = str(error).rpartition(f"{InputError.__module__}.InputError: ")[2].rstrip()
        console.print(Text(f"error: {message}", style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
