"""Members of an ensemble: the files of a revision that fusion needs, and whether they fit."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from multi_abnormality.config.schema import Params, parse_params
from multi_abnormality.config.validation_errors import requirement
from multi_abnormality.data.catalog.identifier_spelling import canonical
from multi_abnormality.data.catalog.label_checks import FEW
from multi_abnormality.data.storage.processed_dataset import STORED, add_scan_ids
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.evaluation.inference_cache import read_logits
from multi_abnormality.evaluation.scored_scans import average_over_reconstructions
from multi_abnormality.export.model_info_schema import ModelInfo
from multi_abnormality.tools.compare.compare_run import align
from multi_abnormality.tools.compare.revision_predictions import (
    EVALUATION,
    RevisionPredictions,
    read_revision_predictions,
    read_tables,
)
from multi_abnormality.tools.compare.revisions import WORKSPACE, Read, Revision, reader, resolve
from multi_abnormality.tools.experiments import PARAMS, SCORED_STAGES, require_run
from multi_abnormality.utils.errors import InputError, first_few, plural

if TYPE_CHECKING:
    from dvc.repo import Repo

INFERENCE, CALIBRATION = "metrics/inference.safetensors", "metrics/calibration.json"
CHECKPOINT = "checkpoints/best.ckpt"
MODEL, INFO, CARD = "model_weights", "model_info.json", "MODEL_CARD.md"


@dataclass(frozen=True)
class Member:
    """A run that was scored.

    Attributes:
        predictions: its test predictions and labels.
        test: calibrated logits of the test scans by scan id, a column per finding.
        val: those of the val scans.
        val_labels: labels of the val scans, 0, 1 or NaN.
        manifest: rows of the processed set by volume name, with split, patient_id and scan_id.
        params: its parameters.
        auroc: macro AUROC of the test scans.
        untrained: findings that it was not trained on.
        info: content of its model_info.json.
        read: reader of its files.
    """

    predictions: RevisionPredictions
    test: pd.DataFrame
    val: pd.DataFrame
    val_labels: pd.DataFrame
    manifest: pd.DataFrame
    params: Params
    auroc: float | None
    untrained: list[str]
    info: ModelInfo
    read: Read

    @property
    def revision(self) -> Revision:
        return self.predictions.revision

    def rows(self, split: str) -> pd.DataFrame:
        """Return a split's rows of the manifest; the split train has the val part, too."""
        names = ("train", "val") if split == "train" else (split,)
        return self.manifest[self.manifest["split"].isin(names)]

    @cached_property
    def onnx_file(self) -> str:
        """Name of its ONNX file.

        Raises:
            InputError: it has none.
        """
        names = [name for name in self.info.files_sha256 if name.endswith(".onnx")]
        if not names:
            raise InputError(
                f"{self.revision}: has no ONNX file, which an ensemble runs; add onnx to "
                "export.formats, run `dvc repro` there, and commit the changes"
            )
        return names[0]

    @property
    def sha256(self) -> str:
        """SHA-256 of its ONNX file."""
        return self.info.files_sha256[self.onnx_file]

    def read_onnx(self) -> bytes:
        """Read its ONNX file.

        Raises:
            InputError: it is not the one that its model_info.json names.
        """
        content = self.read(f"{MODEL}/{self.onnx_file}")
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(
                f"{self.revision}: {MODEL}/{self.onnx_file} is not the file that {INFO} names by "
                f"its SHA-256; {export_again(self.revision)}"
            )
        return content


def read_members(repo: "Repo", revisions: Sequence[Revision]) -> list[Member]:
    """Read the runs of a project's revisions, and check that they can be fused.

    Raises:
        InputError: a revision is named twice, has no commit, is not in this clone, has no scores or
            the same network as another, its stages do not match, or see check_members.
    """
    if any(revision.commit is None for revision in revisions):
        raise InputError(
            f"{WORKSPACE}: members are commits, which can be read again; commit the run, and name "
            "the commit: HEAD"
        )
    check_distinct(revisions, [str(revision.commit) for revision in revisions], "revision")
    readers, checkpoints = [], []
    for revision in revisions:
        resolve(repo, str(revision.commit))  # a clone may lack an experiment
        read = reader(repo, revision)
        locked = require_run(revision, read, (*SCORED_STAGES, "export"))
        readers.append(read)
        checkpoints.append(_checkpoint(locked) or str(revision))
    check_distinct(revisions, checkpoints, "network, by the hash of its checkpoint")
    return check_members(list(map(read_member, revisions, readers)))


