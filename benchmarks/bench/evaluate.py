"""The evaluate stage on many scans, beside inference alone."""

import shutil
import time
from pathlib import Path

from bench.rows import Row, Settings, compared
from multi_abnormality.data.batches import WholeVolumes
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.model.build import restore
from multi_abnormality.model.device import choose_device, loading_workers
from multi_abnormality.model.inference import volume_logits
from multi_abnormality.params import load_params
from multi_abnormality.stages import evaluate
from multi_abnormality.training.checkpoints import BEST, load_complete
from speed.many_scans import write_many_scans

SCANS = 3039  # of CT-RATE's valid split
CHECKPOINTS = Path("checkpoints")


def run(settings: Settings) -> list[Row]:
    """Once each, since both take long; the scans are those of the sample, over and over."""
    scans, resamples = settings.size((SCANS, 2000), (60, 50))
    params = load_params()
    changed = params.evaluate.model_copy(update={"resamples": resamples})
    params = params.model_copy(update={"evaluate": changed})
    processed = write_many_scans(Path("processed"), settings.folder / "processed", scans)
    metrics = settings.folder / "metrics"
    metrics.mkdir()
    shutil.copy("metrics/history.csv", metrics)
    start = time.perf_counter()
    evaluate.run(params, CHECKPOINTS, processed, metrics)
    whole = time.perf_counter() - start
    checkpoint = load_complete(CHECKPOINTS / BEST)
    volumes = ProcessedSet(processed)
    names = volumes.volumes("valid")["name"].tolist() + checkpoint["about"]["volumes"]["validation"]
    data, device = WholeVolumes(volumes, names), choose_device(params.machine.accelerator)
    start = time.perf_counter()
    volume_logits(restore(checkpoint), data, device, loading_workers(params))
    inference = time.perf_counter() - start
    size = (metrics / "report.html").stat().st_size / 1e6
    name = f"evaluate, {scans:,} scans, {resamples:,} resamples"
    return [
        compared(name, "s", [whole], "inference alone", [inference]),
        Row(f"{name}: beyond inference", whole - inference, "s", target="at most 60 s"),
        Row("its report", size, "MB", target="at most 5 MB"),
    ]
