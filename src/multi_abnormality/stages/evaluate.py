"""Evaluate stage: scores, calibration and report of checkpoints/best.ckpt."""

import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import multi_abnormality
from multi_abnormality.utils import console

if __name__ == "__main__":
    console.parse_stage_args()

import numpy as np
import pandas as pd
import torch

from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.catalog.missing_labels import count_labels, is_labeled, never_labeled
from multi_abnormality.data.catalog.patient_counts import describe_validation
from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.bootstrap import ResamplingConfig
from multi_abnormality.evaluation.calibration import Calibration, sigmoid
from multi_abnormality.evaluation.dvc_plots import write_plots
from multi_abnormality.evaluation.example_scans import draw_cases
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.inference_cache import load_inference, save_inference
from multi_abnormality.evaluation.operating_points import operating_points
from multi_abnormality.evaluation.predictions import (
    Scans,
    average_over_reconstructions,
    predictions_json,
    write_submission,
)
from multi_abnormality.evaluation.scores import evaluate, summary
from multi_abnormality.evaluation.subgroups import score_groups, subgroup_columns
from multi_abnormality.evaluation.threshold_selection import submission_probabilities
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.runtime.checkpoint_io import BEST, load_complete
from multi_abnormality.runtime.run_fingerprint import fingerprint, source_files
from multi_abnormality.utils.atomic_io import atomic_write, write_json
from multi_abnormality.utils.errors import InputError

INFERENCE = "inference.safetensors"


def run(params: Params, checkpoints: Path, processed: Path, metrics: Path) -> dict[str, Any]:
    """Score the test split, calibrated on the validation patients of the train split.

    Raises:
        InputError: the checkpoint's run is not finished, or was trained on other volumes.
    """
    checkpoint = load_complete(checkpoints / BEST)
    metadata, findings = checkpoint["about"], checkpoint["about"]["findings"]
    volumes = ProcessedDataset(processed)
    volumes.check_matches_model(metadata)

    @functools.cache
    def classifier() -> VolumeClassifier:
        return restore_classifier(checkpoint)

    history = _read_history(metrics / "history.csv")
    val_rows, test_rows = _rows_to_score(volumes, metadata["volumes"]["validation"])
    key = _inference_key(checkpoints / BEST, volumes)
    cached = load_inference(metrics / INFERENCE, key)
    val = _scans("val", val_rows, cached.logits, classifier, volumes, params)
    test = _scans("test", test_rows, cached.logits, classifier, volumes, params)
    counts = _count_missing(volumes, val, test)
    test = _without_untrained(volumes, test)
    calibration = Calibration.fit(
        val.logits, val.labels, findings, params.evaluate.threshold_metric
    )
    _warn_uncalibrated(calibration)
    probabilities = calibration.calibrate(test.logits)
    submitted = submission_probabilities(probabilities, calibration.thresholds)
    scores = _score(params, volumes, test, calibration, submitted, probabilities)
    scores["counts"] |= counts
    calibration.to_json(metrics / "calibration.json")
    write_submission(metrics / "submission.json", test.names, submitted, findings)
    _write_predictions(
        metrics / "predictions.json", test.names, probabilities, calibration, metadata
    )
    write_plots(metrics / "plots", test.labels, probabilities, findings)
    cases = draw_cases(classifier, volumes, test, probabilities, findings, cached.views)
    save_inference(metrics / INFERENCE, key, cached)
    write_report(
        metrics / "report.html",
        run=fingerprint(metadata["identity"]),
        synthetic=metadata["synthetic"],
        debug=metadata["train"]["debug"],
        facts=_facts(metadata, checkpoint["history"], volumes, val, test),
        parameters=_flatten({key: metadata[key] for key in ("preprocess", "model", "train")}),
        scores=scores,
        labels=test.labels,
        probabilities=probabilities,
        patients=test.patients,
        calibration=calibration,
        uncalibrated=sigmoid(test.logits),
        findings=findings,
        slice_mm=volumes.recipe["spacing"][0],
        groups=subgroup_columns(volumes.manifest.set_index("name").loc[test.names]),
        history=history,
        planned_epochs=metadata["train"]["epochs"],
        chosen_on=describe_validation(val.labels, val.patients),
        cases=cases,
        seed=params.seed,
    )
    write_json(scores, metrics / "evaluate.json")
    write_json(summary(scores), metrics / "scores.json")
    return scores


