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

from multi_abnormality.backup.object_verification import verify_pulled
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.config.yaml_edit import leaves
from multi_abnormality.data.catalog.label_checks import (
    count_labels,
    describe_validation,
    is_labeled,
)
from multi_abnormality.data.catalog.single_class_findings import lacks_a_class, never_labeled
from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.calibration import Calibration, sigmoid
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.dvc_plots import write_plots
from multi_abnormality.evaluation.evaluate_json import score_scans
from multi_abnormality.evaluation.example_scans import draw_cases
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.inference_cache import Inference, load_inference, save_inference
from multi_abnormality.evaluation.prediction_files import write_predictions, write_submission
from multi_abnormality.evaluation.scored_scans import Scans, average_over_reconstructions
from multi_abnormality.evaluation.scores import summary
from multi_abnormality.evaluation.subgroups import subgroup_columns
from multi_abnormality.evaluation.threshold_selection import submission_probabilities
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.models.pretrained_cfg import PretrainedCfg, weights_facts, weights_warnings
from multi_abnormality.runtime.checkpoint_io import BEST, held_out_fold, load_complete
from multi_abnormality.runtime.run_fingerprint import fingerprint
from multi_abnormality.tools.compare.baseline import read_baseline
from multi_abnormality.tools.compare.comparison_tables import describe_comparison
from multi_abnormality.tools.recipe import closest_recipe
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.errors import InputError, count_scans

INFERENCE = "inference.safetensors"
_PARAMETERS = ("preprocess", "model", "train")  # sections in the report


def run(
    params: Params, checkpoints: Path, processed: Path, metrics: Path, root: Path = Path()
) -> dict[str, Any]:
    """Score the test split, calibrated on the validation patients of the train split.

    The run of `evaluate.baseline` is read from the repository of `root`.

    Raises:
        InputError: the checkpoint's run is not finished, or was trained on other volumes; or the
            run of `evaluate.baseline` cannot be compared with it.
    """
    checkpoint = load_complete(checkpoints / BEST)
    metadata, findings = checkpoint["about"], tuple(checkpoint["about"]["findings"])
    volumes = ProcessedDataset(processed, held_out_fold(metadata))
    volumes.check_matches_model(metadata)

    @functools.cache
    def classifier() -> VolumeClassifier:
        return restore_classifier(checkpoint)

    history = _read_history(metrics / "history.csv")
    val_rows, test_rows = _rows_to_score(volumes, metadata["volumes"]["validation"])
    untrained = lacks_a_class(volumes.labels_of(metadata["volumes"]["train"]))
    baseline = params.evaluate.baseline and read_baseline(
        root, params.evaluate.baseline, test_rows, findings, untrained
    )
    key = _inference_key(checkpoints / BEST, volumes)
    cached = load_inference(metrics / INFERENCE, key)
    val = _scans("val", val_rows, cached, classifier, volumes, params)
    test = _scans("test", test_rows, cached, classifier, volumes, params)
    counts = _count_missing(volumes, val, test, untrained)
    val, test = _without_untrained(volumes, untrained, val, test)
    parameters = {
        ".".join(path): value for path, value in leaves({key: metadata[key] for key in _PARAMETERS})
    }
    calibration = Calibration.fit(
        val.logits, val.labels, findings, params.evaluate.threshold_metric
    )
    _warn_uncalibrated(calibration, untrained)
    probabilities = calibration.calibrate(test.logits)
    submitted = submission_probabilities(probabilities, calibration.thresholds)
    groups = subgroup_columns(volumes.manifest.set_index("name").loc[test.names])
    uncalibrated = sigmoid(test.logits)
    resampling = ResamplingConfig(
        params.evaluate.n_bootstrap, params.evaluate.ci_level, params.seed
    )
    scores = score_scans(
        test,
        probabilities,
        calibration.thresholds,
        findings,
        groups,
        resampling,
        uncalibrated,
    )
    scores["counts"] |= {"volumes": len(test_rows)} | counts
    if cross_validation := metadata.get("cross_validation"):
        scores["cross_validation"] = cross_validation
    if baseline:
        settings = params.evaluate.model_dump(mode="json", exclude={"baseline"})
        scores["comparison"] = baseline.compare(
            pd.DataFrame(submitted, test.names, list(findings)),
            {"seed": metadata["identity"]["seed"]}
            | parameters
            | {f"evaluate.{name}": value for name, value in settings.items()},
            resampling,
        )
    calibration.to_json(metrics / "calibration.json")
    write_submission(metrics / "submission.json", test.names, submitted, findings)
    write_predictions(
        metrics / "predictions.json",
        test.names,
        probabilities,
        calibration.thresholds_by_finding(),
        calibration.uncalibrated,
        metadata["synthetic"],
        test.averaged,
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
        weights_warnings=weights_warnings(
            PretrainedCfg.from_dict(metadata.get("pretrained_cfg")),
            scores_ct_rate=volumes.is_ct_rate and not metadata["synthetic"],
        ),
        parameters=parameters,
        recipe=closest_recipe(parameters),
        comparison=describe_comparison(scores["comparison"]) if baseline else None,
        scores=scores,
        labels=test.labels,
        probabilities=probabilities,
        patients=test.patients,
        thresholds=calibration.thresholds,
        undecided=calibration.uncalibrated,
        threshold_metric=calibration.threshold_metric,
        uncalibrated=uncalibrated,
        findings=findings,
        slice_mm=volumes.recipe["spacing"][0],
        groups=groups,
        history=history,
        planned_epochs=metadata["train"]["epochs"],
        chosen_on=describe_validation(val.labels, val.patients),
        cases=cases,
        ct_rate_names=volumes.is_ct_rate and volumes.fold is None,
        seed=params.seed,
        average=checkpoint.get("average"),
    )
    write_json(scores, metrics / "evaluate.json")
    write_json(summary(scores), metrics / "scores.json")
    return scores


