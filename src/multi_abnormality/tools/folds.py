"""`multi-abnormality folds`: out-of-fold scores of a cross-validation."""

import json as json_format
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import count_scans


def folds(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REVISION]...",
            help="DVC experiments, commits or workspace, one of each fold; default: the current "
            "commit's experiments with data.fold.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for folds.json and out_of_fold.csv."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Score the out-of-fold predictions of a cross-validation.

    Collects the runs that each held out one fold (data.folds, data.fold), checks that they are of
    one recipe and one table, and scores all scans together, with intervals over patients.
    """
    from multi_abnormality.tools.compare.revisions import require_repository
    from multi_abnormality.tools.out_of_fold import (
        check_folds,
        find_folds,
        prediction_table,
        read_fold_of_project,
        score_folds,
    )
    from multi_abnormality.utils.atomic_io import atomic_write, write_json

    repo = require_repository(Path())
    runs = check_folds([read_fold_of_project(repo, name) for name in revisions or find_folds()])
    scores = score_folds(runs)
    if out:
        write_json(scores, out / "folds.json")
        table = prediction_table(runs).to_csv(index=False, lineterminator="\n")
        atomic_write(table.encode(), out / "out_of_fold.csv")
        console.log.info("wrote folds.json and out_of_fold.csv to %s", out)
    if json:
        sys.stdout.write(json_format.dumps(scores, indent=2) + "\n")
    else:
        print_tables(scores)


def print_tables(scores: dict[str, Any]) -> None:
    """Print the runs, the scores of all scans together, and each finding's."""
    from rich.text import Text

    from multi_abnormality.evaluation.confidence_intervals import UNRELIABLE
    from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score
    from multi_abnormality.tools.compare.comparison_tables import (
        TITLES,
        UNDEFINED,
        format_score,
        new_table,
        table_console,
    )

    screen = table_console()

    def print_table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = new_table()
        for header in headers:
            table.add_column(header, justify="left" if header == headers[0] else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        screen.print(table, "")

    def interval(found: Mapping[str, Any] | None) -> str:
        if found is None:
            return UNDEFINED
        return f"{found['low']:.3f} to {found['high']:.3f}" + ("" if found["reliable"] else " *")

    print_table(
        ("Run", "Fold", "Scans", "Patients", "Macro AUROC", "Not trained"),
        [
            (run["name"], *(str(run[key]) for key in ("fold", "scans", "patients")),
             format_score(run["auroc"]), ", ".join(run["untrained"]))
            for run in scores["folds"]
        ],
    )  # fmt: skip
    intervals, counts = scores["intervals"], scores["counts"]
    level = f"{100 * intervals['confidence']:g} % interval"
    of_all = macro_intervals(scores)
    print_table(
        (f"All findings, {count_scans(counts['scans'], counts['patients'])}", "", level),
        [
            (title, format_score(macro_score(scores, name)), interval(of_all[name]))
            for name, title in TITLES.items()
        ],
    )
    print_table(
        ("Finding", "Positives", "AUROC", level, "F1"),
        [
            (finding, str(positives), format_score(finding_score(scores, finding, "auroc")),
             interval(intervals["per_pathology"][finding]["auroc"]),
             format_score(finding_score(scores, finding, "f1")))
            for finding, positives in counts["positives"].items()
        ],
    )  # fmt: skip
    screen.print(f"* {UNRELIABLE}")
