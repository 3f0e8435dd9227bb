"""DVCLive logger of steps and epochs."""

from dvclive import Live

from multi_abnormality.runtime.loggers.logged_run import FileLogger, LoggedRun


class DvcliveLogger(FileLogger):
    """Writes files for DVCLive, whose `resume=True` would append what a killed run had logged."""

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run, run.folder / "dvclive")

    def open(self) -> None:
        # Experiments are DVC's: it runs this as a stage, with its own metrics and plots.
        self.live = Live(str(self.path), save_dvc_exp=False, dvcyaml=None)

    def add(self, values: dict[str, float], step: int) -> None:
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)

    def flush(self, step: int) -> None:
        self.live.step = step
        self.live.sync()

    def end(self) -> None:
        self.live.end()
