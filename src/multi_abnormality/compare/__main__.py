"""`python -m multi_abnormality.compare A B`: is the model of revision B better than that of A?"""

import argparse
from pathlib import Path

import numpy as np

from multi_abnormality import console
from multi_abnormality.backup.record import open_repository
from multi_abnormality.compare.chart import draw
from multi_abnormality.compare.pair import pair
from multi_abnormality.compare.paired import Draws, compare_models
from multi_abnormality.compare.revisions import WORKSPACE, read_scored, resolve
from multi_abnormality.compare.show import show
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably, write_json
from multi_abnormality.findings import FINDINGS

CONFIDENCE = 0.95  # of the intervals; what is left is the level of the tests


def compare(root: Path, names: tuple[str, str], draws: Draws) -> dict:
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
    first, second = pair(*(read_scored(repo, revision) for revision in revisions))
    compared = compare_models(
        first.labels,
        first.probabilities,
        second.probabilities,
        first.patients,
        FINDINGS,
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
            "positives": dict(zip(FINDINGS, positives, strict=True)),
        },
        "same_predictions": bool(np.array_equal(first.probabilities, second.probabilities)),
        **compared,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.compare",
        description="Is the model of revision B better than that of A? Differences of all scores "
        "with intervals (paired bootstrap over patients), and permutation tests.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    kinds = f"branch, tag, commit, DVC experiment, or {WORKSPACE}"
    add("revisions", nargs=2, metavar=("A", "B"), help=kinds)
    add("--out", type=Path, metavar="FOLDER", help="for comparison.json and comparison.svg")
    add("--resamples", type=int, default=2000, help="of the bootstrap, and as many permutations")
    add("--seed", type=int, default=0, help="of both")
    given = parser.parse_args()
    if given.resamples < 1:
        parser.error("--resamples: must be at least 1")
    return given


def main() -> None:
    given = _arguments()
    draws = Draws(given.resamples, CONFIDENCE, given.seed)
    comparison = compare(Path(), tuple(given.revisions), draws)
    show(comparison)
    if given.out:
        write_json(comparison, given.out / "comparison.json")
        write_durably(draw(comparison).encode(), given.out / "comparison.svg")
        console.log.info("%s has comparison.json and comparison.svg", given.out)


if __name__ == "__main__":
    console.run(main)
