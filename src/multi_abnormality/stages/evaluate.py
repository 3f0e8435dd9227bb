"""The evaluate stage: checkpoints/best.ckpt to scores, calibration and report."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import multi_abnormality
from multi_abnormality import console

if __name__ == "__main__":
    console.take_stage_options()

import numpy as np
import pandas as pd
import torch

from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.data.batches import WholeVolumes
from multi_abnormality.data.patients import describe_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.calibration import Calibration, sigmoid
from multi_abnormality.evaluation.cases import draw_cases
from multi_abnormality.evaluation.groups import score_groups, traits
from multi_abnormality.evaluation.inference_file import load_inference, save_inference
from multi_abnormality.evaluation.plots import write_plots
from multi_abnormality.evaluation.predictions import (
    Scans,
    by_scan,
    predictions_json,
    write_submission,
)
from multi_abnormality.evaluation.report import write_report
from multi_abnormality.evaluation.scores import evaluate, headline
from multi_abnormality.evaluation.thresholds import submission_probabilities
from multi_abnormality.files import write_durably, write_json
from multi_abnormality.model.build import restore
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.device import choose_device, loading_workers
from multi_abnormality.model.inference import volume_logits
from multi_abnormality.params import Params, load_params
from multi_abnormality.training.checkpoints import BEST, load_complete

INFERENCE = "inference.safetensors"


class _Draws(TypedDict):
    """Of the bootstrap behind every interval."""

    resamples: int
    confidence: float
    seed: int


def run(params: Params, checkpoints: Path, processed: Path, metrics: Path) -> dict[str, Any]:
    """Score the valid split, calibrated on the validation patients of the train split.

    Raises:
        InputError: the checkpoint is not of a finished training, or not of these volumes.
    """
    checkpoint = load_complete(checkpoints / BEST)
    about, findings = checkpoint["about"], checkpoint["about"]["findings"]
    volumes = ProcessedSet(processed)
    volumes.check_trained_on(about)

    @functools.cache
    def classifier() -> VolumeClassifier:
        return restore(checkpoint)

    history = _read_history(metrics / "history.csv")
    chosen, scored = _rows_to_score(volumes, about["volumes"]["validation"])
    key = _inference_key(checkpoints / BEST, volumes)
    kept = load_inference(metrics / INFERENCE, key)
    held_out = _scans("val", chosen, kept.logits, classifier, volumes, params)
    test = _scans("test", scored, kept.logits, classifier, volumes, params)
    calibration = Calibration.fit(
        held_out.logits, held_out.labels, findings, params.evaluate.threshold_metric
    )
    _warn_uncalibrated(calibration)
    probabilities, uncalibrated = calibration.calibrate(test.logits), sigmoid(test.logits)
    submitted = submission_probabilities(probabilities, calibration.thresholds)
    draws: _Draws = {
        "resamples": params.evaluate.resamples,
        "confidence": params.evaluate.confidence,
        "seed": params.seed,
    }
    console.log.info("bootstrap of the scores: %d resamples", params.evaluate.resamples)
    known = test.labels, submitted, test.patients, findings
    scores = evaluate(*known, **draws, uncalibrated=uncalibrated, calibrated=probabilities)
    groups = traits(volumes.manifest.set_index("name").loc[test.names])
    scores["groups"] = score_groups(groups, *known, **draws)
    calibration.to_json(metrics / "calibration.json")
    write_submission(metrics / "submission.json", test.names, submitted, findings)
    thresholds = dict(zip(findings, calibration.thresholds.tolist(), strict=True))
    rows = (dict(zip(findings, row, strict=True)) for row in probabilities.tolist())
    predictions = predictions_json(
        zip(test.names, rows, strict=True), thresholds, about["synthetic"]
    )
    write_durably(predictions.encode(), metrics / "predictions.json")
    write_plots(metrics / "plots", test.labels, probabilities, findings)
    cases = draw_cases(classifier, volumes, test, probabilities, findings, kept.views)
    save_inference(metrics / INFERENCE, key, kept)
    write_report(
        metrics / "report.html",
        synthetic=about["synthetic"],
        facts=_facts(about, checkpoint["history"], test),
        scores=scores,
        labels=test.labels,
        probabilities=probabilities,
        calibration=calibration,
        uncalibrated=uncalibrated,
        findings=findings,
        history=history.to_dict("records"),
        planned_epochs=about["train"]["epochs"],
        chosen_on=describe_validation(held_out.labels, held_out.patients),
        cases=cases,
    )
    write_json(scores, metrics / "evaluate.json")
    write_json(headline(scores), metrics / "scores.json")
    return scores


def _inference_key(checkpoint: Path, volumes: ProcessedSet) -> dict[str, str]:
    """What is kept depends on: weights, volumes, and the code and library that compute it."""
    with checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    package = Path(multi_abnormality.__file__).parent
    code = hashlib.sha256()
    pictures = ("cases", "explanation", "pictures")
    for path in (
        *sorted((package / "model").glob("*.py")),
        *(package / f"evaluation/{name}.py" for name in pictures),
        package / "data/codes.py",
    ):
        code.update(path.read_bytes())
    return {
        "checkpoint": weights,
        "volumes": f"{volumes.content_hash('train')} {volumes.content_hash('valid')}",
        "code": code.hexdigest(),
        "torch": torch.__version__,
    }


def _scans(
    split: str,
    rows: pd.DataFrame,
    logits: dict[str, np.ndarray],
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedSet,
    params: Params,
) -> Scans:
    """Logits and labels of a split's scans; logits that are not known yet are added."""
    data = WholeVolumes(volumes, rows["name"].tolist())
    if split not in logits:
        device = choose_device(params.machine.accelerator)
        workers = loading_workers(params)
        logits[split] = volume_logits(classifier(), data, device, workers, f"{split} volumes")
    labels = data.labels.astype(np.int64)
    scans, patients = rows["scan_id"].tolist(), rows["patient_id"].tolist()
    return by_scan(data.names, logits[split], labels, scans, patients, volumes.findings)


