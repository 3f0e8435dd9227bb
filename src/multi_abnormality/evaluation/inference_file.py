"""What the classifier computed, kept from one evaluation to the next.

Thresholds and intervals can then change without inference.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from multi_abnormality.files import write_durably

ABOUT = "about"  # the file's one metadata entry


@dataclass(frozen=True)
class View:
    """What the report shows of one finding in one volume.

    Attributes:
        attention: (Z,) weight of each slice.
        slice: index of the slice that is shown.
        padding: share of the attention on slices outside the scan.
        picture: JPEG file of that slice, without and with the heat map.
    """

    attention: np.ndarray
    slice: int
    padding: float
    picture: bytes


@dataclass(frozen=True)
class Inference:
    """Outputs of the classifier.

    Attributes:
        logits: (V, F) of each split's volumes, by the split's name.
        views: by the names of volume and finding.
    """

    logits: dict[str, np.ndarray] = field(default_factory=dict)
    views: dict[tuple[str, str], View] = field(default_factory=dict)


def load_inference(path: Path, key: Mapping[str, str]) -> Inference:
    """Load what was kept; nothing if it depends on something else than `key`.

    Args:
        path: file that `save_inference` wrote.
        key: everything that the outputs depend on.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            if about.get("key") != dict(key):
                return Inference()
            logits = {split: file.get_tensor(f"logits/{split}") for split in about["splits"]}
            views = {
                (one["volume"], one["finding"]): View(
                    file.get_tensor(f"attention/{number}"),
                    one["slice"],
                    one["padding"],
                    file.get_tensor(f"picture/{number}").tobytes(),
                )
                for number, one in enumerate(about["views"])
            }
            return Inference(logits, views)
    except (OSError, SafetensorError):
        return Inference()  # missing, cut or of another kind: all is computed again


def save_inference(path: Path, key: Mapping[str, str], inference: Inference) -> None:
    """Save outputs with what they depend on; equal outputs give equal bytes."""
    tensors = {f"logits/{split}": values for split, values in inference.logits.items()}
    places = []
    for number, ((volume, finding), view) in enumerate(sorted(inference.views.items())):
        tensors[f"attention/{number}"] = view.attention
        tensors[f"picture/{number}"] = np.frombuffer(view.picture, dtype=np.uint8)
        place = {"slice": view.slice, "padding": view.padding}
        places.append({"volume": volume, "finding": finding} | place)
    about = {"key": dict(key), "splits": sorted(inference.logits), "views": places}
    content = safetensors.numpy.save(tensors, {ABOUT: json.dumps(about, sort_keys=True)})
    write_durably(content, path)
