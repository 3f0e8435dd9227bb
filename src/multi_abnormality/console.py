"""What a program shows: log lines, progress, and errors without a traceback."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

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

console = Console(stderr=True)
log = logging.getLogger("multi_abnormality")

T = TypeVar("T")

# Warnings of libraries that a user can do nothing about.
_NOISE = (
    ".*does not have many workers.*",  # Lightning: on a CPU that is what is wanted
    ".*your dataloader is not resumable.*",  # Lightning: the sampler skips what is done
    ".*isinstance.treespec, LeafSpec.*",  # torch, of its own and of Lightning's code
)

PLAIN_LINE_SECONDS = 15.0  # how often progress is told where there is no terminal


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
        return RichHandler(console=console, show_path=False, log_time_format="[%H:%M:%S]")
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return plain


def run(main: Callable[[], None]) -> None:
    """Run a program's main function: set up logging, turn an InputError into exit code 1."""
    logging.basicConfig(level=logging.WARNING, handlers=[_handler()])
    log.setLevel(logging.INFO)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    try:
        main()
    except InputError as error:
        # One out of a loading process comes wrapped in that process's traceback.
        message = str(error).rpartition(f"{InputError.__module__}.InputError: ")[2].rstrip()
        console.print(Text(f"error: {message}", style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
