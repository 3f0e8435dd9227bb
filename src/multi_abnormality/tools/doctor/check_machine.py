"""Checks of the device that training uses, and of disk space."""

import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from multi_abnormality.tools.doctor.context import (
    CheckResult,
    DoctorContext,
    failure,
    passed,
    warning,
)
from multi_abnormality.utils.errors import plural

GB = 1e9
MIN_FREE = 0.5 * GB  # bytes on a disk: checkpoints of a small model and DVC's copy of them
WRITTEN = ("processed", "checkpoints", "model_weights", "metrics", "logs", ".dvc/tmp", ".dvc/cache")


def check_device(context: DoctorContext) -> Iterator[CheckResult]:
    """Device and precision of training."""
    import torch

    from multi_abnormality.models.device import choose_device
    from multi_abnormality.runtime.fabric_setup import resolve_precision
    from multi_abnormality.runtime.process_group import find_rank

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        sees_gpu = torch.cuda.is_available()
    params = context.params
    device = choose_device(params.machine.accelerator if params else "auto")
    precision = resolve_precision(params.train.precision if params else "auto", device)
    if params:
        context.devices = find_rank(params.machine, device, params.train.batch_size).size
    if device.type == "cuda":
        props = torch.cuda.get_device_properties(device)
        size = f"{props.total_memory / GB:.0f} GB"
        yield passed(f"{props.name}, {size}; training uses {precision}")
        return
    text = f"CPU, {plural(torch.get_num_threads(), 'thread', 'threads')}; training uses {precision}"
    if not sees_gpu and (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        if warned:
            reason = str(warned[-1].message)
        elif torch.version.cuda:
            reason = "torch sees none: CUDA_VISIBLE_DEVICES may hide it"
        else:
            reason = f"torch {torch.__version__} is built for CPUs"
        version = torch.__version__.partition("+")[0]
        yield warning(
            f"{text}. There is an NVIDIA driver, but {reason}",
            f"nvidia-smi; pip install --force-reinstall torch=={version}",
        )
    else:
        yield passed(text)


def check_disks(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether the stages' outputs can be written and have space."""
    errors = dict.fromkeys(_write_error(context.root.absolute() / name) for name in WRITTEN)
    if unwritable := [error for error in errors if error]:
        yield failure("; ".join(unwritable) + ": make it writable, or move it")
        return
    need = max(_bytes_to_write(context), MIN_FREE)
    disks = {_nearest(context.root / name).stat().st_dev: name for name in reversed(WRITTEN)}
    for name in disks.values():
        unused = shutil.disk_usage(_nearest(context.root / name)).free
        text = f"{unused / GB:.1f} GB free on the disk of {name}/"
        if unused < MIN_FREE:
            yield failure(f"{text}; training writes more", "dvc gc --workspace")
        elif unused < need:
            yield warning(f"{text}; up to {need / GB:.1f} GB will be written", "dvc gc --workspace")
        else:
            yield passed(text)


def _bytes_to_write(context: DoctorContext) -> float:
    """Upper bound of the bytes of the processed volumes and their copies in DVC's cache."""
    if context.params is None or context.catalogue is None or (context.root / "processed").exists():
        return 0
    return 2.0 * len(context.catalogue.volumes) * math.prod(context.params.preprocess.shape)


def _write_error(path: Path) -> str | None:
    """Why a file can't be written there, or in the nearest existing parent; None if it can."""
    if path.is_symlink() and not path.exists():
        return f"{path} points to {path.readlink()}, which does not exist"
    folder = _nearest(path)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
    except OSError as error:
        return f"{folder} can't be written ({error.strerror})"
    return None


def _nearest(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
