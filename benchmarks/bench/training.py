"""Training speed: steps per second beside other loops, time waiting for data, and startup.

The loops run in processes of their own and take turns, five steps each, so that other load on the
machine affects them equally. With a GPU the GPU is measured.
"""

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from bench.rows import Row, Settings, compared
from loops.turns import Blocks, Loop, take_turns
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.utils.errors import InputError

PEERS = {
    "bare": ("a bare loop, batches in memory", "at least 0.97"),
    "plain": ("plain Lightning, float32, no channels-last", "at least 1.4; on a GPU 3"),
}
STEPS, STARTS = 5, 3


def run(settings: Settings) -> list[Row]:
    rounds = 3 * settings.rounds
    starts = settings.size(STARTS, 1)
    processed = Path("processed")
    found, startups = compare_loops(load_params(), processed, settings.folder, rounds, starts)

    def per_second(name: str) -> list[float]:
        return [STEPS / seconds for seconds in found[name].seconds]

    def processor(name: str) -> list[float]:
        return [seconds / STEPS for seconds in found[name].cpu_seconds]

    ours = found["ours"]
    rows = []
    for name, (peer, target) in PEERS.items():
        rows += [
            compared("steps a second", "", per_second("ours"), peer, per_second(name), target),
            compared("processor time of a step", "s", processor("ours"), peer, processor(name)),
        ]
    waiting = 100 * sum(ours.waited) / sum(ours.seconds)
    parts = start_parts(startups)
    return [
        *rows,
        Row("waiting for data", waiting, "%", target="at most 2 %"),
        Row("a save", statistics.median(start["save"][0] for start in startups), "s"),
        Row("start of the process to the first step", sum(parts.values()), "s"),
    ]


def compare_loops(
    params: Params, processed: Path, folder: Path, rounds: int, starts: int
) -> tuple[dict[str, Blocks], list[dict[str, Any]]]:
    """Return the blocks of all loops and our startups; our blocks include their part of a save."""
    epoch = steps_of_epoch(params, processed, rounds)
    given = STEPS, processed, params, folder, None
    startups = measure_starts(params, processed, folder, starts - 1)
    loops: dict[str, Loop] = {}
    try:
        for name in ("ours", *PEERS):
            loops[name] = Loop(name, *given)
        found = take_turns(loops, rounds)
    finally:
        for loop in loops.values():
            loop.stop()
    startups.append(loops["ours"].start)
    fraction = STEPS / (epoch * params.train.save_every_n_epochs)
    save = [
        fraction * statistics.median(kind)
        for kind in zip(*(s["save"] for s in startups), strict=True)
    ]
    return found | {"ours": found["ours"].with_more(*save)}, startups


def measure_starts(params: Params, processed: Path, folder: Path, count: int) -> list[Any]:
    """Start the train stage's loop `count` times, up to the first step."""
    found = []
    for _ in range(count):
        loop = Loop("ours", STEPS, processed, params, folder, None)
        found.append(loop.start)
        loop.stop()
    return found


def steps_of_epoch(params: Params, processed: Path, rounds: int) -> int:
    """Return the approximate number of steps per epoch.

    Raises:
        InputError: validation would fall into a measured block.
    """
    scans = ProcessedDataset(processed).volumes("train")["scan_id"].nunique()
    steps = int((1 - params.train.val_fraction) * scans / params.train.batch_size)
    if steps <= (needed := (rounds + 1) * STEPS + 1):
        raise InputError(
            f"{processed}: an epoch has {steps} steps, and measuring takes more than {needed}; use "
            "more scans, fewer rounds, or a smaller train.batch_size"
        )
    return steps


def start_parts(starts: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of each part of the median startup."""
    middle = sorted(starts, key=lambda start: start["marks"]["first step"])[len(starts) // 2]
    names, ends = zip(*middle["marks"].items(), strict=True)
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))