# Code that the cached logits and pictures depend on.
INFERENCE_SOURCES = (
    "data/preprocessing/quantization.py",
    "evaluation/body_mask.py",
    "evaluation/example_scans.py",
    "evaluation/grad_cam.py",
    "evaluation/slice_rendering.py",
    "models/**/*.py",
)


def _inference_key(checkpoint: Path, volumes: ProcessedDataset) -> dict[str, str]:
    """Hash everything that cached outputs depend on: weights, volumes, code and PyTorch."""
    with checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    package = Path(multi_abnormality.__file__).parent
    code = hashlib.sha256()
    for path in sorted(path for name in INFERENCE_SOURCES for path in package.glob(name)):
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
    cached: Inference,
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedDataset,
    params: Params,
) -> Scans:
    """Average a split's logits by scan; missing logits are computed and added to `cached`."""
    data = EvalDataset(volumes, rows["name"].tolist())
    if split not in cached.logits:
        device = choose_device(params.machine.accelerator)
        workers = num_loader_workers(params)
        cached.volumes[split] = data.names
        cached.logits[split] = predict_logits(
            classifier(), data, device, workers, f"{split} volumes"
        )
    labels = volumes.labels_of(data.names)
    scans, patients = rows["scan_id"].tolist(), rows["patient_id"].tolist()
    return average_over_reconstructions(
        data.names, cached.logits[split], labels, scans, patients, volumes.findings
    )


