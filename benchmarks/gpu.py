"""Measure on a CUDA GPU what only a GPU can show; writes JSON. Takes at most eight minutes.

    PYTHONPATH=benchmarks python benchmarks/gpu.py --out gpu.json
    PYTHONPATH=benchmarks python benchmarks/gpu.py --cpu --quick      # checks that it runs

Needs this project, torch 2.11 or later, lightning-fabric, timm and the packages that they need,
but no data and no network: the volumes are noise, and all weights are random. A measurement that
fails is recorded as failed, the others run, and the exit code is 1.
"""

import argparse
import hashlib
import json
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from loops.turns import Loop, take_turns
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params, parse_params
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.data.io.scan import SYNTHETIC
from multi_abnormality.data.storage import processed_dataset as stored
from multi_abnormality.data.storage.shards import (
    Provenance,
    ShardEntry,
    encode,
    pack,
    shard_path,
)
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.fabric_setup import make_fabric
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.utils.atomic_io import write_json

ROOT = Path(__file__).parents[1]
LOOPS = {"ours": "this project", "bare": "a bare loop", "eager": "a bare loop, float32, contiguous"}
RECIPES = ("params.yaml", "challenge", "t4-colab", "seed")
PRECISIONS = ("float32", "bfloat16", "float16")
# Small networks, to compare bytes and to look for synchronizations in all kinds of steps.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "advanced augmentation, MixUp and CutMix": {
        "train": {"augmentation": "advanced", "mixup_prob": 0.5, "cutmix_prob": 0.5}
    },
    "LoRA": {"model": {"backbone": "test_vit", "multiscale": False, "finetune": "lora"}},
}

QUICK = {
    "preprocess": {"shape": [8, 32, 32]},
    "model": {"backbone": "test_resnet"},
    "train": {"batch_size": 2, "slices_per_volume": 2},
}