def _warn_uncalibrated(calibration: Calibration) -> None:
    for column in np.flatnonzero(~calibration.is_fitted):
        lacking = "negative" if calibration.positives[column] else "positive"
        console.log.warning(
            "%s: no validation scan is %s, so its probabilities are not calibrated and its "
            "threshold is a guess", calibration.findings[column], lacking,
        )  # fmt: skip


def _rows_to_score(
    volumes: ProcessedSet, validation: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest's rows of the validation volumes and of the valid split."""
    valid, train = volumes.volumes("valid"), volumes.volumes("train")
    if valid.empty:
        raise InputError(
            f"{volumes.root}: holds no volume of the valid split, and so nothing to score; bring "
            "some to data/, then `dvc repro`"
        )
    return train[train["name"].isin(validation)], valid


def _read_history(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); `dvc repro train` writes it again"
        ) from error


def _facts(about: dict[str, Any], history: list[dict[str, Any]], test: Scans) -> dict[str, object]:
    shape = about["preprocess"]["shape"]
    spacing = about["preprocess"]["spacing"]
    model = about["model"]
    return {
        "Model": f"{model['backbone']} on slices, pooled by {model['pooling']}",
        "Weights at the start": {False: "random", True: "timm's"}.get(
            model["pretrained"], model["pretrained"]
        ),
        "Trained on": f"{len(about['volumes']['train'])} volumes of the train split",
        "Chosen and calibrated on": f"{len(about['volumes']['validation'])} volumes of other "
        "patients of the train split",
        "Scored on": f"{len(test.names)} scans of {len(set(test.patients))} patients of the "
        "valid split",
        "Volumes": f"{' x '.join(map(str, shape))} voxels of "
        f"{' x '.join(f'{mm:g}' for mm in spacing)} mm (z, y, x)",
        "Best epoch": history[-1]["epoch"],
        "Learning rate": about["train"]["learning_rate"],
        "Seed": about["identity"]["seed"],
    }


def main() -> None:
    verify_pulled(Path())
    scores = run(load_params(), Path("checkpoints"), Path("processed"), Path("metrics"))
    for name, value in headline(scores).items():
        console.log.info("%s: %s", name, "undefined" if value is None else f"{value:.4f}")
    console.log.info("the report is metrics/report.html")


if __name__ == "__main__":
    console.run(main)
