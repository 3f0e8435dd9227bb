"""`multi-abnormality folds`: out-of-fold scores of a cross-validation."""

import json as json_format
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

WIDTH = 100  # columns without a terminal
UNDEFINED = "\N{EN DASH}"


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
    from multi_abnormality.backup.dvc_recorder import open_repository
    from multi_abnormality.tools.out_of_fold import (
        check_folds,
        find_folds,
        prediction_table,
        read_fold_of_project,
        score_folds,
    )
    from multi_abnormality.utils.atomic_io import atomic_write, write_json

    repo = open_repository(Path())
    if repo is None:
        raise InputError(
            f"{Path().resolve()}: not in a DVC project; run in the project's directory"
        )
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


def print_tables(scores: Mapping[str, Any]) -> None:
    """Print the runs, the scores of all scans together, and each finding's."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from multi_abnormality.evaluation.confidence_intervals import UNRELIABLE
    from multi_abnormality.evaluation.metrics import METRICS
    from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score

    screen = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False)

    def print_table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
        for header in headers:
            table.add_column(header, justify="left" if header == headers[0] else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        screen.print(table, "")

    print_table(
        ("Run", "Fold", "Scans", "Patients", "Macro AUROC", "Not trained"),
        [
            (run["name"], *(str(run[key]) for key in ("fold", "scans", "patients")),
             _number(run["auroc"]), ", ".join(run["untrained"]))
            for run in scores["folds"]
        ],
    )  # fmt: skip
    intervals, counts = scores["intervals"], scores["counts"]
    level = f"{100 * intervals['confidence']:g} % interval"
    titles = {name: metric.title for name, metric in METRICS.items()} | {"crg": "CRG"}
    of_all = macro_intervals(dict(scores))
    print_table(
        (f"All findings, {counts['scans']} scans of {counts['patients']} patients", "", level),
        [
            (title, _number(macro_score(dict(scores), name)), _interval(of_all[name]))
            for name, title in titles.items()
        ],
    )
    print_table(
        ("Finding", "Positives", "AUROC", level, "F1"),
        [
            (finding, str(positives), _number(finding_score(dict(scores), finding, "auroc")),
             _interval(intervals["per_pathology"][finding]["auroc"]),
             _number(finding_score(dict(scores), finding, "f1")))
            for finding, positives in counts["positives"].items()
        ],
    )  # fmt: skip
    screen.print(f"* {UNRELIABLE}")


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def _interval(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return UNDEFINED
    mark = "" if interval["reliable"] else " *"
    return f"{interval['low']:.3f} to {interval['high']:.3f}{mark}"