def _score(
    params: Params,
    volumes: ProcessedDataset,
    test: Scans,
    calibration: Calibration,
    submitted: np.ndarray,
    calibrated: np.ndarray,
) -> dict[str, Any]:
    """Compute scores of the submitted probabilities (N, F) and operating points."""
    findings = calibration.findings
    resampling = ResamplingConfig(
        params.evaluate.n_bootstrap, params.evaluate.ci_level, params.seed
    )
    console.log.info("bootstrap of the scores: %d resamples", resampling.n_bootstrap)
    predictions = test.labels, submitted, test.patients, findings
    scores = evaluate(*predictions, resampling, sigmoid(test.logits), calibrated)
    groups = subgroup_columns(volumes.manifest.set_index("name").loc[test.names])
    points = operating_points(
        test.labels, calibrated, calibration.thresholds, test.patients, findings, resampling
    )
    return scores | {
        "operating_points": points,
        "groups": score_groups(groups, *predictions, resampling),
    }


def _write_predictions(
    path: Path,
    names: list[str],
    probabilities: np.ndarray,
    calibration: Calibration,
    metadata: dict[str, Any],
) -> None:
    """Write calibrated probabilities (N, F), with thresholds and decisions."""
    rows = pd.DataFrame(probabilities, columns=calibration.findings).to_dict("records")
    content = predictions_json(
        zip(names, rows, strict=True),
        calibration.thresholds_by_finding(),
        calibration.uncalibrated,
        metadata["synthetic"],
    )
    atomic_write(content.encode(), path)


# Code that the cached logits and pictures depend on.
INFERENCE_SOURCES = (
    "data/preprocessing/quantization.py",
    "evaluation/example_scans.py",
    "evaluation/grad_cam.py",
    "evaluation/slice_rendering.py",
    "models",
)


def _inference_key(checkpoint: Path, volumes: ProcessedDataset) -> dict[str, str]:
    """Hash everything that cached outputs depend on: weights, volumes, code and PyTorch."""
    with checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    package = Path(multi_abnormality.__file__).parent
    code = hashlib.sha256()
    for path in source_files(package, INFERENCE_SOURCES):
        code.update(path.read_bytes())
    return {
        "checkpoint": weights,
        "volumes": f"{volumes.content_hash('train')} {volumes.content_hash('test')}",
        "code": code.hexdigest(),
        "torch": torch.__version__,
    }


def _scans(
    split: str,
    rows: pd.DataFrame,
    logits: dict[str, np.ndarray],
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedDataset,
    params: Params,
) -> Scans:
    """Average a split's logits by scan; missing logits are computed and added to `logits`."""
    data = EvalDataset(volumes, rows["name"].tolist())
    if split not in logits:
        device = choose_device(params.machine.accelerator)
        workers = num_loader_workers(params)
        logits[split] = predict_logits(classifier(), data, device, workers, f"{split} volumes")
    labels = volumes.labels_of(data.names)
    scans, patients = rows["scan_id"].tolist(), rows["patient_id"].tolist()
    return average_over_reconstructions(
        data.names, logits[split], labels, scans, patients, volumes.findings
    )


def _untrained(volumes: ProcessedDataset) -> np.ndarray:
    """Return which findings have no label in the train split: (F,) bool."""
    return never_labeled(volumes.volumes("train")[list(volumes.findings)].to_numpy())


def _without_untrained(volumes: ProcessedDataset, test: Scans) -> Scans:
    """Leave out the labels of findings without a label in the train split, which are not scored.

    Raises:
        InputError: no label is left.
    """
    untrained = _untrained(volumes)
    if untrained.any():
        names = [repr(volumes.findings[column]) for column in np.flatnonzero(untrained)]
        console.log.warning(
            "%s: no label in the train split: neither trained nor scored", ", ".join(names)
        )
        test = test._replace(labels=np.where(untrained, np.nan, test.labels))
    if never_labeled(test.labels).all():
        raise InputError(
            f"{volumes.root}: no scan of the test split has a label of a trained finding; add "
            "some to the table, then run `dvc repro`"
        )
    return test


