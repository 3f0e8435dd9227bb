"""The evaluate stage on many scans, beside inference alone."""

import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

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
    report = metrics / "report.html"
    name = f"evaluate, {scans:,} scans, {n_bootstrap:,} resamples"
    return [
        compared(name, "s", [whole], "inference alone", [inference]),
        Row(f"{name}: beyond inference", whole - inference, "s", target="at most 20 s"),
        Row("its report", report.stat().st_size / 1e6, "MB", target="at most 5 MB"),
        *open_in_browser(report, settings.rounds),
    ]


def open_in_browser(page: Path, rounds: int) -> list[Row]:
    """Measure the time until a page and its scripts are loaded; no row without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return []
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(rounds):
            tab = browser.new_page()
            start = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="load", timeout=300_000)
            times.append(time.perf_counter() - start)
            tab.close()
        browser.close()
    return [
        Row("its report: opened in Chromium", statistics.median(times), "s", target="at most 2 s")
    ]
