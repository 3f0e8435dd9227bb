"""What one must know of an exported model: for people, and for the programs that run it."""

from typing import Any

from multi_abnormality import __version__
from multi_abnormality.data.composition import Familiar
from multi_abnormality.model.classifier import VolumeClassifier


def running_info(about: dict[str, Any], familiar: Familiar) -> dict[str, Any]:
    """What every exported file carries inside: how to make its input, and what comes out.

    Args:
        about: from the checkpoint.
        familiar: the scans that it may be asked about.
    """
    return {
        "version": __version__,
        "findings": about["findings"],
        "preprocess": about["preprocess"],
        "familiar": familiar.model_dump(mode="json"),
    }


def architecture(model: dict[str, Any]) -> str:
    """In words, from the model section of params.yaml."""
    pooling = {
        "query": "attention over slices, a query a finding",
        "mean": "the slices' mean",
        "max": "the slices' maximum",
        "transformer": "a transformer over slices, then attention with a query a finding",
    }[model["pooling"]]
    maps = "" if model["attention"] == "none" else f" with {model['attention']} on its maps"
    return f"{model['backbone']}{maps} on every slice, then {pooling}"


def model_info(
    about: dict[str, Any],
    running: dict[str, Any],
    classifier: VolumeClassifier,
    scores: dict[str, float | None],
) -> dict[str, Any]:
    """What model_info.json says. No clock and no commit: equal models have equal files.

    Args:
        about: from the checkpoint.
        running: from running_info.
        classifier: the model.
        scores: on the valid split, by name.
    """
    identity = about["identity"]
    backbone = about["model"]["backbone"]
    return {
        **running,
        "model_name": backbone,
        "architecture": architecture(about["model"]),
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "input": {
            "name": "volume",
            "dtype": "uint8",
            "shape": ["batch", *about["preprocess"]["shape"]],
            "axes": "batch, z to the head, y to the back, x to the left",
            "values": "codes of HU, piecewise linear between the knots preprocess.hu_codes",
        },
        "outputs": [
            {
                "name": "probabilities",
                "dtype": "float32",
                "shape": ["batch", len(about["findings"])],
                "values": "calibrated probability of each of findings, in that order",
            },
            {
                "name": "attention",
                "dtype": "float32",
                "shape": ["batch", len(about["findings"]), about["preprocess"]["shape"][0]],
                "values": "how much each slice counts for each finding; the sum over z is 1",
            },
        ],
        "training_args": {
            "seed": identity["seed"],
            "model": about["model"],
            "train": about["train"],
        },
        "scores": scores,
        "data_sha256": identity["processed"],
        "source_sha256": identity["code"],
    }
