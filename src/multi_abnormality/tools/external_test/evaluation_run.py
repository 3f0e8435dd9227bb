"""Evaluation of an exported model on the scans of a table."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.label_checks import FEW_VALIDATION, count_labels, is_labeled
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.evaluate_json import score_scans
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.prediction_files import write_predictions
from multi_abnormality.evaluation.scored_scans import Scans
from multi_abnormality.evaluation.scores import summary
from multi_abnormality.evaluation.subgroups import subgroup_columns
from multi_abnormality.inference.batch_prediction import predict_details
from multi_abnormality.inference.onnx_model import Model
from multi_abnormality.inference.progress_log import CachedPrediction, ProgressLog
from multi_abnormality.tools.external_test.labeled_scans import LabeledTable
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, count_scans, first_few, plural, raise_errors
from multi_abnormality.utils.strict_csv import truncate

MOVED = "moved with the probabilities: every decision is the exported model's"
OWN = "the exported model's"


def evaluate_model(
    model: Model,
    table: LabeledTable,
    out: Path,
    resampling: ResamplingConfig,
    allow_same_ids: bool = False,
    workers: int = 1,
) -> tuple[dict[str, Any], list[str]]:
    """Predict and score the scans of a table, and write report, scores and predictions.

    Args:
        model: exported model.
        table: scans with labels.
        out: folder for the files; it also has the log from which an interrupted run resumes.
        resampling: settings of the intervals.
        allow_same_ids: whether patients may have the ids of training patients.
        workers: scans predicted in parallel.

    Returns:
        Content of evaluate.json, and an error for each scan that could not be read.

    Raises:
        InputError: a patient or a scan is one that the model was trained on, or no scan is left.
    """
    same_ids = _check_patients(model, table, allow_same_ids)
    progress = ProgressLog(out / "predictions.json", model.path)
    predictions, errors = predict_details(model, table.named_scans(), workers, progress)
    if not predictions:
        raise_errors(errors, f"none of {plural(table.count, 'scan', 'scans')} could be read")
    _check_scans(model, predictions, table)
    copies = _find_copies(predictions, table)
    chosen, scored = table.split(predictions.keys())
    probabilities = _probabilities(scored, predictions, table)
    thresholds = np.array([model.card.thresholds[finding] for finding in table.findings])
    recalibration = _recalibrate(chosen, predictions, table) if table.part is not None else None
    before = None
    if recalibration is not None:
        before, probabilities = probabilities, recalibration.calibrate(_logit(probabilities))
        thresholds = recalibration.calibrate(_logit(thresholds))
    scans = Scans(
        scored["name"].tolist(),
        _logit(probabilities),
        table.labels(scored),
        scored["patient_id"].tolist(),
    )
    groups = _groups(scored, predictions)
    scores = score_scans(
        scans, probabilities, thresholds, table.findings, groups, resampling, before
    )
    external = _describe(model, table, predictions, same_ids) | {"copies": copies}
    if recalibration is not None:
        external["recalibration"] = _describe_recalibration(recalibration, chosen, table)
        external["thresholds"] = MOVED
    external["notices"] = _notices(external, table, recalibration)
    scores["counts"]["volumes"] = scores["counts"]["scans"]
    scores["counts"] |= _count_missing(table, chosen, scored)
    scores["external"] = external
    undecided = [one for one in table.findings if one in model.card.uncalibrated]
    by_finding = dict(zip(table.findings, thresholds.tolist(), strict=True))
    write_report(
        out / "report.html",
        synthetic=model.is_synthetic,
        debug="none",
        facts=_facts(external, table, scans),
        scores=scores,
        labels=scans.labels,
        probabilities=probabilities,
        patients=scans.patients,
        thresholds=thresholds,
        undecided=undecided,
        threshold_metric="none",
        uncalibrated=before,
        findings=table.findings,
        groups=groups,
        chosen_on="",
        seed=resampling.seed,
    )
    write_json(scores, out / "evaluate.json")
    write_predictions(
        out / "predictions.json", scans.names, probabilities, by_finding, undecided,
        model.is_synthetic,
    )  # fmt: skip
    progress.close(finished=not errors)
    for name, value in summary(scores).items():
        log.info("%s: %s", name, "undefined" if value is None else f"{value:.4f}")
    for notice in external["notices"]:
        log.warning("%s", notice)
    log.info("the report is %s", out / "report.html")
    return scores, errors


def _check_patients(model: Model, table: LabeledTable, allow_same_ids: bool) -> list[str]:
    """Return the patients with ids of training patients.

    Raises:
        InputError: there are some, and they are not allowed.
    """
    if not table.has_patients:
        return []
    patients = table.rows["patient_id"].unique().tolist()
    same = model.find_training_patients(patients)
    if same and not allow_same_ids:
        raise InputError(
            f"{table.path}: has ids of patients that the model was trained or calibrated on, "
            f"{len(same)} of {len(patients)}, so its scores would be too good: "
            f"{first_few(same, 20)}. Delete their rows, {table.lines_of(same)}. If they are other "
            "patients, whose ids coincide as the numbers 1, 2, 3 of two hospitals do, add "
            "--allow-same-ids: scans that the model was trained on are refused all the same"
        )
    return same


def _check_scans(
    model: Model, predictions: dict[str, CachedPrediction], table: LabeledTable
) -> None:
    """Refuse scans whose voxels the model was trained or calibrated on."""
    names = list(predictions)
    known = model.find_training_scans([one.input_sha256 for one in predictions.values()])
    if not known:
        return
    trained = [names[index] for index in known]
    patients = table.rows.loc[table.rows["name"].isin(trained), "patient_id"]
    raise_errors(
        truncate(trained),
        f"{table.path}: {len(known)} of {plural(len(names), 'scan', 'scans')}, by their voxels, "
        "are of those that the model was trained or calibrated on; delete the rows of their "
        f"patients, {table.lines_of(set(patients))}",
    )


def _find_copies(predictions: dict[str, CachedPrediction], table: LabeledTable) -> list[str]:
    """Return a line for each scan whose voxels are another patient's.

    Raises:
        InputError: one of both is recalibrated on, and the other is scored.
    """
    first: dict[str, tuple[str, str, bool]] = {}
    errors: list[str] = []
    lines: list[str] = []
    is_part = table.rows["part"] == table.part if table.part is not None else False
    rows = table.rows.assign(is_part=is_part)
    for name, patient, in_part in rows[["name", "patient_id", "is_part"]].itertuples(index=False):
        if name not in predictions:
            continue
        voxels = predictions[name].input_sha256
        other, owner, of_part = first.setdefault(voxels, (name, patient, in_part))
        if owner == patient:
            continue
        line = f"{other} and {name} have the same voxels, but belong to two patients"
        (lines if of_part == in_part else errors).append(line)
    raise_errors(
        truncate(errors),
        f"{table.path}: the same scan is in the part {table.part} and scored; delete one of the "
        "rows, or give both the true patient and one part",
    )
    return lines


def _probabilities(
    rows: pd.DataFrame, predictions: dict[str, CachedPrediction], table: LabeledTable
) -> np.ndarray:
    """Return the model's probabilities: (N, F) float64."""
    return np.array(
        [
            [predictions[name].probabilities[finding] for finding in table.findings]
            for name in rows["name"]
        ]
    ).reshape(len(rows), len(table.findings))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logits, also of probabilities that float32 rounds to 0 or 1."""
    tiny = np.finfo(np.float32).tiny
    clipped = probabilities.clip(tiny, 1 - np.finfo(np.float32).epsneg)
    logits: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return logits


def _recalibrate(
    chosen: pd.DataFrame, predictions: dict[str, CachedPrediction], table: LabeledTable
) -> Calibration:
    logits = _logit(_probabilities(chosen, predictions, table))
    return Calibration.fit(logits, table.labels(chosen), table.findings)


def _groups(scored: pd.DataFrame, predictions: dict[str, CachedPrediction]) -> pd.DataFrame:
    """Return the subgroups' traits, of the table and of the scans."""
    distances = [f"{predictions[name].slice_distance:.6g}" for name in scored["name"]]
    return subgroup_columns(scored.assign(source_spacing=distances, source_axes="S"))


