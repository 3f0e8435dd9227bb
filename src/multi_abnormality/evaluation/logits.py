"""Logits kept from one evaluation to the next, so that thresholds change without inference."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from multi_abnormality.files import write_durably

KEY = "key"


def load_logits(path: Path, key: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Load kept logits by the name of their split; none if they belong to something else.

    Args:
        path: file that `save_logits` wrote.
        key: what the logits depend on.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if file.metadata() != {KEY: _text(key)}:
                return {}
            return {split: file.get_tensor(split) for split in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return {}  # missing, cut or of another kind: the logits are computed again


def save_logits(path: Path, key: Mapping[str, str], logits: Mapping[str, np.ndarray]) -> None:
    """Save logits (V, F) of each split with what they depend on."""
    write_durably(safetensors.numpy.save(dict(logits), {KEY: _text(key)}), path)


def _text(key: Mapping[str, str]) -> str:
    return json.dumps(dict(key), sort_keys=True)
