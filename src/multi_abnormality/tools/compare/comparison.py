"""Comparison of two revisions by name."""

from pathlib import Path

import numpy as np

from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.evaluation.bootstrap import ResamplingConfig
from multi_abnormality.tools.compare.alignment import align
from multi_abnormality.tools.compare.formatting import Comparison
from multi_abnormality.tools.compare.paired_tests import compare_models
from multi_abnormality.tools.compare.revision_predictions import read_revision_predictions
from multi_abnormality.tools.compare.revisions import WORKSPACE, reader, resolve
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError


def compare(root: Path, names: tuple[str, str], resampling: ResamplingConfig) -> Comparison:
    """Compare the predictions of two revisions of a project; the result holds plain values.

    Raises:
        InputError: a revision is unknown or has no scores, or both are the same, or their labels
            differ.
    """
    repo = open_repository(root)
    if repo is None:
        raise InputError(f"{root.resolve()}: not in a DVC project; run in the project's directory")
    revisions = [resolve(repo, name) for name in names]
    if revisions[0].commit == revisions[1].commit:
        raise InputError(
            f"{revisions[0]} and {revisions[1]} are the same revision; name two, such as HEAD and "
            f"{WORKSPACE}, or an experiment of `dvc exp show`"
        )
    first, second = align(
        *(read_revision_predictions(revision, reader(repo, revision)) for revision in revisions)
    )
    log.info(
        "scoring both on %d bootstrap resamples of %d scans and as many permutations",
        resampling.n_bootstrap, len(first.scans),
    )  # fmt: skip
    compared = compare_models(
        first.labels,
        first.probabilities,
        second.probabilities,
        first.patients.tolist(),
        first.findings,
        resampling,
    )
    positives = first.labels.sum(axis=0).tolist()
    return {
        "revisions": {
            letter: {"name": revision.name, "commit": revision.commit}
            for letter, revision in zip("ab", revisions, strict=True)
        },
        "settings": {
            "n_bootstrap": resampling.n_bootstrap,
            "confidence": resampling.confidence,
            "seed": resampling.seed,
        },
        "counts": {
            "scans": len(first.scans),
            "patients": len(set(first.patients)),
            "positives": dict(zip(first.findings, positives, strict=True)),
        },
        "same_predictions": bool(np.array_equal(first.probabilities, second.probabilities)),
        **compared,
    }
