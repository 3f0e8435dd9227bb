"""The evaluate stage: checkpoints/best.ckpt to scores, calibration and report."""

from pathlib import Path
from typing import Any, TypedDict

from multi_abnormality import console

if __name__ == "__main__":
    console.take_stage_options()

import numpy as np
import pandas as pd

from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.data.batches import WholeVolumes
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.calibration import Calibration, sigmoid
from multi_abnormality.evaluation.cases import draw_cases
from multi_abnormality.evaluation.groups import score_groups, traits
from multi_abnormality.evaluation.plots import write_plots
from multi_abnormality.evaluation.predictions import Scans, by_scan, write_predictions
from multi_abnormality.evaluation.report import write_report
from multi_abnormality.evaluation.scores import evaluate, headline
from multi_abnormality.files import write_json
from multi_abnormality.model.build import restore
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.device import choose_device, loading_workers
from multi_abnormality.model.inference import volume_logits
from multi_abnormality.params import Params, load_params
from multi_abnormality.training.checkpoints import BEST, load_complete


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
    classifier = restore(checkpoint)
    history = _read_history(metrics / "history.csv")
    chosen, scored = _rows_to_score(volumes, about["volumes"]["validation"])
    held_out = _scans(chosen, classifier, volumes, params, "validation patients")
    valid = _scans(scored, classifier, volumes, params, "valid split")
    calibration = Calibration.fit(
        held_out.logits, held_out.labels, findings, params.evaluate.objective
    )
    probabilities, uncalibrated = calibration.apply(valid.logits), sigmoid(valid.logits)
    calibrated = calibration.calibrate(valid.logits)
    draws: _Draws = {
        "resamples": params.evaluate.resamples,
        "confidence": params.evaluate.confidence,
        "seed": params.seed,
    }
    known = valid.labels, probabilities, valid.patients, findings
    scores = evaluate(*known, **draws, uncalibrated=uncalibrated, calibrated=calibrated)
    groups = traits(volumes.manifest.set_index("name").loc[valid.names])
    scores["groups"] = score_groups(groups, *known, **draws)
    calibration.to_json(metrics / "calibration.json")
    write_predictions(metrics / "predictions.json", valid.names, probabilities, findings)
    write_plots(metrics / "plots", valid.labels, calibrated, findings)
    write_report(
        metrics / "report.html",
        facts=_facts(about, checkpoint["history"], valid),
        scores=scores,
        labels=valid.labels,
        probabilities=calibrated,
        uncalibrated=uncalibrated,
        findings=findings,
        history=history.to_dict("records"),
        cases=draw_cases(classifier, volumes, valid, calibrated, findings),
    )
    write_json(scores, metrics / "evaluate.json")
    write_json(headline(scores), metrics / "scores.json")
    return scores


def _scans(
    rows: pd.DataFrame,
    classifier: VolumeClassifier,
    volumes: ProcessedSet,
    params: Params,
    what: str,
) -> Scans:
    """What the classifier says of the scans of these rows of the manifest."""
    data = WholeVolumes(volumes, rows["name"].tolist())
    device = choose_device(params.machine.accelerator)
    logits = volume_logits(classifier, data, device, loading_workers(params), what)
    labels = data.labels.astype(np.int64)
    scans, patients = rows["scan_id"].tolist(), rows["patient_id"].tolist()
    return by_scan(data.names, logits, labels, scans, patients, volumes.findings)


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
            f"{path}: cannot be read ({error}); `dvc repro train` writes it anew"
        ) from error


def _facts(about: dict[str, Any], history: list[dict[str, Any]], valid: Scans) -> dict[str, object]:
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
        "Scored on": f"{len(valid.names)} scans of {len(set(valid.patients))} patients of the "
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
