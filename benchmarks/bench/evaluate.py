"""The evaluate stage on many scans, beside inference alone."""

import shutil
import time
from pathlib import Path

from bench.rows import Row, Settings, compared
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.runtime.checkpoint_io import BEST, load_complete
from multi_abnormality.stages import evaluate
from speed.many_scans import write_many_scans

SCANS = 3039  # of CT-RATE's test split
CHECKPOINTS = Path("checkpoints")


def run(settings: Settings) -> list[Row]:
    """Run each once, since both take long; the sample's scans are repeated."""
    scans, n_bootstrap = settings.size((SCANS, 2000), (60, 50))
    params = load_params()
    changed = params.evaluate.model_copy(update={"n_bootstrap": n_bootstrap})
    params = params.model_copy(update={"evaluate": changed})
    processed = write_many_scans(Path("processed"), settings.folder / "processed", scans)
    metrics = settings.folder / "metrics"
    metrics.mkdir()
    shutil.copy("metrics/history.csv", metrics)
    start = time.perf_counter()
    evaluate.run(params, CHECKPOINTS, processed, metrics)
    whole = time.perf_counter() - start
    checkpoint = load_complete(CHECKPOINTS / BEST)
    volumes = ProcessedDataset(processed)
    names = volumes.volumes("test")["name"].tolist() + checkpoint["about"]["volumes"]["validation"]
    data, device = EvalDataset(volumes, names), choose_device(params.machine.accelerator)
    start = time.perf_counter()
    predict_logits(restore_classifier(checkpoint), data, device, num_loader_workers(params))
    inference = time.perf_counter() - start
    size = (metrics / "report.html").stat().st_size / 1e6
    name = f"evaluate, {scans:,} scans, {n_bootstrap:,} resamples"
    return [
        compared(name, "s", [whole], "inference alone", [inference]),
        Row(f"{name}: beyond inference", whole - inference, "s", target="at most 60 s"),
        Row("its report", size, "MB", target="at most 5 MB"),
    ]
