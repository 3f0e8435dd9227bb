"""CSV logger of steps and epochs."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from multi_abnormality.runtime.loggers.logged_run import LoggedRun, explain_write_errors
from multi_abnormality.training.history import History, StepMetrics
from multi_abnormality.utils.atomic_io import atomic_write

SPEED = "volumes_per_second"


class CsvLogger:
    """Writes a file with a row per step, and one with a row per epoch, for `dvc plots`.

    At every start the rows of steps are written again from the checkpoint's history, since a killed
    run may have logged more. The history has no speeds: those of the old file are kept.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.history_csv = run.history_csv
        self.path = run.folder / "steps.csv"
        rows = [_row(step) for step in run.history.steps]
        self._restore_speeds(rows)
        names = [each.name for each in fields(StepMetrics)] + [SPEED]
        text = "".join(_lines([names, *(row.values() for row in rows)]))
        atomic_write(text.encode(), self.path)

    def _restore_speeds(self, rows: list[dict[str, str]]) -> None:
        """Take the speed of each row from the old file, if the rows are otherwise equal."""
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                old = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error):  # there is none, or it is damaged
            return
        for row, before in zip(rows, old, strict=False):
            if before == row | {SPEED: before.get(SPEED)}:
                row[SPEED] = before[SPEED] or ""

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        lines = _lines(_row(step, f"{volumes_per_second:.4g}").values() for step in steps)
        with explain_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def log_epoch(self, history: History) -> None:
        history.write_csv(self.history_csv)

    def close(self) -> None: ...


def _row(step: StepMetrics, speed: str = "") -> dict[str, str]:
    values = {name: f"{value:.9g}" for name, value in asdict(step).items()}
    return values | {SPEED: speed}


def _lines(rows: Iterable[Iterable[str]]) -> Iterable[str]:
    return (f"{','.join(row)}\n" for row in rows)
