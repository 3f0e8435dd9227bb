"""`multi-abnormality compare A B`: is the model of revision B better than that of A?"""

import argparse
from pathlib import Path

from multi_abnormality.tools.compare.revisions import WORKSPACE
from multi_abnormality.utils import console

CONFIDENCE = 0.95  # of the intervals; the tests' significance level is 1 - CONFIDENCE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality compare",
        description="Is the model of revision B better than that of A? Differences of all scores "
        "with intervals (paired bootstrap over patients), and permutation tests.",
        parents=[console.options()],
    )
    add = parser.add_argument
    add("first", metavar="A", help=f"branch, tag, commit, DVC experiment, or {WORKSPACE}")
    add("second", metavar="B", help="another one")
    add("--out", type=Path, metavar="DIR", help="directory for comparison.json and comparison.svg")
    add(
        "--n-bootstrap",
        type=int,
        default=2000,
        help="number of bootstrap resamples and of permutations (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of both (default: %(default)s)")
    given = parser.parse_args()
    if given.n_bootstrap < 1:
        parser.error("--n-bootstrap: must be at least 1")
    if given.seed < 0:
        parser.error("--seed: must be 0 or more")
    return given


def main() -> None:
    given = _arguments()
    from multi_abnormality.evaluation.bootstrap import ResamplingConfig
    from multi_abnormality.tools.compare.comparison import compare
    from multi_abnormality.tools.compare.comparison_tables import print_tables
    from multi_abnormality.tools.compare.difference_plot import draw_differences
    from multi_abnormality.utils.atomic_io import atomic_write, write_json

    resampling = ResamplingConfig(given.n_bootstrap, CONFIDENCE, given.seed)
    comparison = compare(Path(), (given.first, given.second), resampling)
    if given.out:
        write_json(comparison, given.out / "comparison.json")
        atomic_write(draw_differences(comparison).encode(), given.out / "comparison.svg")
        console.log.info("wrote comparison.json and comparison.svg to %s", given.out)
    print_tables(comparison)


if __name__ == "__main__":
    console.run(main)
