"""MLflow logger of steps and epochs."""

import logging
import os
import time
from collections.abc import Mapping

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from multi_abnormality.config.yaml_edit import leaves
from multi_abnormality.runtime.loggers.logged_run import LoggedRun
from multi_abnormality.runtime.loggers.tracking_thread import TrackingThread
from multi_abnormality.utils.console import log

EXPERIMENT = "multi-abnormality"
FINGERPRINT = "multi_abnormality.fingerprint"  # tag of the MLflow run, whose id the server chooses


class MlflowLogger(TrackingThread):
    """Logs to the MLflow run that has the run's fingerprint as a tag, and only what it lacks."""

    name = "mlflow"

    def __init__(self, run: LoggedRun) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        super().__init__(run)

    def connect(self) -> None:
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or self._database()
        self._client = MlflowClient(self._uri)
        found = self._find_named() or self._find_tagged()
        self._id = (found or self._create()).info.run_id
        if found:
            self._client.set_tag(self._id, FINGERPRINT, self.run.id)
            self._client.update_run(self._id, status="RUNNING")
        self.sent_step = self._last("train/loss", 0)
        self.sent_epochs = self._last("val_loss", -1) + 1

    def _database(self) -> str:
        """Return the URI of the default database; a kill leaves a complete one or none."""
        path = self.run.folder.absolute() / "mlflow.db"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(".mlflow.db.tmp")
            temporary.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{temporary}").search_experiments()  # creates the tables
            temporary.replace(path)
        return f"sqlite:///{path}"

    @property
    def _experiment_id(self) -> str:
        if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self._client.create_experiment(name)

    def _find_named(self) -> Run | None:
        """Find the run of MLFLOW_RUN_ID, unless it is unknown, deleted or of another training."""
        if not (named := os.environ.get("MLFLOW_RUN_ID")):
            return None
        try:
            run = self._client.get_run(named)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        is_active = run is not None and run.info.lifecycle_stage == "active"
        if run and is_active and run.data.tags.get(FINGERPRINT, self.run.id) == self.run.id:
            return run
        log.warning(
            "mlflow: MLFLOW_RUN_ID is %s, but %s has no run of this training with this id; it is "
            "ignored", named, self._uri,
        )  # fmt: skip
        return None

    def _find_tagged(self) -> Run | None:
        tagged = f"tags.`{FINGERPRINT}` = '{self.run.id}'"
        runs = self._client.search_runs([self._experiment_id], tagged, max_results=1)
        return runs[0] if runs else None

    def _create(self) -> Run:
        if self.run.history.steps:
            log.info("mlflow: %s has no run of this training: a new one starts", self._uri)
        name = os.environ.get("DVC_EXP_NAME") or self.run.id
        run = self._client.create_run(
            self._experiment_id, run_name=name, tags={FINGERPRINT: self.run.id}
        )
        params = [Param(".".join(path), str(value)) for path, value in leaves(self.run.config)]
        self._client.log_batch(run.info.run_id, params=params)
        return run

    def _last(self, key: str, default: int) -> int:
        """Return the last step of a metric in the run."""
        logged = self._client.get_metric_history(self._id, key)
        return max((metric.step for metric in logged), default=default)

    def send_steps(self, steps: Mapping[int, dict[str, float]]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id,
            [
                Metric(name, value, now, step)
                for step, values in steps.items()
                for name, value in values.items()
            ],
        )

    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self.send_steps({epoch: values})

    def finish(self) -> None:
        self._client.set_terminated(self._id, "FINISHED" if self.run.is_finished else "KILLED")
