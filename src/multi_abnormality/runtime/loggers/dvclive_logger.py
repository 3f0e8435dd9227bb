"""DVCLive logger of steps and epochs."""

from collections.abc import Sequence

from dvclive import Live

from multi_abnormality.runtime.loggers.logged_run import (
    LoggedRun,
    epoch_values,
    explain_write_errors,
    step_values,
)
from multi_abnormality.training.history import History, StepMetrics


class DvcliveLogger:
    """Writes the history for DVCLive, replacing earlier files at every start.

    DVCLive's own `resume=True` would append steps that a killed run had logged a second time.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.folder = run.folder / "dvclive"
        with explain_write_errors(self.folder):
            # Experiments are DVC's: it runs this as a stage, with its own metrics and plots.
            self.live = Live(str(self.folder), save_dvc_exp=False, dvcyaml=None)
            for step in run.history.steps:
                self._add(step_values(step), step.step)
            for epoch in run.history.epochs:
                self._add(epoch_values(epoch), epoch.epoch)

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        with explain_write_errors(self.folder):
            for step in steps:
                self._add(step_values(step, volumes_per_second), step.step)
            self.live.sync()

    def log_epoch(self, history: History) -> None:
        epoch = history.epochs[-1]
        with explain_write_errors(self.folder):
            self._add(epoch_values(epoch), epoch.epoch)
            self.live.step = epoch.step
            self.live.sync()

    def _add(self, values: dict[str, float], step: int) -> None:
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)

    def close(self) -> None:
        with explain_write_errors(self.folder):
            self.live.end()