def _without_untrained(
    volumes: ProcessedDataset, untrained: np.ndarray, val: Scans, test: Scans
) -> tuple[Scans, Scans]:
    """Leave out the labels of findings that were not trained: neither calibrated nor scored.

    Raises:
        InputError: no label of a test scan is left.
    """
    if untrained.any():
        names = [repr(volumes.findings[column]) for column in np.flatnonzero(untrained)]
        console.log.warning(
            "%s: no positive or no negative among the training scans: neither trained nor scored",
            ", ".join(names),
        )  # fmt: skip
        val = val._replace(labels=np.where(untrained, np.nan, val.labels))
        test = test._replace(labels=np.where(untrained, np.nan, test.labels))
    if never_labeled(test.labels).all():
        raise InputError(
            f"{volumes.root}: no scan of the test split has a label of a trained finding; add "
            "some to the table, then run `dvc repro`"
        )
    return val, test


def _count_missing(
    volumes: ProcessedDataset, val: Scans, test: Scans, untrained: np.ndarray
) -> dict[str, Any]:
    """Count the scans by label in train, val and test, if a label is missing or left out."""
    rows = volumes.volumes("train").drop_duplicates("scan_id")
    is_trained_on = ~rows["patient_id"].isin(set(val.patients))
    train = rows.loc[is_trained_on, list(volumes.findings)].to_numpy()
    parts = {"train": train, "val": val.labels, "test": test.labels}
    if all(is_labeled(labels).all() for labels in parts.values()) and not untrained.any():
        return {}
    findings = volumes.findings
    return {
        "labels": {part: count_labels(labels, findings) for part, labels in parts.items()},
        "untrained": [findings[column] for column in np.flatnonzero(untrained)],
    }


def _warn_uncalibrated(calibration: Calibration, untrained: np.ndarray) -> None:
    for column in np.flatnonzero(~calibration.is_fitted & ~untrained):
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
    pretrained = PretrainedCfg.from_dict(metadata.get("pretrained_cfg"))
    train_split, test_split = "the train split", "the test split"
    if cross_validation := metadata.get("cross_validation"):
        folds = cross_validation["folds"]
        train_split = f"{folds - 1} of {folds} folds"
        test_split = f"fold {cross_validation['fold']}, of 0 to {folds - 1}"
    averaged = {}
    if test.averaged:
        averaged["Averaged over reconstructions"] = (
            f"{len(test.averaged):,} of the scans, by the mean logits of their "
            f"{sum(map(len, test.averaged.values())):,} volumes"
        )
    return {
        "Data": "synthetic phantoms" if metadata["synthetic"] else "patients' scans",
        "Trained on": f"{_count(trained['scan_id'], trained['patient_id'])}, of {train_split}",
        "Chosen and calibrated on": f"{_count(val.names, val.patients)}, held out of {train_split}",
        "Scored on": f"{_count(test.names, test.patients)}, of {test_split}",
        **averaged,
        "Model": f"{model['backbone']} on slices, pooled by {model['pooling']}",
        "Initial weights": _initial_weights(pretrained, model["pretrained"]),
        **weights_facts(pretrained),
        "Volumes": f"{' x '.join(map(str, shape))} voxels of "
        f"{' x '.join(f'{mm:g}' for mm in spacing)} mm (z, y, x)",
        "Best epoch": history[-1]["epoch"],
        "Learning rate": metadata["train"]["learning_rate"],
        "Seed": metadata["identity"]["seed"],
    }


def _initial_weights(cfg: PretrainedCfg | None, requested: bool | str) -> object:
    if requested is False or cfg is None:
        return "random" if requested is False else "pretrained"
    return cfg.source if cfg.revision is None else f"{cfg.source}, commit {cfg.revision}"


def _count(scans: Iterable[str], patients: Iterable[str]) -> str:
    scans, patients = set(scans), set(patients)
    return count_scans(len(scans), len(patients))


def main() -> None:
    verify_pulled(Path())
    scores = run(load_params(), Path("checkpoints"), Path("processed"), Path("metrics"))
    for name, value in summary(scores).items():
        console.log.info("%s: %s", name, "undefined" if value is None else f"{value:.4f}")
    console.log.info("the report is metrics/report.html")


if __name__ == "__main__":
    console.run(main)
