"""A progress bar on a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.constrain import Constrain
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
from rich.table import Column
from rich.text import Text

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """Rate, such as "12.3 volumes/s"."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f} {task.fields['unit']}/s" if rate else "")


class ProgressBar(Progress):
    """Rich's Progress with this project's columns."""

    def __init__(self, console: Console, transient: bool = False) -> None:
        self._terminal = console  # super().__init__ renders before it sets one
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
        )

    def get_renderable(self) -> RenderableType:
        """Leave room for the "^C" that a terminal shows, which would wrap a full line."""
        return Constrain(super().get_renderable(), self._terminal.width - 2)


def track_bar(
    items: Iterable[T], description: str, total: int, unit: str, console: Console
) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with ProgressBar(console) as progress:
        task = progress.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            progress.advance(task)
