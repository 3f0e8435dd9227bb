"""`multi-abnormality compare A B`: is the model of revision B better than that of A?"""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from multi_abnormality.utils import console

CONFIDENCE = 0.95  # of the intervals; the tests' significance level is 1 - CONFIDENCE


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Branch, tag, commit, DVC experiment, or workspace for the work tree."
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for comparison.json and comparison.svg."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    n_bootstrap: Annotated[
        int, typer.Option(min=1, help="Number of bootstrap resamples and of permutations.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both.")] = 0,
) -> None:
    """Compare the scores of two revisions.

    Is the model of revision B better than that of A? Prints the differences of all scores with
    intervals (paired bootstrap over patients), and permutation tests.
    """
    from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
    from multi_abnormality.tools.compare.compare_run import compare_revisions
    from multi_abnormality.tools.compare.comparison_chart import draw_svg
    from multi_abnormality.tools.compare.comparison_tables import print_tables
    from multi_abnormality.utils.atomic_io import atomic_write, write_json

    resampling = ResamplingConfig(n_bootstrap, CONFIDENCE, seed)
    comparison = compare_revisions(Path(), (first, second), resampling)
    if out:
        write_json(comparison, out / "comparison.json")
        atomic_write(draw_svg(comparison).encode(), out / "comparison.svg")
        console.log.info("wrote comparison.json and comparison.svg to %s", out)
    if json:
        sys.stdout.write(json_format.dumps(comparison, indent=2) + "\n")
    else:
        print_tables(comparison)