def _count_missing(volumes: ProcessedDataset, val: Scans, test: Scans) -> dict[str, Any]:
    """Count the scans by label in train, val and test; empty if no label is missing."""
    rows = volumes.volumes("train").drop_duplicates("scan_id")
    is_trained_on = ~rows["patient_id"].isin(set(val.patients))
    train = rows.loc[is_trained_on, list(volumes.findings)].to_numpy()
    parts = {"train": train, "val": val.labels, "test": test.labels}
    if all(is_labeled(labels).all() for labels in parts.values()):
        return {}
    findings = volumes.findings
    return {
        "labels": {part: count_labels(labels, findings) for part, labels in parts.items()},
        "untrained": [findings[column] for column in np.flatnonzero(_untrained(volumes))],
    }


def _warn_uncalibrated(calibration: Calibration) -> None:
    for column in np.flatnonzero(~calibration.is_fitted):
        lacking = "is negative" if calibration.positives[column] else "is positive"
        if not calibration.positives[column] and not calibration.negatives[column]:
            lacking = "has a label of it"
        console.log.warning(
            "%s: no validation scan %s, so it is not calibrated: predictions have a probability "
            "of it, but no decision", calibration.findings[column], lacking,
        )  # fmt: skip


def _rows_to_score(
    volumes: ProcessedDataset, validation: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the manifest's rows of the validation volumes and of the test split."""
    test, train = volumes.volumes("test"), volumes.volumes("train")
    if test.empty:
        raise InputError(
            f"{volumes.root}: holds no volume of the test split to score; add some to data/, then "
            "run `dvc repro`"
        )
    return train[train["name"].isin(validation)], test


def _read_history(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); `dvc repro train` writes it again"
        ) from error


def _facts(
    metadata: dict[str, Any],
    history: list[dict[str, Any]],
    volumes: ProcessedDataset,
    val: Scans,
    test: Scans,
) -> dict[str, object]:
    shape = metadata["preprocess"]["shape"]
    spacing = metadata["preprocess"]["spacing"]
    model = metadata["model"]
    rows = volumes.volumes("train")
    trained = rows[rows["name"].isin(metadata["volumes"]["train"])]
    return {
        "Data": "synthetic phantoms" if metadata["synthetic"] else "patients' scans",
        "Trained on": _count(trained["scan_id"], trained["patient_id"]),
        "Chosen and calibrated on": _count(val.names, val.patients) + ", of the train split too",
        "Scored on": _count(test.names, test.patients) + ", of the test split",
        "Model": f"{model['backbone']} on slices, pooled by {model['pooling']}",
        "Initial weights": {False: "random", True: "timm's"}.get(
            model["pretrained"], model["pretrained"]
        ),
        "Volumes": f"{' x '.join(map(str, shape))} voxels of "
        f"{' x '.join(f'{mm:g}' for mm in spacing)} mm (z, y, x)",
        "Best epoch": history[-1]["epoch"],
        "Learning rate": metadata["train"]["learning_rate"],
        "Seed": metadata["identity"]["seed"],
    }


def _count(scans: Iterable[str], patients: Iterable[str]) -> str:
    scans, patients = set(scans), set(patients)
    return f"{len(scans):,} scans of {len(patients):,} patients"


def _flatten(parameters: dict[str, Any], parent: str = "") -> dict[str, Any]:
    """Return nested parameters by dotted names."""
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        name = f"{parent}{key}"
        found |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def main() -> None:
    verify_pulled(Path())
    scores = run(load_params(), Path("checkpoints"), Path("processed"), Path("metrics"))
    for name, value in summary(scores).items():
        console.log.info("%s: %s", name, "undefined" if value is None else f"{value:.4f}")
    console.log.info("the report is metrics/report.html")


if __name__ == "__main__":
    console.run(main)
