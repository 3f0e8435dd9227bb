"""Files of an ensemble: its model folder, scores, predictions and report."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from multi_abnormality import __version__
from multi_abnormality.data.catalog.label_checks import describe_validation
from multi_abnormality.evaluation.calibration import sigmoid
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.prediction_files import write_predictions, write_submission
from multi_abnormality.evaluation.scores import summary
from multi_abnormality.export.model_card import ensemble_card
from multi_abnormality.export.model_info_schema import (
    BestMember,
    EnsembleInfo,
    EnsembleMember,
    described_scores,
)
from multi_abnormality.inference.onnx_model import load_onnx
from multi_abnormality.tools.compare.comparison_tables import describe_comparison
from multi_abnormality.tools.ensemble.fused_model import MEAN, FusedModel, best_member
from multi_abnormality.tools.ensemble.members import CARD, INFO, MODEL, Member, export_again
from multi_abnormality.utils.atomic_io import atomic_write, write_json
from multi_abnormality.utils.errors import InputError, count_scans

FOLDER = "model"  # of the ensemble's model, in its own folder
COMMON = ("task", "data_source", "intended_use", "references")  # of model_info.json, as the first's
OWNER = ("authors", "license", "contact")


def write_results(fused: FusedModel, folder: Path) -> None:
    """Write all files of an ensemble to its folder; equal ensembles give equal bytes."""
    synthetic = any(member.info.synthetic for member in fused.members)
    info = _info(fused, synthetic)
    _write_model(fused, info, folder / FOLDER)  # first, since a member may not load
    fused.calibration.to_json(folder / "calibration.json")
    write_submission(folder / "submission.json", fused.test.names, fused.submitted, fused.findings)
    write_predictions(
        folder / "predictions.json",
        fused.test.names,
        fused.probabilities,
        fused.calibration.thresholds_by_finding(),
        fused.calibration.uncalibrated,
        synthetic,
    )
    scores = fused.scores | {"ensemble": _describe(fused)}
    write_json(fused.comparison, folder / "comparison.json")
    write_json(scores, folder / "evaluate.json")
    write_json(summary(scores), folder / "scores.json")
    _write_report(fused, info, folder / "report.html")


def _write_model(fused: FusedModel, info: EnsembleInfo, folder: Path) -> None:
    """Write the model's folder if all members can be loaded; else nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        for member, described in zip(fused.members, info.members, strict=True):
            path = new / described.file
            atomic_write(member.read_onnx(), path)
            _check_loads(member, path)
            for name in (INFO, CARD):
                atomic_write(member.read(f"{MODEL}/{name}"), path.with_name(name))
        write_json(info.content(), new / INFO)
        atomic_write(ensemble_card(info).encode(), new / CARD)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _check_loads(member: Member, path: Path) -> None:
    try:
        load_onnx(path)
    except InputError as error:
        raise InputError(
            f"{member.revision}: its model cannot be loaded ({error}); "
            f"{export_again(member.revision)}"
        ) from error


def _describe(fused: FusedModel) -> dict[str, Any]:
    """Return what evaluate.json has under "ensemble": members, their hashes and weights."""
    return {
        "weighting": fused.weighting,
        "val_scans": len(fused.val.names),
        "members": [
            {
                "name": member.revision.name,
                "commit": member.revision.commit,
                "sha256": member.sha256,
                "weight": weight,
                "auroc": member.auroc,
            }
            for member, weight in zip(fused.members, fused.weights, strict=True)
        ],
    }


def _info(fused: FusedModel, synthetic: bool) -> EnsembleInfo:
    infos = [member.info for member in fused.members]
    calibration = fused.calibration
    content = {key: getattr(infos[0], key) for key in COMMON}
    for key in OWNER:
        values = list(dict.fromkeys(getattr(info, key) for info in infos))
        content[key] = "; ".join(values)
    by_finding = {
        key: dict(zip(fused.findings, getattr(calibration, key).tolist(), strict=True))
        for key in ("slope", "intercept")
    }
    debug = [info.debug for info in infos if info.debug != "none"]
    return EnsembleInfo.model_validate(
        {
            "version": __version__,
            "name": f"Ensemble {fused.name}",
            "synthetic": synthetic,
            "debug": debug[0] if debug else "none",
            "weighting": fused.weighting,
            "findings": list(fused.findings),
            "members": [
                _member(number, member, weight)
                for number, (member, weight) in enumerate(
                    zip(fused.members, fused.weights, strict=True), start=1
                )
            ],
            **by_finding,
            "thresholds": calibration.thresholds_by_finding(),
            "threshold_metric": calibration.threshold_metric,
            "uncalibrated": calibration.uncalibrated,
            "val_scans": len(fused.val.names),
            "best_member": _best(fused),
            **described_scores(fused.scores),
            **content,
        }
    )


def _member(number: int, member: Member, weight: float) -> EnsembleMember:
    info = member.info
    return EnsembleMember.model_validate(
        {
            "file": f"members/{number}/{member.onnx_file}",
            "sha256": member.sha256,
            "weight": weight,
            "revision": member.revision.name,
            "commit": member.revision.commit,
            "architecture": info.architecture,
            "parameters": info.parameters,
            "spacing": info.preprocess["spacing"],
            "seed": info.training_args["seed"],
            "auroc": member.auroc,
            "pretrained_weights": info.pretrained_weights,
        }
    )


def _best(fused: FusedModel) -> BestMember:
    auroc = fused.comparison["macro"]["auroc"]
    interval = auroc["interval"] or {"low": None, "high": None}
    return BestMember(
        revision=str(best_member(fused.members).revision),
        auroc=auroc["a"],
        gain=auroc["difference"],
        low=interval["low"],
        high=interval["high"],
        p=auroc["p"],
    )


def _write_report(fused: FusedModel, info: EnsembleInfo, path: Path) -> None:
    calibration = fused.calibration
    write_report(
        path,
        synthetic=info.synthetic,
        debug=info.debug,
        facts=_facts(fused, info),
        weights_warnings=info.warnings,
        scores=fused.scores,
        labels=fused.test.labels,
        probabilities=fused.probabilities,
        patients=fused.test.patients,
        thresholds=calibration.thresholds,
        undecided=calibration.uncalibrated,
        threshold_metric=calibration.threshold_metric,
        uncalibrated=sigmoid(fused.test.logits),
        findings=fused.findings,
        groups=fused.groups,
        chosen_on=describe_validation(fused.val.labels, fused.val.patients),
        seed=fused.members[0].params.seed,
        comparison=describe_comparison(fused.comparison),
    )


def _facts(fused: FusedModel, info: EnsembleInfo) -> dict[str, object]:
    best = info.best_member
    members = {
        f"Member {number}": f"{member.revision} ({(member.commit or '')[:7]}): "
        f"{member.architecture}, voxels of {' x '.join(f'{mm:g}' for mm in member.spacing)} mm, "
        f"seed {member.seed}, weight {member.weight:.3f}, macro AUROC {_number(member.auroc)}"
        for number, member in enumerate(info.members, start=1)
    }
    return {
        "Model": f"Ensemble of {len(info.members)} models: "
        f"{'mean' if fused.weighting == MEAN else 'weighted mean'} of their calibrated logits",
        **members,
        "Best member": f"{best.revision}, macro AUROC {_number(best.auroc)}",
        "Calibrated on": f"{count_scans(len(fused.val.names), len(set(fused.val.patients)))} "
        "of val, which no member was trained on",
        "Scored on": count_scans(len(fused.test.names), len(set(fused.test.patients))),
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
