"""Run fingerprint: everything that determines the result.

`resume_decision` compares it with a checkpoint's, and decides.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.code_hash import code_hashes

if TYPE_CHECKING:
    import torch

# Parameters of `train` that may change before a resume: how long to train, when to save, and logs.
NOT_IN_FINGERPRINT = {
    "epochs",
    "early_stopping_patience",
    "save_every_n_epochs",
    "save_every_n_minutes",
    "resume",
    "loggers",
    "log_every_n_steps",
}
UNRECORDED = {"loggers", "log_every_n_steps"}  # parameters of which checkpoints hold no trace

# Code that determines the result: these files, and what they import of the package.
ROOTS = (
    "data/loading/eval_dataset.py",
    "data/transforms/batch.py",
    "models/factory.py",
    "training/frozen_features.py",
    "training/history.py",
    "training/training_step.py",
    "training/volume_selection.py",
)
# Imported, but without influence: parameters and volumes are part of the fingerprint themselves.
IGNORED = (
    "__init__",
    "config/",
    "data/io/",
    "utils/console",
    "utils/errors",
    "utils/atomic_io",
    "utils/torchvision_compat",
)


LIBRARIES = ("torch", "timm", "numpy", "lightning-fabric", "scikit-learn")


# Of a PretrainedCfg: what the result depends on, and the revision, which names it for people.
_PRETRAINED = ("architecture", "model_args", "input_size", "mean", "std", "revision", "sha256")


def identify(
    params: Params,
    findings: Sequence[str],
    content_hash: str,
    package: Path,
    pretrained_cfg: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything that determines the result, in readable form.

    Args:
        findings: names, in the order of the model's outputs.
        content_hash: of the train split, by ProcessedDataset.content_hash.
        package: directory of this package's source.
        pretrained_cfg: description of the pretrained weights, by PretrainedCfg.to_dict.
    """
    model = params.model.model_dump(mode="json")
    train = params.train.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT)
    if params.train.average_best == 1:  # then as before this parameter existed
        del train["average_best"]
    weights: dict[str, Any] = {}
    if pretrained_cfg is not None:
        weights["pretrained_cfg"] = {key: pretrained_cfg[key] for key in _PRETRAINED}
        if isinstance(params.model.pretrained, str):  # by content instead of name
            model["pretrained"] = f"sha256 {pretrained_cfg['sha256']}"
    return {
        "seed": params.seed,
        "model": model,
        **weights,
        "train": train,
        "findings": list(findings),
        "processed": content_hash,
        "code": result_code(package),
    }


def result_code(package: Path) -> dict[str, dict[str, str]]:
    """Return the hashes of all code that determines the result."""
    return code_hashes(package, ROOTS, IGNORED)


def fingerprint(identity: dict[str, Any]) -> str:
    """Return a short hash of an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment(device: "torch.device", precision: str, devices: int) -> dict[str, Any]:
    """Hardware and library versions that affect rounding. A change is only warned about."""
    import torch  # here, since comparing identities does not need it

    on_gpus = device.type == "cuda" and devices > 1
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "devices": devices,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "nccl": str(torch.cuda.nccl.version()) if on_gpus else None,
    }


def environment_warnings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the warnings to log when resuming in a different environment."""
    lines, devices = [], before.get("devices", 1)
    if devices != now["devices"]:
        lines.append(
            f"the number of devices was {devices} and is {now['devices']}: batches are split "
            "differently, so the result may differ slightly from that of an uninterrupted run"
        )
    if changes := differences(before | {"devices": now["devices"]}, now):
        lines.append(
            "the last digits may differ from those of an uninterrupted run: " + "; ".join(changes)
        )
    return lines


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return a line per key that differs, such as "train.learning_rate: 0.001, now 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        nested = (differences(old.get(k), new.get(k), f"{key}.{k}".lstrip(".")) for k in keys)
        return [line for lines in nested for line in lines]
    if old == new:
        return []
    if key.startswith("code."):
        path, suffix, name = key.removeprefix("code.").partition(".py")
        return [f"{path}{suffix}: {name.lstrip('.')} changed".replace(":  ", ": ")]
    if key == "processed":
        return ["the train split's processed volumes or their labels"]
    return [f"{key}: {old}, now {new}"]
