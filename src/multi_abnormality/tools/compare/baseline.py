"""The earlier run that the evaluate stage compares a run with: `evaluate.baseline`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.config.yaml_edit import leaves
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.tools.compare.compare_run import align, compare_predictions
from multi_abnormality.tools.compare.revision_predictions import (
    RevisionPredictions,
    read_revision_predictions,
)
from multi_abnormality.tools.compare.revisions import Revision, reader, require_repository, resolve
from multi_abnormality.tools.experiments import PARAMS, SCORED_STAGES, require_run
from multi_abnormality.utils.errors import InputError

THIS_RUN = Revision("this run", None)


@dataclass(frozen=True)
class Baseline:
    """An earlier run and the present one, on the scans that both are scored on.

    Attributes:
        earlier: predictions of the earlier run.
        own: scans and labels of the present one; its probabilities are not computed yet.
        parameters: parameters of the earlier run by dotted key.
    """

    earlier: RevisionPredictions
    own: RevisionPredictions
    parameters: Mapping[str, object]

    def compare(
        self,
        probabilities: pd.DataFrame,
        parameters: Mapping[str, object],
        resampling: ResamplingConfig,
    ) -> dict[str, Any]:
        """Compare the earlier run (a) with the present one (b); the result holds plain values.

        Args:
            probabilities: of the present run as the challenge scores them, by volume name, a column
                per finding.
            parameters: parameters of the present run by dotted key; others are not compared.
            resampling: resampling settings.
        """
        scans, findings = self.own.scans, self.own.labels.columns
        scored = probabilities.loc[scans["name"], findings].set_axis(scans.index)
        compared = compare_predictions(
            self.earlier, replace(self.own, probabilities=scored), resampling
        )
        runs = {"a": self.parameters, "b": parameters}
        return compared | {
            "parameters": {
                name: {key: values[name] for key, values in runs.items() if name in values}
                for name, value in parameters.items()
                if name not in self.parameters or self.parameters[name] != value
            }
        }


def read_baseline(
    root: Path, commit: str, rows: pd.DataFrame, findings: Sequence[str], untrained: np.ndarray
) -> Baseline:
    """Read an earlier run of a project, to be compared with the present one.

    Args:
        root: the project's folder.
        commit: value of `evaluate.baseline`.
        rows: the manifest's rows of the present run's test volumes, with the findings as columns.
        findings: F names.
        untrained: (F,), whether the present run was not trained on a finding.

    Raises:
        InputError: the commit is unknown, has no scores, or was scored on other scans, findings or
            labels.
    """
    try:
        repo = require_repository(root)
        revision = resolve(repo, commit)
        if not str(revision.commit).startswith(commit):
            raise InputError(
                f"{commit}: is also the name of a branch, tag or experiment, which comes first; "
                "write all 40 digits of the hash"
            )
        revision = Revision(commit[:7], revision.commit)
        read = reader(repo, revision)
        stages = require_run(revision, read)
        earlier = read_revision_predictions(revision, read)
        earlier, own = align(earlier, _without_probabilities(rows, findings, untrained))
    except InputError as error:
        raise InputError(
            f"evaluate.baseline: {error}. In DVC's queue only the last commit and those before it "
            "are known. Or set it to null, for a report without a comparison"
        ) from error
    params: dict[str, Any] = {}
    for stage in SCORED_STAGES:
        params |= stages.get(stage, {}).get("params", {}).get(PARAMS, {})
    return Baseline(earlier, own, {".".join(path): value for path, value in leaves(params)})


def _without_probabilities(
    rows: pd.DataFrame, findings: Sequence[str], untrained: np.ndarray
) -> RevisionPredictions:
    """Return the scans and labels of the present run, by the first reconstruction of each scan."""
    first = rows.drop_duplicates("scan_id")
    scans = first[["patient_id", "name", "source_sha256", "voxels_sha256"]]
    values = np.where(untrained, np.nan, first[list(findings)].to_numpy(dtype=float))
    labels = pd.DataFrame(values, first["scan_id"], list(findings))
    return RevisionPredictions(THIS_RUN, scans.set_axis(labels.index), labels, labels * np.nan)