def _checkpoint(locked: Mapping[str, Any]) -> str | None:
    """Return the hash of the scored checkpoint in the stages of a dvc.lock."""
    deps = locked["evaluate"].get("deps", [])
    return next((entry["md5"] for entry in deps if entry["path"] == CHECKPOINT), None)


def check_distinct(revisions: Sequence[Revision], keys: Sequence[str], kind: str) -> None:
    """Refuse members with equal keys.

    Args:
        revisions: M revisions.
        keys: M commits or hashes.
        kind: what a key stands for, in the message.
    """
    if len(keys) < 2:
        raise InputError("an ensemble needs at least two revisions; name more")
    for (one, key), (other, same) in combinations(zip(revisions, keys, strict=True), 2):
        if key == same:
            raise InputError(f"{one} and {other} are the same {kind}; name each member once")


def read_member(revision: Revision, read: Read) -> Member:
    """Read a run.

    Raises:
        InputError: it has no scores, or its files are inconsistent or of an older version.
    """
    predictions = read_revision_predictions(revision, read)
    try:
        evaluation = json.loads(read(EVALUATION))
        manifest, labels = read_tables(revision, read)
        findings = tuple(labels.columns)
        calibration = Calibration.from_json(json.loads(read(CALIBRATION)), findings)
        logits, volumes = read_logits(read(INFERENCE))
        stored = manifest[manifest["status"] == STORED].reset_index(names="name")
        fold = evaluation.get("cross_validation", {}).get("fold")
        ids = add_scan_ids(stored, fold).set_index("name")
        manifest = ids.join(stored.set_index("name")[stored.columns.difference(["name", *ids])])

        def by_scan(split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
            names, rows = volumes[split], ids.loc[volumes[split]]
            scans = average_over_reconstructions(
                names, logits[split], labels.loc[names].to_numpy(), rows["scan_id"].tolist(),
                rows["patient_id"].tolist(), findings,
            )  # fmt: skip
            index = ids["scan_id"].loc[scans.names]
            values = scans.logits * calibration.slope + calibration.intercept
            of_scan = pd.DataFrame(scans.labels, index, findings, dtype=float)
            return pd.DataFrame(values, index, findings), of_scan

        (test, _), (val, val_labels) = by_scan("test"), by_scan("val")
        untrained = evaluation["counts"].get("untrained", [])
        return Member(
            predictions,
            test,
            val,
            val_labels.assign(**dict.fromkeys(untrained, np.nan)),
            manifest,
            parse_params(read(PARAMS).decode(), Path(f"{revision}: {PARAMS}")),
            evaluation["classification"]["macro"]["auroc"],
            untrained,
            _read_info(revision, read),
            read,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{revision}: {INFERENCE}, {CALIBRATION} or {EVALUATION} cannot be read ({error!r}): "
            "damaged, or written by another version; run `dvc repro` at that revision, and commit "
            "the changes"
        ) from error


def _read_info(revision: Revision, read: Read) -> ModelInfo:
    """Read and validate a run's model_info.json, which another version may have written."""
    try:
        return ModelInfo.model_validate_json(read(f"{MODEL}/{INFO}"))
    except ValidationError as error:
        faults = [fault for one in error.errors() if (fault := _describe_fault(one))]
        raise InputError(
            f"{revision}: {MODEL}/{INFO} is not valid: {first_few(faults)}; "
            f"{export_again(revision)}"
        ) from error


def _describe_fault(detail: Any) -> str:
    """Describe an entry of `ValidationError.errors`; empty if another entry says it better."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "json_invalid":
        return str(detail["msg"])
    if detail["type"] in ("missing", "extra_forbidden"):
        return f"{key}: is {'missing' if detail['type'] == 'missing' else 'unknown'}"
    what = requirement(detail)
    return what and f"{key or 'content'}: {what}, not {detail['input']!r}"


def export_again(revision: Revision) -> str:
    """How to export a revision's model by the present code; its own would write the same again."""
    return (
        f"export it again by the present code: `git switch --detach {revision.commit:.7}`, `dvc "
        "checkout` (or `dvc pull`), `git checkout @{-1} -- src dvc.yaml`, `dvc repro --force "
        "--single-item export`, commit the changes, and name that commit"
    )


def check_members(members: Sequence[Member]) -> list[Member]:
    """Check that runs can be fused; return them with findings and scans in the order of the first.

    Raises:
        InputError: two have the same model, other findings, test scans or labels; a test patient
            of one is a training patient of another; or they have too few common val scans.
    """
    revisions = [member.revision for member in members]
    check_distinct(revisions, [member.sha256 for member in members], "model, byte for byte")
    for one, other in combinations(members, 2):
        _check_findings(one, other)
        for member, trained in ((one, other), (other, one)):
            _check_not_trained_on(member, trained)
        _check_same_scans(one, other)
    aligned = select_common(members)
    labels = aligned[0].val_labels
    for member in aligned[1:]:
        differs = (labels != member.val_labels) & labels.notna() & member.val_labels.notna()
        if differs.any(axis=None):
            raise InputError(
                f"{revisions[0]} and {member.revision} have other labels of the same val scans; "
                "run all on the same data/"
            )
    return aligned


def _check_findings(one: Member, other: Member) -> None:
    if different := sorted(set(one.test.columns) ^ set(other.test.columns)):
        raise InputError(
            f"{one.revision} and {other.revision} have different findings: only one of them has "
            f"{first_few(different)}; run both with the same data.findings"
        )


def _check_not_trained_on(member: Member, trained: Member) -> None:
    """Refuse test patients, or test scans, of one member that another was trained on."""
    test, train = member.rows("test"), trained.rows("train")
    keys: dict[str, Callable[[pd.DataFrame], pd.Series[str]]] = {
        "patients": lambda rows: rows["patient_id"].map(canonical),
        "scans": lambda rows: rows["source_sha256"],
    }
    for kind, key in keys.items():
        seen = key(test).isin(set(key(train)) - {""})
        if seen.any():
            column = "patient_id" if kind == "patients" else "scan_id"
            ids = list(dict.fromkeys(test[column][seen]))
            raise InputError(
                f"{trained.revision} was trained on {len(ids)} test {kind} of {member.revision}: "
                f"{first_few(ids)}; its scores on them would be too good. Train all members on the "
                "same splits: the same data.dvc, data.split_seed and data.fold: null"
            )


def _check_same_scans(one: Member, other: Member) -> None:
    scans = one.predictions.scans.index, other.predictions.scans.index
    if different := sorted(set(scans[0]) ^ set(scans[1])):
        raise InputError(
            f"{one.revision} and {other.revision} were scored on different test scans: "
            f"{len(scans[0])} and {len(scans[1])}, of which only one has {first_few(different)}; "
            "run both on the same data/"
        )


def select_common(members: Sequence[Member]) -> list[Member]:
    """Restrict the val scans to the common ones, and order all scans as the first member's."""
    first = members[0]
    common = [set(member.val.index) for member in members]
    val = first.val.index[first.val.index.isin(set.intersection(*common))]
    patients = first.manifest.drop_duplicates("scan_id").set_index("scan_id")["patient_id"]
    count = patients.loc[val].nunique()
    if count < FEW:
        raise InputError(
            f"only {plural(count, 'val patient is', 'val patients are')} held out by all members "
            f"({plural(len(val), 'scan', 'scans')}), too few to "
            f"calibrate an ensemble on: at least {FEW} are needed, and scans that a member was "
            "trained on would make it overconfident. Train all with the same data.split_seed and "
            "train.val_fraction"
        )
    test, findings = first.predictions.scans.index, first.test.columns
    return [
        replace(
            member,
            predictions=align(first.predictions, member.predictions)[1],
            test=member.test.loc[test, findings],
            val=member.val.loc[val, findings],
            val_labels=member.val_labels.loc[val, findings],
        )
        for member in members
    ]
