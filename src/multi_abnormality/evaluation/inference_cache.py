"""Cache of the classifier's outputs, so that thresholds and intervals change without inference."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from multi_abnormality.utils.atomic_io import atomic_write

METADATA_KEY = "inference"  # the only metadata entry of the file


@dataclass(frozen=True)
class View:
    """Explanation of one finding in one volume, as the report shows it.

    Attributes:
        attention: (Z,) weight of each slice.
        slice: index of the slice with the heat map.
        padding: fraction of the attention on slices outside the scan.
        outside: fraction of the heat outside of the body.
        lowest: index of the lowest slice within the scan.
        slices: number of slices within the scan.
        first: index of the first of `pictures`.
        pictures: WebP files of neighbouring slices, one of them `slice`.
        heat: WebP file of the heat map, to be laid over that slice.
    """

    attention: np.ndarray
    slice: int
    padding: float
    outside: float
    lowest: int
    slices: int
    first: int
    pictures: tuple[bytes, ...]
    heat: bytes


NUMBERS = ("slice", "padding", "outside", "lowest", "slices", "first")  # of a view


@dataclass(frozen=True)
class Inference:
    """Outputs of the classifier.

    Attributes:
        logits: (V, F) array of each split's volumes, by the split's name.
        volumes: names of the V volumes of each split.
        views: views by the names of volume and finding.
    """

    logits: dict[str, np.ndarray] = field(default_factory=dict)
    volumes: dict[str, list[str]] = field(default_factory=dict)
    views: dict[tuple[str, str], View] = field(default_factory=dict)


def load_inference(path: Path, key: Mapping[str, str]) -> Inference:
    """Load cached outputs; empty if they were saved under another key.

    Args:
        path: file written by `save_inference`.
        key: hashes of everything that the outputs depend on.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if metadata.get("key") != dict(key):
                return Inference()
            logits = {split: file.get_tensor(f"logits/{split}") for split in metadata["volumes"]}
            views = {
                (view["volume"], view["finding"]): View(
                    attention=file.get_tensor(f"attention/{number}"),
                    pictures=tuple(
                        file.get_tensor(f"picture/{number}/{index}").tobytes()
                        for index in range(view["pictures"])
                    ),
                    heat=file.get_tensor(f"heat/{number}").tobytes(),
                    **{name: view[name] for name in NUMBERS},
                )
                for number, view in enumerate(metadata["views"])
            }
            return Inference(logits, metadata["volumes"], views)
    except (OSError, SafetensorError, KeyError):
        return Inference()  # missing, truncated or of another format: recompute


def save_inference(path: Path, key: Mapping[str, str], inference: Inference) -> None:
    """Save outputs under a key; equal outputs give equal bytes."""
    tensors = {f"logits/{split}": values for split, values in inference.logits.items()}
    entries = []
    for number, ((volume, finding), view) in enumerate(sorted(inference.views.items())):
        tensors[f"attention/{number}"] = view.attention
        tensors[f"heat/{number}"] = np.frombuffer(view.heat, dtype=np.uint8)
        for index, picture in enumerate(view.pictures):
            tensors[f"picture/{number}/{index}"] = np.frombuffer(picture, dtype=np.uint8)
        entry = {name: getattr(view, name) for name in NUMBERS}
        entry["pictures"] = len(view.pictures)
        entries.append({"volume": volume, "finding": finding} | entry)
    metadata = {"key": dict(key), "volumes": inference.volumes, "views": entries}
    content = safetensors.numpy.save(tensors, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    atomic_write(content, path)


def read_logits(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return the logits (V, F) of each split, and the names of its V volumes.

    Args:
        content: bytes of a file written by `save_inference`.

    Raises:
        KeyError, ValueError: it is damaged, or was written by an older version.
    """
    try:
        tensors = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    volumes = json.loads(header["__metadata__"][METADATA_KEY])["volumes"]
    return {split: tensors[f"logits/{split}"] for split in volumes}, volumes
