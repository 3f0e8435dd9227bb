"""From two names to what differs."""

from pathlib import Path

import numpy as np

from multi_abnormality.backup.record import open_repository
from multi_abnormality.compare.pair import pair
from multi_abnormality.compare.paired import Draws, compare_models
from multi_abnormality.compare.revisions import WORKSPACE, reader, resolve
from multi_abnormality.compare.scored import read_scored
from multi_abnormality.compare.words import Comparison
from multi_abnormality.console import log
from multi_abnormality.errors import InputError


def compare(root: Path, names: tuple[str, str], draws: Draws) -> Comparison:
    """Compare what two revisions of a project predicted; the result holds plain values.

    Raises:
        InputError: a revision is unknown, has no scores or other labels, or both are one.
    """
    repo = open_repository(root)
    if repo is None:
        raise InputError(f"{root.resolve()}: is in no DVC project; run in the project's folder")
    revisions = [resolve(repo, name) for name in names]
    if revisions[0].commit == revisions[1].commit:
        raise InputError(
            f"{revisions[0]} and {revisions[1]} are the same revision; name two, such as HEAD and "
            f"{WORKSPACE}, or an experiment of `dvc exp show`"
        )
    first, second = pair(*(read_scored(revision, reader(repo, revision)) for revision in revisions))
    log.info(
        "scoring both on %d resamples of %d scans, and on as many permutations",
        draws.resamples, len(first.scans),
    )  # fmt: skip
    compared = compare_models(
        first.labels,
        first.probabilities,
        second.probabilities,
        first.patients.tolist(),
        first.findings,
        draws,
    )
    positives = first.labels.sum(axis=0).tolist()
    return {
        "revisions": {
            letter: {"name": revision.name, "commit": revision.commit}
            for letter, revision in zip("ab", revisions, strict=True)
        },
        "settings": {
            "resamples": draws.resamples,
            "confidence": draws.confidence,
            "seed": draws.seed,
        },
        "counts": {
            "scans": len(first.scans),
            "patients": len(set(first.patients)),
            "positives": dict(zip(first.findings, positives, strict=True)),
        },
        "same_predictions": bool(np.array_equal(first.probabilities, second.probabilities)),
        **compared,
    }
