"""`python -m multi_abnormality.compare A B`: is the model of revision B better than that of A?"""

import argparse
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.compare.revisions import WORKSPACE

CONFIDENCE = 0.95  # of the intervals; what is left is the level of the tests


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.compare",
        description="Is the model of revision B better than that of A? Differences of all scores "
        "with intervals (paired bootstrap over patients), and permutation tests.",
        parents=[console.options()],
    )
    add = parser.add_argument
    add("first", metavar="A", help=f"branch, tag, commit, DVC experiment, or {WORKSPACE}")
    add("second", metavar="B", help="another one")
    add("--out", type=Path, metavar="FOLDER", help="for comparison.json and comparison.svg")
    add(
        "--resamples",
        type=int,
        default=2000,
        help="of the bootstrap, and as many permutations (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of both (default: %(default)s)")
    given = parser.parse_args()
    if given.resamples < 1:
        parser.error("--resamples: must be at least 1")
    if given.seed < 0:
        parser.error("--seed: must be 0 or more")
    return given


def main() -> None:
    given = _arguments()
    from multi_abnormality.compare.chart import draw
    from multi_abnormality.compare.paired import Draws
    from multi_abnormality.compare.run import compare
    from multi_abnormality.compare.show import show
    from multi_abnormality.files import write_durably, write_json

    draws = Draws(given.resamples, CONFIDENCE, given.seed)
    comparison = compare(Path(), (given.first, given.second), draws)
    if given.out:
        write_json(comparison, given.out / "comparison.json")
        write_durably(draw(comparison).encode(), given.out / "comparison.svg")
        console.log.info("%s has comparison.json and comparison.svg", given.out)
    show(comparison)


if __name__ == "__main__":
    console.run(main)
