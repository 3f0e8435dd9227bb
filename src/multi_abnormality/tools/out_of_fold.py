"""Out-of-fold predictions: collected from the runs of a cross-validation, and scored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from multi_abnormality.config.yaml_edit import leaves
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.data.catalog.catalog import FOLD
from multi_abnormality.data.catalog.volume_id import natural_sort_key
from multi_abnormality.data.storage.processed_dataset import LABELS, MANIFEST
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.evaluation.threshold_selection import CHALLENGE_THRESHOLD
from multi_abnormality.tools.compare.revision_predictions import (
    EVALUATION,
    RevisionPredictions,
    read_probabilities,
    read_revision_predictions,
)
from multi_abnormality.tools.compare.revisions import Read, Revision, reader, resolve
from multi_abnormality.tools.experiments import (
    PARAMS,
    changed_params,
    read_experiments,
    require_run,
)
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

PREDICTIONS = "metrics/predictions.json"
# Parameters that folds may differ in: data.fold, and those that the scores do not depend on.
FREE = ("data.fold", "machine.", "backup.", "export.")


@dataclass(frozen=True)
class FoldRun:
    """A run that holds out one fold.

    Attributes:
        revision: its revision.
        params: its parameters by dotted name, without FREE ones.
        settings: `fold`, `folds` and `untrained` findings of its evaluation.
        auroc: its macro AUROC.
        predictions: labels and probabilities of its scans, moved so that each threshold is 0.5.
        calibrated: (N, F) calibrated probabilities of the same scans.
        tables: content of the processed set's tables, by name.
    """

    revision: Revision
    params: dict[str, Any]
    settings: dict[str, Any]
    auroc: float | None
    predictions: RevisionPredictions
    calibrated: np.ndarray
    tables: dict[str, bytes]

    @property
    def fold(self) -> int:
        return int(self.settings["fold"])

    @cached_property
    def patients(self) -> set[str]:
        return set(self.predictions.scans["patient_id"])


def find_folds() -> list[str]:
    """Return the names of the current commit's experiments that hold out a fold.

    Raises:
        InputError: there are none, or they are of several recipes.
    """
    found = [each for each in read_experiments([]) if each.scores.get("cross_validation")]
    folds = {each.params["data.fold"] for each in found if not each.is_baseline}
    found = [
        each for each in found if not each.is_baseline or each.params["data.fold"] not in folds
    ]
    if not found:
        raise InputError(
            "no experiment of this commit holds out a fold; set data.folds, commit, then run "
            "`dvc exp run --queue -S data.fold=0,1,2,3,4` and `dvc queue start`, or name the "
            "experiments of another commit"
        )
    names_by_recipe: dict[str, list[str]] = {}
    for each in found:
        key = json.dumps(_recipe(each.params), sort_keys=True)
        names_by_recipe.setdefault(key, []).append(each.name)
    if len(names_by_recipe) > 1:
        keys = [json.loads(key) for key in names_by_recipe]
        raise InputError(
            f"the folds of this commit are of {len(keys)} recipes, which differ in "
            f"{', '.join(changed_params(keys))}; name the experiments of one of them: "
            + "; or ".join(" ".join(sorted(names)) for names in names_by_recipe.values())
        )
    return [each.name for each in found]


def read_fold_of_project(repo: "Repo", name: str) -> FoldRun:
    """Read the run of a project's revision.

    Raises:
        InputError: its parameters were not run, or see read_fold.
    """
    revision = resolve(repo, name)
    read = reader(repo, revision)
    require_run(revision, read)
    return read_fold(revision, read)


def read_fold(revision: Revision, read: Read) -> FoldRun:
    """Read a run.

    Raises:
        InputError: it holds out no fold, or its files are missing or inconsistent.
    """
    params = load_yaml(read(PARAMS).decode())
    predictions = read_revision_predictions(revision, read)
    evaluation = json.loads(read(EVALUATION))
    if "cross_validation" not in evaluation:
        raise InputError(
            f"{revision}: holds out no fold, as its data.fold is null; name the experiments of a "
            "cross-validation"
        )
    findings = tuple(predictions.labels.columns)
    calibrated = read_probabilities(revision, json.loads(read(PREDICTIONS)), findings)
    if set(calibrated.index) != set(predictions.scans["name"]):
        raise InputError(
            f"{revision}: {PREDICTIONS} has other scans than the submission; run `dvc repro` at "
            "that revision"
        )
    return FoldRun(
        revision,
        _recipe({".".join(path): value for path, value in leaves(params)}),
        evaluation["cross_validation"] | {"untrained": evaluation["counts"].get("untrained", [])},
        evaluation["classification"]["macro"]["auroc"],
        predictions,
        calibrated.loc[predictions.scans["name"]].to_numpy(),
        {table: read(f"processed/{table}") for table in (MANIFEST, LABELS)},
    )


def check_folds(runs: Sequence[FoldRun]) -> list[FoldRun]:
    """Check that runs are the folds of one cross-validation; return them in order.

    Raises:
        InputError: they differ in another parameter or in a table, a fold is missing or there
            twice, or a patient is not in exactly one of them.
    """
    first = runs[0]
    for run in runs[1:]:
        if differing := changed_params([first.params, run.params]):
            values = [
                f"{name}: {first.params.get(name)!r} and {run.params.get(name)!r}"
                for name in differing
            ]
            raise InputError(
                f"{first.revision} and {run.revision} are of different recipes ({'; '.join(values)}"
                "); folds may differ in data.fold alone"
            )
        if tables := [name for name in run.tables if run.tables[name] != first.tables[name]]:
            raise InputError(
                f"{first.revision} and {run.revision} have different tables: processed/"
                f"{' and processed/'.join(tables)}; run all folds on the same data/"
            )
    folds = first.settings["folds"]
    of_fold: dict[int, list[FoldRun]] = {fold: [] for fold in range(folds)}
    for run in runs:
        of_fold[run.fold].append(run)
    for fold, found in of_fold.items():
        if len(found) > 1:
            names = " and ".join(str(run.revision) for run in found)
            raise InputError(f"fold {fold} is there twice, as {names}; name one of them")
    if missing := [str(fold) for fold, found in of_fold.items() if not found]:
        raise InputError(
            f"missing of the folds 0 to {folds - 1}: {', '.join(missing)}; `dvc exp run -S "
            f"data.fold={missing[0]}` runs one, `dvc queue status` lists those that wait or failed"
        )
    ordered = [found[0] for found in of_fold.values()]
    _check_patients(ordered)
    return ordered


def _check_patients(runs: Sequence[FoldRun]) -> None:
    seen: dict[str, FoldRun] = {}
    for run in runs:
        if twice := sorted(run.patients & seen.keys()):
            raise InputError(
                f"patient {twice[0]} is in {seen[twice[0]].revision} and {run.revision}, and must "
                "be in one fold alone"
            )
        seen |= dict.fromkeys(run.patients, run)


def score_folds(runs: Sequence[FoldRun]) -> dict[str, Any]:
    """Score the union of all folds' predictions; the result holds plain values.

    Each fold's thresholds decide on its own scans. Scores of the order of scans are those of the
    calibrated probabilities, since thresholds differ from fold to fold. The intervals resample
    patients, as those of the evaluate stage.
    """
    params = runs[0].params
    resampling = ResamplingConfig(
        params["evaluate.n_bootstrap"], params["evaluate.ci_level"], params["seed"]
    )
    labels = pd.concat([run.predictions.labels for run in runs])
    calibrated = np.concatenate([run.calibrated for run in runs])
    scores = evaluate(
        labels.to_numpy(),
        np.concatenate([run.predictions.probabilities.to_numpy() for run in runs]),
        [patient for run in runs for patient in run.predictions.scans["patient_id"]],
        tuple(labels.columns),
        resampling,
        calibrated=calibrated,
        ranks=calibrated,
    )
    return {
        "folds": [
            {
                "fold": run.fold,
                "name": run.revision.name,
                "commit": run.revision.commit,
                "scans": len(run.predictions.scans),
                "patients": len(run.patients),
                "auroc": run.auroc,
                "untrained": run.settings["untrained"],
            }
            for run in runs
        ],
        **scores,
    }


def prediction_table(runs: Sequence[FoldRun]) -> pd.DataFrame:
    """Return a row per scan and finding, with its fold, label, probability and decision."""
    parts = []
    for run in runs:
        scans, labels = run.predictions.scans, run.predictions.labels
        positive = run.predictions.probabilities >= CHALLENGE_THRESHOLD
        for column, finding in enumerate(labels.columns):
            parts.append(
                pd.DataFrame(
                    {
                        "name": scans["name"].to_numpy(),
                        "patient_id": scans["patient_id"].to_numpy(),
                        FOLD: run.fold,
                        "finding": finding,
                        "label": labels[finding].astype("Int64").to_numpy(),
                        "probability": run.calibrated[:, column],
                        "positive": positive[finding].astype(int).to_numpy(),
                    }
                )
            )
    rows = pd.concat(parts)
    return rows.sort_values(
        "name", key=lambda names: names.map(natural_sort_key), kind="stable"
    ).reset_index(drop=True)


def _recipe(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if not name.startswith(FREE)}