class Machine:
    """Sizes of the measurements, the device, and the folder of generated data."""

    def __init__(self, folder: Path, is_cpu: bool, is_quick: bool) -> None:
        self.folder = folder
        self.accelerator = "cpu" if is_cpu else "gpu"
        self.device = torch.device("cpu" if is_cpu else "cuda")
        self.is_quick = is_quick

    def params(self, recipe: str = "params.yaml", **changes: dict[str, Any]) -> Params:
        """Return params.yaml with a recipe and further changes merged in."""
        content = load_yaml((ROOT / "params.yaml").read_text())
        if recipe != "params.yaml":
            _merge(content, load_yaml((ROOT / "recipes" / f"{recipe}.yaml").read_text()))
        common = {"model": {"pretrained": False}, "machine": {"accelerator": self.accelerator}}
        for change in (common, QUICK if self.is_quick else {}, changes):
            _merge(content, change)
        return parse_params(json.dumps(content), ROOT / "params.yaml")

    def processed(self, params: Params, volumes: int) -> stored.ProcessedDataset:
        """Return a processed dataset of noise in the shape that the parameters ask for."""
        recipe = params.preprocess.recipe.model_dump(mode="json")
        key = hashlib.sha256(f"{recipe} {volumes}".encode()).hexdigest()[:12]
        root = self.folder / f"processed-{key}"
        if not root.exists():
            write_noise(root, recipe, volumes)
        return stored.ProcessedDataset(root)

    def run(self, params: Params, processed: stored.ProcessedDataset, name: str) -> TrainingRun:
        """Set up a training run in a folder of its own."""
        folder = self.folder / name
        archive = CheckpointArchive(folder / "archive", folder / "cache")
        paths = RunPaths(folder / "checkpoints", folder / "logs", folder / "history.csv", archive)
        return TrainingRun(params, processed, paths)

    def blocks(self, recipe: str) -> tuple[int, int]:
        """Return the number of steps per block, and of blocks; fewer of recipes' large volumes."""
        if self.is_quick:
            return 1, 1
        return (20, 7) if recipe == "params.yaml" else (5, 5)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def write_noise(root: Path, recipe: dict[str, Any], volumes: int) -> None:
    """Write a processed dataset of 16 different volumes of noise, repeated."""
    rng = np.random.default_rng(0)
    shards: dict[str, dict[str, ShardEntry]] = defaultdict(dict)
    z, y, x = recipe["shape"]
    entries = []
    for _ in range(min(volumes, 16)):
        coarse = rng.integers(0, 200, (z // 8 + 1, y // 8 + 1, x // 8 + 1), dtype=np.uint8)
        codes = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:z, :y, :x].copy()
        codes += rng.integers(0, 6, codes.shape, dtype=np.uint8)
        voxels = hashlib.sha256(codes.data).hexdigest()
        origin = Provenance("0" * 64, f"{x} {y} {z}", "1 1 1", "LPS", "v2", "", SYNTHETIC, voxels)
        entries.append(ShardEntry(origin, encode(codes)))
    rows, labels = [], []
    for number in range(1, volumes + 1):
        name = f"train_{number}_a_1"
        entry = entries[number % len(entries)]
        shards[shard_path(name)][name] = entry
        rows.append({"name": name, "status": stored.STORED} | asdict(entry.origin))
        labels.append({"name": name} | dict.fromkeys(FINDINGS, number % 2))
    for path, members in shards.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(pack(members))
    pd.DataFrame(rows).to_csv(root / stored.MANIFEST, index=False)
    pd.DataFrame(labels).to_csv(root / stored.LABELS, index=False)
    write_json({"format": stored.FORMAT, "preprocess": recipe}, root / stored.RECIPE)


def speed(machine: Machine, recipe: str) -> dict[str, Any]:
    """Steps and images a second beside bare loops, waiting for data, and peak memory."""
    params = machine.params(recipe)
    batch = params.train.batch_size
    block, rounds = machine.blocks(recipe)
    steps = (rounds + 2) * block + 2  # an epoch has more, or validation would be measured
    volumes = int(steps * batch / (1 - params.train.val_fraction)) + 2 * batch
    processed = machine.processed(params, volumes)
    loops: dict[str, Loop] = {}
    try:
        for name in LOOPS:
            loops[name] = Loop(name, block, processed.root, params, machine.folder, None)
        found = take_turns(loops, rounds)
    finally:
        for loop in loops.values():
            loop.stop()
    rates = {
        name: [block / seconds for seconds in blocks.seconds] for name, blocks in found.items()
    }
    images = batch * params.train.slices_per_volume
    ours = found["ours"]
    return {
        "batch_size": batch,
        "images_per_step": images,
        "steps_per_second": {LOOPS[name]: statistics.median(rate) for name, rate in rates.items()},
        "ratio": {
            LOOPS[name]: statistics.median(np.divide(rates["ours"], rates[name]).tolist())
            for name in ("bare", "eager")
        },
        "images_per_second": images * statistics.median(rates["ours"]),
        "waiting_for_data": sum(ours.waited) / sum(ours.seconds),
        "peak_memory_gib": {
            LOOPS[name]: max(each.peak_memory) / 2**30 for name, each in found.items()
        },
    }


def busy(machine: Machine, recipe: str) -> dict[str, Any]:
    """Return the share of time in which the GPU runs kernels, while it trains."""
    steps = Steps(machine, machine.params(recipe), f"busy-{recipe}")
    for _ in range(3):
        next(steps)
    machine.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    start = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(machine.blocks(recipe)[0]):
            next(steps)
        machine.synchronize()
        seconds = time.perf_counter() - start
    kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return {"share": kernels / seconds, "seconds": seconds}


class Steps(Iterator[None]):
    """Training steps with their data, one per `next`, and a flush as often as in training."""

    def __init__(self, machine: Machine, params: Params, name: str) -> None:
        volumes = 64 * params.train.batch_size
        run = machine.run(params, machine.processed(params, volumes), name)
        data = run.datamodule
        fabric = make_fabric(params.train, machine.device, run._precision, run.ranks)
        labels = torch.from_numpy(data.train_dataset.labels)
        self.step = TrainingStep(run._build(), params, labels, fabric, data.batches)
        self.step.begin_epoch(0)
        self._batches = enumerate(data.train_batches(0, 0))

    def __next__(self) -> None:
        index, batch = next(self._batches)
        self.step(batch, 0, index)


def synchronizations(machine: Machine, variant: str, precision: str) -> dict[str, Any]:
    """Count operations of ten steps that make the host wait for the GPU; each is named."""
    changes = VARIANTS[variant]
    params = machine.params(
        model=changes.get("model", {}),
        train={"precision": precision} | changes.get("train", {}),
    )
    steps = Steps(machine, params, f"synchronizations-{variant}-{precision}")
    for _ in range(3):
        next(steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(10):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(each.filename).name}:{each.lineno}" for each in caught]
    return {"count": len(places), "places": sorted(set(places))}


class StopAtCheck(StopRequest):
    """Requests a stop at the n-th check; training checks once per step."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    @property
    def reason(self) -> str | None:
        self.left -= 1
        return "requested" if self.left < 0 else None


def repeatability(machine: Machine, variant: str) -> dict[str, Any]:
    """Compare the bytes of a run, of its repetition, and of one that is stopped and resumed."""
    changes = VARIANTS[variant]
    epochs = {"epochs": 2, "schedule_epochs": 2, "warmup_epochs": 0.5, "deterministic": True}
    params = machine.params(model=changes.get("model", {}), train=epochs | changes.get("train", {}))
    processed = machine.processed(params, 20 * params.train.batch_size)
    hashes = {}
    for name, stops in {"run": [], "repeated": [], "resumed": [5, 9]}.items():
        for stop in stops:
            try:
                machine.run(params, processed, f"{variant}-{name}").run(StopAtCheck(stop))
            except Stopped:
                continue
            raise RuntimeError("the run ended before it could be stopped")
        run = machine.run(params, processed, f"{variant}-{name}")
        run.run()
        content = (run.paths.checkpoints / "last.ckpt").read_bytes()
        hashes[name] = hashlib.sha256(content).hexdigest()
    return {"identical": len(set(hashes.values())) == 1, "sha256": hashes}


def measurements(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield all measurements, the most important first."""
    on_gpu = machine.device.type == "cuda"
    for variant in VARIANTS:
        yield f"repeatability, {variant}", lambda v=variant: repeatability(machine, v)
    for precision in PRECISIONS if on_gpu else ():
        for variant in VARIANTS:
            yield (
                f"host synchronizations, {variant}, {precision}",
                lambda v=variant, p=precision: synchronizations(machine, v, p),
            )
    for recipe in RECIPES if on_gpu else RECIPES[:1]:  # large networks take minutes on a CPU
        yield f"speed, {recipe}", lambda r=recipe: speed(machine, r)
        if on_gpu:
            yield f"share of time busy, {recipe}", lambda r=recipe: busy(machine, r)


def environment(machine: Machine) -> dict[str, Any]:
    on_gpu = machine.device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30 if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=420, help="start nothing new after this")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU")
    parser.add_argument("--quick", action="store_true", help="smallest sizes; figures mean nothing")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU; --cpu runs what a CPU can run")
    start = time.monotonic()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), options.cpu, options.quick)
        for name, measure in measurements(machine):
            before = time.monotonic()
            if before - start > options.seconds:
                results[name] = {"skipped": "out of time"}
                continue
            try:
                results[name] = measure()
            except Exception as error:  # the other measurements run
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {error}"}
            results[name]["took_s"] = time.monotonic() - before
            sys.stderr.write(f"{name}: {json.dumps(results[name])}\n")
            write_json({"environment": environment(machine)} | results, options.out)
    return int(any("failed" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
