"""What one must know of an exported model: for people, and for the programs that run it."""

from importlib.metadata import version
from typing import Any

from multi_abnormality import __version__
from multi_abnormality.data.composition import Familiar
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.export.schema import Evaluation, FindingScore, ModelInfo
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.params import Export

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
CHANGELOG = {"0.1.0": "first version"}
DESCRIPTION = (
    "From a chest CT to a probability of each, calibrated on validation patients, with the "
    "threshold from which it counts as positive."
)
SYNTHETIC = "Trained on synthetic phantoms; no clinical meaning."
CT_RATE = (
    "scans and labels in the layout of CT-RATE, "
    "https://huggingface.co/datasets/ibrahimhamamci/CT-RATE (CC BY-NC-SA 4.0)"
)
PHANTOMS = "synthetic phantoms in CT-RATE's layout, drawn by `python -m multi_abnormality.sample`"
UNSTATED = "not stated"
OWN = "scans and labels of their owner's, by a table that params.yaml named as data.table"
USE = (
    "Research on chest CT of adults. Not a medical device: no diagnosis, triage or treatment may "
    "rest on it."
)
CT_RATE_REFERENCE = (
    "I. E. Hamamci et al., Developing Generalist Foundation Models from a Multimodal Dataset for "
    "3D Computed Tomography, arXiv:2403.17834 (CT-RATE)"
)
REFERENCES = ["VLM3D challenge, Task 2, https://vlm3dchallenge.com (scores)"]


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
        "synthetic": about["synthetic"],
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
    calibration: Calibration,
    scores: dict[str, Any],
    stated: Export,
    is_ct_rate: bool,
    files_sha256: dict[str, str],
) -> ModelInfo:
    """What model_info.json says. No clock and no commit: equal models have equal files.

    Args:
        about: from the checkpoint.
        running: from running_info.
        classifier: the model.
        calibration: of its probabilities.
        scores: from `described_scores`.
        stated: params.yaml's export section, which names the owner.
        is_ct_rate: whether it was trained on scans in CT-RATE's layout.
        files_sha256: of each file that holds the model, by its name.
    """
    identity = about["identity"]
    backbone = about["model"]["backbone"]
    content = {
        **_bundle_metadata(about, is_ct_rate, stated),
        **running,
        **scores,
        "model_name": backbone,
        "architecture": architecture(about["model"]),
        "thresholds": dict(zip(calibration.findings, calibration.thresholds.tolist(), strict=True)),
        "threshold_metric": calibration.threshold_metric,
        "uncalibrated": [
            finding
            for finding, fitted in zip(calibration.findings, calibration.is_fitted, strict=True)
            if not fitted
        ],
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "training_args": {
            "seed": identity["seed"],
            "model": about["model"],
            "train": about["train"],
        },
        "training_volumes": {name: len(names) for name, names in about["volumes"].items()},
        "files_sha256": files_sha256,
        "data_sha256": identity["processed"],
        "source_sha256": identity["code"],
    }
    return ModelInfo.model_validate(content)


def described_scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The scores that describe the model, and what stands behind them.

    Args:
        evaluation: metrics/evaluate.json's content.

    Raises:
        KeyError, TypeError, ValueError: it is no such content.
    """
    intervals, counts = evaluation["intervals"], evaluation["counts"]
    per_finding = evaluation["classification"]["per_pathology"]
    metrics = {
        **evaluation["classification"]["macro"],
        "average_precision": evaluation["average_precision"]["macro"],
        "crg": evaluation["crg"]["CRG"],
    }
    behind = Evaluation(
        scans=counts["scans"],
        patients=counts["patients"],
        manufacturers={
            maker: group["scans"]
            for maker, group in evaluation["groups"].get("Manufacturer", {}).items()
        },
        confidence=intervals["confidence"],
        intervals={**intervals["macro"], "crg": intervals["crg"]["CRG"]},
        findings={
            finding: FindingScore(
                positives=counts["positives"][finding],
                auroc=scores["auroc"],
                interval=intervals["per_pathology"][finding]["auroc"],
            )
            for finding, scores in per_finding.items()
        },
    )
    return {"eval_metrics": metrics, "evaluation": behind}


def _bundle_metadata(about: dict[str, Any], is_ct_rate: bool, stated: Export) -> dict[str, Any]:
    findings, synthetic = about["findings"], about["synthetic"]
    source = CT_RATE if is_ct_rate else OWN
    one = len(findings) == 1
    return {
        "schema": SCHEMA,
        "changelog": CHANGELOG,
        "monai_version": "none is needed",
        "pytorch_version": version("torch").partition("+")[0],  # the same model, whatever the build
        "numpy_version": version("numpy"),
        "required_packages_version": {"onnxruntime": version("onnxruntime")},
        "name": stated.name or f"Multi-abnormality classification, {about['model']['backbone']}",
        "task": f"Multi-label classification of {len(findings)} "
        f"{'abnormality' if one else 'abnormalities'} in 3D chest CT",
        "description": DESCRIPTION,
        "authors": stated.owner or UNSTATED,
        "copyright": f"Copyright {stated.owner}" if stated.owner else UNSTATED,
        "license": stated.license or UNSTATED,
        "contact": stated.contact or UNSTATED,
        "data_source": PHANTOMS if synthetic else source,
        "data_type": "NIfTI, MetaImage or DICOM",
        "image_classes": "one channel, 8-bit codes of HU",
        "label_classes": f"{len(findings)} {'finding' if one else 'findings'}, each 0 or 1; "
        "several may be 1",
        "pred_classes": f"{len(findings)} calibrated {'probability' if one else 'probabilities'}; "
        "at its threshold and above a finding is positive",
        "intended_use": f"None. {SYNTHETIC}" if synthetic else USE,
        "synthetic": synthetic,
        "references": [CT_RATE_REFERENCE, *REFERENCES] if is_ct_rate else REFERENCES,
        "network_data_format": {
            "inputs": {"volume": _volume(about["preprocess"])},
            "outputs": {
                "probability": _probability(findings),
                "threshold": _threshold(findings),
                "attention": _attention(findings, about["preprocess"]["shape"][0]),
            },
        },
    }


def _volume(recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": recipe["shape"],
        "dtype": "uint8",
        "value_range": (0, 255),
        "is_patch_data": False,
        "channel_def": {"0": "HU, piecewise linear between the knots of preprocess.hu_codes"},
        "axes": "batch, z to the head, y to the back, x to the left; no axis of channels",
    }


def _attention(findings: list[str], slices: int) -> dict[str, Any]:
    """How much each slice counts for each finding; the sum over z is 1."""
    return _probability(findings) | {
        "type": "array",
        "format": "weights, whose sum over z is 1",
        "spatial_shape": [slices],
        "axes": "batch, finding, z to the head",
    }


def _threshold(findings: list[str]) -> dict[str, Any]:
    """Without a batch axis: the same for all scans."""
    return _probability(findings) | {"axes": "finding; no batch axis"}


def _probability(findings: list[str]) -> dict[str, Any]:
    return {
        "type": "probabilities",
        "format": "classes",
        "modality": "n/a",
        "num_channels": len(findings),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": (0, 1),
        "is_patch_data": False,
        "channel_def": {str(place): finding for place, finding in enumerate(findings)},
        "axes": "batch, finding",
    }
