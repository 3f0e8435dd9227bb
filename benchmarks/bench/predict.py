"""Speed of the exported model: ONNX file beside eager PyTorch, and `predict` as a process."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.rows import Row, Settings, compared
from multi_abnormality import load_model
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.runtime.checkpoint_io import BEST, load_complete
from speed.phantom import draw_phantom
from speed.processes import predict

CALLS = 15  # of a block


def run(settings: Settings) -> list[Row]:
    return [*compare_runtimes(settings), *time_predict(settings)]


def compare_runtimes(settings: Settings) -> list[Row]:
    """Time both on one volume, a block of calls at a time.

    A runtime's threads spin for a while after a call and occupy the cores. So the session ends
    before PyTorch's turn: with alternating calls PyTorch took more than twice as long.
    """
    processed = ProcessedDataset(Path("processed"))
    codes = processed.read(processed.names[0])[None]
    classifier = restore_classifier(load_complete(Path("checkpoints") / BEST))

    @torch.inference_mode()
    def eager() -> None:
        classifier.predict(torch.from_numpy(codes))

    of_eager: list[float] = []
    of_exported: list[float] = []
    for _ in range(settings.rounds):
        of_eager += time_block(eager)
        session = load_model().session
        of_exported += time_block(partial(session.run, None, {"volume": codes}))
        del session
    name, peer = "a volume through the ONNX file", "eager PyTorch"
    return [compared(name, "ms", of_exported, peer, of_eager, "at most 0.33")]


def time_block(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each call, after warm-up calls."""
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    return taken[CALLS // 3 :]


def time_predict(settings: Settings) -> list[Row]:
    size, slices = settings.size((512, 300), (128, 80))
    phantom = draw_phantom(size, slices)
    copies = [settings.folder / f"valid_{number}_a_1.nii.gz" for number in range(1, 5)]
    for copy in copies:
        copy.symlink_to(phantom)
    count = settings.size(10, 2)
    scans = sorted(Path("data/dataset/valid_fixed").rglob("*.nii.gz"))[:count]
    if not scans:
        raise FileNotFoundError("data/dataset/valid_fixed holds no scan; run `make data`")
    predict(scans[0])  # compiles the package and fills the cache of files
    full, of_four, together, alone, peak = [], [], [], [], []
    for _ in range(settings.rounds):
        cost = predict(phantom)
        full.append(cost.seconds)
        peak.append(cost.peak)
        of_four.append(predict(*copies).seconds / len(copies))
        together.append(predict(*scans).seconds)
        alone.append(sum(predict(scan).seconds for scan in scans))
    name = f"predict, {size}x{size}x{slices}"
    return [
        compared(f"{name}, one of four in a call", "s", of_four, "a call by itself", full),
        Row(f"{name}: peak memory", max(peak), "GB", target="at most 2.5 GB"),
        compared(f"{len(scans)} scans of the sample in one call", "s", together,
                 "a call each", alone, "at most 0.33"),
    ]  # fmt: skip
