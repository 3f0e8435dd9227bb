"""The GPU, memory, and room on the disks."""

import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen

GB = 1e9
LEAST = 0.5 * GB  # bytes on a disk: the checkpoints of a small model, twice with DVC's cache
WORKER = 1.0 * GB  # bytes of memory that reading a scan of full size takes
WRITTEN = ("processed", "checkpoints", "model_weights", "metrics", "logs", ".dvc/tmp", ".dvc/cache")


def look_at_device(house: House) -> Iterator[Seen]:
    """What a training would calculate on, and in which numbers."""
    import torch

    from multi_abnormality.errors import InputError
    from multi_abnormality.model.device import choose_device
    from multi_abnormality.training.place import find_place
    from multi_abnormality.training.precision import resolve_precision

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sees_gpu = torch.cuda.is_available()
    params = house.params
    try:
        device = choose_device(params.machine.accelerator if params else "auto")
        precision = resolve_precision(params.train.precision if params else "auto", device)
        if params:
            house.devices = find_place(params.machine, device, params.train.batch_size).size
    except InputError as error:
        yield Seen(FAULT, "device", str(error))
        return
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        size = f"{about.total_memory / GB:.0f} GB"
        yield Seen(WELL, "device", f"{about.name}, {size}; training takes {precision}")
        return
    text = f"CPU, {torch.get_num_threads()} threads; training takes {precision}"
    if not sees_gpu and (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        reason = str(told[-1].message) if told else f"torch {torch.__version__} is built for CPUs"
        if torch.version.cuda and not told:
            reason = "torch sees none: CUDA_VISIBLE_DEVICES may hide it"
        version = torch.__version__.partition("+")[0]
        yield Seen(DOUBT, "device", f"{text}. There is an NVIDIA driver, but {reason}",
                   f"nvidia-smi; pip install --force-reinstall torch=={version}")  # fmt: skip
    else:
        yield Seen(WELL, "device", text)


def look_at_memory(_: House) -> Iterator[Seen]:
    from multi_abnormality.memory import free

    there = free()
    text = f"{there / GB:.1f} GB free, {os.cpu_count()} processors"
    if there < WORKER:
        yield Seen(DOUBT, "memory", f"{text}; a scan of full size takes {WORKER / GB:.0f} GB to "
                   "read, and training may take more: end other programs")  # fmt: skip
    else:
        yield Seen(WELL, "memory", text)


def look_at_disks(house: House) -> Iterator[Seen]:
    """Whether what the stages write can be written, and has room."""
    faults = dict.fromkeys(_fault(house.root.absolute() / name) for name in WRITTEN)
    if unwritable := [fault for fault in faults if fault]:
        yield Seen(FAULT, "disk", "; ".join(unwritable) + ": make it writable, or move it away")
        return
    need = max(_to_come(house), LEAST)
    disks = {_nearest(house.root / name).stat().st_dev: name for name in reversed(WRITTEN)}
    for name in disks.values():
        free = shutil.disk_usage(_nearest(house.root / name)).free
        text = f"{free / GB:.1f} GB free on the disk of {name}/"
        if free < LEAST:
            yield Seen(FAULT, "disk", f"{text}; a training writes more", "dvc gc --workspace")
        elif free < need:
            yield Seen(DOUBT, "disk", f"{text}; up to {need / GB:.1f} GB are to come",
                       "dvc gc --workspace")  # fmt: skip
        else:
            yield Seen(WELL, "disk", text)


def _to_come(house: House) -> float:
    """Bytes of processed volumes, at most, with their copies in DVC's cache."""
    if house.params is None or house.catalogue is None or (house.root / "processed").exists():
        return 0
    return 2.0 * len(house.catalogue.volumes) * math.prod(house.params.preprocess.shape)


def _fault(path: Path) -> str | None:
    """Why nothing can be written there, or below it where it is not there yet."""
    if path.is_symlink() and not path.exists():
        return f"{path} points to {path.readlink()}, which is not there"
    place = _nearest(path)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"probe")
    except OSError as error:
        return f"{place} can't be written ({error.strerror})"
    return None


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())