def _describe(
    model: Model,
    table: LabeledTable,
    predictions: dict[str, CachedPrediction],
    same_ids: list[str],
) -> dict[str, Any]:
    """Return what evaluate.json has under "external"."""
    with model.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": {"file": model.path.name, "sha256": digest, "version": model.card.version},
        "table": str(table.path),
        "scans": str(table.folder),
        "findings_not_scored": list(table.lacking),
        "unreadable": [name for name in table.rows["name"] if name not in predictions],
        "unlike_training_scans": sum(bool(one.warnings) for one in predictions.values()),
        "training_patients": {
            "checked": model.has_training_hashes,
            "same_ids": len(same_ids),
        },
        "recalibration": None,
        "thresholds": OWN,
    }


def _describe_recalibration(
    recalibration: Calibration, chosen: pd.DataFrame, table: LabeledTable
) -> dict[str, Any]:
    columns = {
        "slope": recalibration.slope,
        "intercept": recalibration.intercept,
        "positives": recalibration.positives,
        "negatives": recalibration.negatives,
        "fitted": recalibration.is_fitted,
    }
    return {
        "part": table.part,
        "scans": len(chosen),
        "patients": chosen["patient_id"].nunique(),
        "findings": pd.DataFrame(columns, index=table.findings).to_dict("index"),
    }


