"""A revision's predictions of its test scans, and the labels that these scans had there."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from multi_abnormality.data.store import LABELS, MANIFEST
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.checks import check_labels, check_probabilities
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.findings import FINDINGS

if TYPE_CHECKING:
    from dvc.repo import Repo

WORKSPACE = "workspace"  # the files as they lie here, in DVC's own word
PREDICTIONS, EVALUATION = "metrics/predictions.json", "metrics/evaluate.json"
SAME = 1e-9  # of a score that is computed again

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Revision:
    """A name that a user gave, and what it stands for; no commit for the work tree."""

    name: str
    commit: str | None

    def __str__(self) -> str:
        return self.name if self.commit is None else f"{self.name} ({self.commit[:7]})"


@dataclass(frozen=True)
class Scored:
    """Scans that a revision was scored on.

    Attributes:
        revision: it.
        scans: N ids, such as valid_1_a.
        patients: N ids.
        sources: N hashes of the files that the scans were read from.
        labels: (N, 18), 0 or 1.
        probabilities: (N, 18).
    """

    revision: Revision
    scans: np.ndarray
    patients: np.ndarray
    sources: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def rows(self, rows: np.ndarray) -> "Scored":
        """These rows alone, in this order."""
        names = ("scans", "patients", "sources", "labels", "probabilities")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def resolve(repo: "Repo", name: str) -> Revision:
    """What a branch, tag, commit, experiment or the word `workspace` stands for.

    Raises:
        InputError: there is no such revision.
    """
    from dvc.scm import NoSCM, SCMError, resolve_rev

    if name == WORKSPACE:
        return Revision(name, None)
    if isinstance(repo.scm, NoSCM):
        raise InputError(f"{name}: this project is in no Git repository; only {WORKSPACE} is known")
    try:
        return Revision(name, resolve_rev(repo.scm, name))
    except SCMError as error:
        raise InputError(
            f"{name}: is no branch, tag, commit or experiment here ({error}); `git log --all` and "
            "`dvc exp show --all-commits` list what there is, `git fetch` and `dvc exp pull` "
            "bring more"
        ) from error


def read_scored(repo: "Repo", revision: Revision) -> Scored:
    """Read a revision's predictions and labels out of the work tree, DVC's cache or its remote.

    Raises:
        InputError: it has no scores, its files are nowhere, or they do not fit each other.
    """
    read = _workspace(Path(repo.root_dir)) if revision.commit is None else _commit(repo, revision)
    try:
        predictions = _predictions(json.loads(read(PREDICTIONS)))
        recorded = json.loads(read(EVALUATION))["classification"]["macro"]["auroc"]
        scored = _join(revision, predictions, *_tables(read))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{revision}: {PREDICTIONS}, {EVALUATION}, processed/{MANIFEST} or processed/{LABELS} "
            f"cannot be read ({error!r}): damaged, or of another version of this project; run "
            "`dvc repro` at that revision"
        ) from error
    _check(scored, recorded)
    return scored


def _workspace(root: Path) -> Read:
    def read(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{name}: cannot be read ({error.strerror}), so the {WORKSPACE} has no scores; "
                "`dvc repro` makes them, `dvc pull` brings those of dvc.lock"
            ) from error

    return read


def _commit(repo: "Repo", revision: Revision) -> Read:
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(repo=repo.root_dir, rev=revision.commit)

    def read(name: str) -> bytes:
        try:
            known = files.exists(name)
        except Exception as error:  # any file system's own
            raise _nowhere(repo, revision, name, error) from error
        if not known:
            raise InputError(
                f"{revision}: has no scores ({name} is not in its dvc.lock or in Git); `git switch "
                f"--detach {revision.commit[:7]}`, `dvc repro`, and commit what that changes"
            )
        try:
            return files.read_bytes(name)
        except Exception as error:  # any file system's own
            raise _nowhere(repo, revision, name, error) from error

    return read


def _nowhere(repo: "Repo", revision: Revision, name: str, error: Exception) -> InputError:
    remote = repo.config["core"].get("remote")
    hint = (
        f"`dvc push --all-commits` (an experiment: `dvc exp push`) where it was made brings it to "
        f"{remote!r}"
        if remote
        else "`dvc remote add --default NAME URL` names the remote that it was pushed to"
    )
    return InputError(
        f"{revision}: {name} is neither in DVC's cache nor on its default remote "
        f"({type(error).__name__}: {error}); {hint}, and `dvc repro` at that revision makes it anew"
    )


def _predictions(content: Mapping[str, Any]) -> pd.DataFrame:
    """(N, 18) probabilities by volume name, from the submission's format."""
    rows = content["predictions"]
    names = [row["input_image_name"] for row in rows]
    if len(set(names)) < len(names):
        raise ValueError("a scan stands twice")
    values = [[float(row["probabilities"][finding]) for finding in FINDINGS] for row in rows]
    return pd.DataFrame(values, index=names, columns=list(FINDINGS))


def _tables(read: Read) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the labels of a processed set, by volume name."""
    texts = (io.BytesIO(read(f"processed/{name}")) for name in (MANIFEST, LABELS))
    manifest = pd.read_csv(next(texts), dtype=str, keep_default_na=False).set_index("name")
    return manifest, pd.read_csv(next(texts)).set_index("name")


def _join(
    revision: Revision, predictions: pd.DataFrame, manifest: pd.DataFrame, labels: pd.DataFrame
) -> Scored:
    unknown = sorted(set(predictions.index) - set(labels.index))
    if unknown:
        raise InputError(
            f"{revision}: processed/ has no labels of {unknown[0]}"
            f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}, which it was scored "
            "on; its dvc.lock and its predictions were not made together: run `dvc repro` there"
        )
    rows = manifest.loc[predictions.index]
    return Scored(
        revision,
        rows["scan_id"].to_numpy(),
        rows["patient_id"].to_numpy(),
        rows["source_sha256"].to_numpy(),
        labels.loc[predictions.index, list(FINDINGS)].to_numpy(),
        predictions.to_numpy(),
    )


def _check(scored: Scored, recorded: float | None) -> None:
    """That predictions and labels are those of the recorded scores."""
    check_labels(scored.labels, FINDINGS, lambda row: scored.scans[row])
    cells = scored.labels, scored.probabilities
    check_probabilities(cells[1], cells[0], FINDINGS, lambda row: scored.scans[row])
    found = official_scores(*cells, FINDINGS)["classification"]["macro"]["auroc"]
    if (found is None) != (recorded is None) or abs((found or 0) - (recorded or 0)) > SAME:
        raise InputError(
            f"{scored.revision}: {PREDICTIONS} and the labels in processed/ give a macro AUROC of "
            f"{found}, but {EVALUATION} says {recorded}: they were not made together; run `dvc "
            "repro` at that revision, and commit dvc.lock with metrics/"
        )
