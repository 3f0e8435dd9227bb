"""Training runs of the studies: train, then predict scans with the best epoch's weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multi_abnormality.config.schema import Params
from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.scored_scans import Scans, average_over_reconstructions
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import BEST, load_complete
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun


class TrainedRun:
    """A finished run.

    Args:
        params: parameters of the run.
        processed: the processed dataset, perhaps with other labels or splits than on the disk.
        folder: empty folder of the run.

    Attributes:
        history: metrics of its epochs.
        best: complete checkpoint of the best epoch.
        val_names, test_names: names of the volumes of each split.
    """

    def __init__(self, params: Params, processed: ProcessedDataset, folder: Path) -> None:
        paths = RunPaths(
            checkpoints=folder / "checkpoints",
            logs=folder / "logs",
            history=folder / "history.csv",
            archive=CheckpointArchive(folder / "archive", folder / "cache"),
        )
        run = TrainingRun(params, processed, paths)
        self.history = run.run()
        self.params = params
        self.processed = processed
        self.val_names = run.datamodule.names["validation"]
        self.test_names = processed.volumes("test")["name"].tolist()
        self.best = load_complete(paths.checkpoints / BEST)

    def predict(self, names: Sequence[str], checkpoint: dict[str, Any] | None = None) -> Scans:
        """Predict the scans of these volumes; logits are not calibrated.

        Args:
            names: names of the volumes.
            checkpoint: complete one with the weights; None: `best`.
        """
        device = choose_device(self.params.machine.accelerator)
        logits = predict_logits(
            restore_classifier(checkpoint or self.best), EvalDataset(self.processed, names), device,
            num_loader_workers(self.params),
        )  # fmt: skip
        ids = self.processed.manifest.set_index("name").loc[list(names)]
        return average_over_reconstructions(
            names, logits, self.processed.labels_of(names),
            ids["scan_id"].tolist(), ids["patient_id"].tolist(), self.processed.findings,
        )  # fmt: skip

    def test_auroc(self, checkpoint: dict[str, Any] | None = None) -> float:
        """Return the macro AUROC of the test split; `checkpoint` is that of `predict`."""
        scans = self.predict(self.test_names, checkpoint)
        scores = official_scores(scans.labels, scans.logits, self.processed.findings)
        return float(scores["classification"]["macro"]["auroc"])
