"""Run fingerprint: everything that determines the result.

A checkpoint with another fingerprint is never resumed.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.params import Params

if TYPE_CHECKING:
    import torch

# May change between a save and the resume: they say how long to train, not how.
RAISABLE = {
    "epochs",
    "early_stopping_patience",
    "save_every_n_epochs",
    "save_every_n_minutes",
    "resume",
}

# What decides the result, relative to the package. dvc.yaml's train stage depends on the same.
SOURCES = (
    "data/augment.py",
    "data/batches.py",
    "data/codes.py",
    "data/drawn.py",
    "data/mixing.py",
    "data/names.py",
    "data/patients.py",
    "data/randomness.py",
    "data/rows.py",
    "data/sampler.py",
    "data/shards.py",
    "data/splits.py",
    "data/store.py",
    "model",
    "run_fingerprint.py",
    "training",
    "stages/train.py",
)


def identify(
    params: Params, findings: Sequence[str], content_hash: str, package: Path
) -> dict[str, Any]:
    """Everything that determines the result, readable, so that a difference can be named.

    Args:
        params: of the run.
        findings: that the model tells, in their order.
        content_hash: of the train split's processed volumes and their labels.
        package: folder of this package's source.
    """
    return {
        "seed": params.seed,
        "model": params.model.model_dump(mode="json") | _weights(params.model.pretrained),
        "train": params.train.model_dump(mode="json", exclude=RAISABLE),
        "findings": list(findings),
        "processed": content_hash,
        "code": {
            path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(_source_files(package))
        },
    }


def _weights(pretrained: bool | str) -> dict[str, str]:
    """A weights file by its content: its name decides nothing."""
    if isinstance(pretrained, bool) or not Path(pretrained).is_file():
        return {}
    with Path(pretrained).open("rb") as file:
        return {"pretrained": f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"}


def fingerprint(identity: dict[str, Any]) -> str:
    """A short name of an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment(device: "torch.device", precision: str, devices: int) -> dict[str, Any]:
    """Hardware and library versions that affect rounding. A change is only warned about."""
    import torch  # not with the module: who only compares identities need not wait for it

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "timm", "numpy")},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "devices": devices,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def told_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a user is told who goes on in another environment."""
    lines, devices = [], before.get("devices", 1)
    if devices != now["devices"]:
        lines.append(
            f"the number of devices was {devices} and is {now['devices']}: each gets another share "
            "of a batch, so the result may differ slightly from that of an undisturbed run"
        )
    if changes := differences(before | {"devices": now["devices"]}, now):
        lines.append(
            "the last digits may differ from those of an undisturbed run: " + "; ".join(changes)
        )
    return lines


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _source_files(package: Path) -> Iterable[Path]:
    for name in SOURCES:
        path = package / name
        yield from path.rglob("*.py") if path.is_dir() else (path,)


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Each key that differs, such as "train.learning_rate: 0.001, now 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        nested = (differences(old.get(k), new.get(k), f"{key}.{k}".lstrip(".")) for k in keys)
        return [line for lines in nested for line in lines]
    if old == new:
        return []
    if key.startswith("code."):
        return [f"{key.removeprefix('code.')}: changed"]
    if key == "processed":
        return ["the train split's processed volumes or their labels"]
    return [f"{key}: {old}, now {new}"]