def _notices(
    external: dict[str, Any], table: LabeledTable, recalibration: Calibration | None
) -> list[str]:
    """Return what restricts the scores, for the log and the report."""
    patients, notices = external["training_patients"], []
    if unreadable := external["unreadable"]:
        notices.append(
            f"{len(unreadable)} of {plural(table.count, 'scan', 'scans')} could not be read, and "
            f"are not scored: {first_few(unreadable, 20)}"
        )
    if table.lacking:
        notices.append(f"Not scored, since the table lacks them: {', '.join(table.lacking)}")
    if not patients["checked"]:
        notices.append(
            "The model has no hashes of its training patients, so that patients that it was "
            "trained on are not recognized"
        )
    if patients["same_ids"]:
        notices.append(
            f"{plural(patients['same_ids'], 'patient has an id', 'patients have ids')} of training "
            "patients (--allow-same-ids)"
        )
    if recalibration is not None and (unfitted := recalibration.uncalibrated):
        notices.append(
            f"Not recalibrated, since the part {table.part} has no scans with and without them: "
            f"{', '.join(unfitted)}"
        )
    recalibrated = external["recalibration"]
    if recalibrated and recalibrated["patients"] < FEW_VALIDATION:
        notices.append(
            f"The part {table.part} has "
            f"{plural(recalibrated['patients'], 'patient', 'patients')}: few, so the "
            "recalibration is uncertain"
        )
    if copies := external["copies"]:
        notices.append(f"Scans that are scored twice: {first_few(copies, 20)}")
    if count := external["unlike_training_scans"]:
        unlike = plural(count, "scan is", "scans are")
        notices.append(f"{unlike} unlike the model's training scans in length or lung")
    return notices


def _count_missing(
    table: LabeledTable, chosen: pd.DataFrame, scored: pd.DataFrame
) -> dict[str, Any]:
    """Count the labels; empty if none is missing."""
    parts = {"scored": table.labels(scored)}
    if table.part is not None:
        parts[table.part] = table.labels(chosen)
    if all(is_labeled(labels).all() for labels in parts.values()):
        return {}
    counts = {part: count_labels(labels, table.findings) for part, labels in parts.items()}
    return {"labels": counts, "untrained": []}


def _facts(external: dict[str, Any], table: LabeledTable, scans: Scans) -> dict[str, object]:
    model, patients = external["model"], external["training_patients"]
    facts: dict[str, object] = {
        "Model": f"{model['file']}, version {model['version']}",
        "SHA-256 of the model": model["sha256"],
        "Table": external["table"],
        "Scans": external["scans"],
        "Scored on": count_scans(len(scans.names), len(set(scans.patients))),
        "Thresholds": external["thresholds"],
        "Training patients": "not recognizable: the model has no hashes"
        if not patients["checked"]
        else "none by their scans; ids not compared"
        if not table.has_patients
        else f"none by their scans; {patients['same_ids'] or 'none'} by their ids",
    }
    if recalibration := external["recalibration"]:
        facts["Recalibrated on"] = (
            f"{count_scans(recalibration['scans'], recalibration['patients'])}: the part "
            f"{recalibration['part']}, which is not scored"
        )
    return facts
