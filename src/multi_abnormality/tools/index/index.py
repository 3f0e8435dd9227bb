"""`multi-abnormality index`: a table of the chest CT scans in a DICOM export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError


def index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with DICOM files at any depth.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="TABLE.csv",
            help="Table of the chosen series, to be filled with labels. One that exists gets new "
            "rows; its cells are kept.",
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that the table's paths start from (data.scans); default: the table's, or "
            "FOLDER if it is elsewhere.",
        ),
    ] = None,
    findings: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Empty columns for labels; default: data.findings of params.yaml, if there is "
            "one.",
        ),
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Secret of the patients' pseudonyms, created on first use; default: "
            "~/.config/multi-abnormality/patient-salt.",
        ),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a folder of links to each chosen series there, which the table names: "
            "for paths that name patients, and for folders that hold many series.",
        ),
    ] = None,
    dates: Annotated[
        Literal["day", "year", "none"], typer.Option(help="What the table shows of study dates.")
    ] = "day",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes; default: one per core.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """List a PACS export's chest CT as a table to label.

    Of each study, one series is chosen by its DICOM headers; TABLE.series.csv lists all series with
    the reason. Patients are under pseudonyms. After an interruption the same command resumes.
    """
    if out.suffix != ".csv":
        raise typer.BadParameter("must end with .csv", param_hint="--out")
    from json import dumps

    from multi_abnormality.tools.index.index_run import index_export, resolve_findings
    from multi_abnormality.tools.index.pseudonyms import default_salt, load_salt

    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; name the folder of the export")
    names = resolve_findings(findings)
    salt = salt or default_salt()
    if salt.absolute().is_relative_to(out.absolute().parent):
        log.warning("%s: is in the folder of the table; keep the salt apart from it", salt)
    secret = load_salt(salt)
    summary = index_export(folder, out, root, secret, names, dates, workers, link)
    if json:
        typer.echo(dumps(summary, indent=2, ensure_ascii=False))
