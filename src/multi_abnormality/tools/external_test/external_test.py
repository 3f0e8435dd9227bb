"""`multi-abnormality evaluate MODEL`: scores of an exported model on an external test set."""

from pathlib import Path
from typing import Annotated

import typer

from multi_abnormality.utils.errors import InputError, plural


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file, or folder with one.")],
    table: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Table with a row per scan: .csv or .xlsx, as data.table.",
        ),
    ],
    scans: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that the table's paths start from.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Folder for report.html, evaluate.json and predictions.json; after an "
            "interruption the same command resumes.",
        ),
    ] = Path("evaluation"),
    params: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with a data section (columns, values, uncertain, sheet), complete or "
            "in part; default: params.yaml in this folder, if there is one.",
        ),
    ] = None,
    sheet: Annotated[
        str | None, typer.Option(metavar="NAME", help="Sheet of an .xlsx table (data.sheet).")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=NAME",
            help="A key of data.columns, such as patient=Person; without a name: there is none. "
            "May be repeated.",
        ),
    ] = None,
    recalibrate_on: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="Recalibrate the probabilities on the rows with this word in the split column; "
            "they are not scored.",
        ),
    ] = None,
    skip_missing_findings: Annotated[
        bool,
        typer.Option(
            "--skip-missing-findings", help="Score without the findings that the table lacks."
        ),
    ] = False,
    allow_same_ids: Annotated[
        bool,
        typer.Option(
            "--allow-same-ids",
            help="Accept patient ids that training patients have, since those are other patients. "
            "Scans that the model was trained on are refused all the same.",
        ),
    ] = False,
    n_bootstrap: Annotated[int, typer.Option(min=1, help="Number of bootstrap resamples.")] = 1000,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Scans predicted in parallel.")] = 1,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            min=0.1,
            help="Memory limit of the model, without its weights; default: 3 per worker.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the content of evaluate.json.")
    ] = False,
) -> None:
    """Score an exported model on an external test set.

    The scores, intervals and groups are those of the evaluate stage. Patients and scans that the
    model was trained on are refused.
    """
    try:
        from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
        from multi_abnormality.tools.external_test.evaluation_run import evaluate_model
        from multi_abnormality.tools.external_test.label_settings import read_settings
        from multi_abnormality.tools.external_test.labeled_scans import LabeledTable, Part
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("multi_abnormality"):
            raise
        raise InputError(
            f"the package {error.name} is missing: pip install 'multi-abnormality[evaluate]'"
        ) from None
    import sys
    from json import dumps

    from multi_abnormality.inference.predictor import MEMORY, load_model
    from multi_abnormality.utils.system_memory import tune_malloc

    if (out / "scores.json").exists():
        raise InputError(f"--out {out}: has the scores of the evaluate stage; use another folder")
    tune_malloc()
    loaded = load_model(model, memory or MEMORY * workers)
    settings, split = read_settings(params, table, sheet, column or [], loaded.findings)
    part = None if recalibrate_on is None else Part(split, recalibrate_on)
    labeled = LabeledTable.read(table, scans, settings, part, skip_missing_findings)
    resampling = ResamplingConfig(n_bootstrap, confidence, seed)
    scores, errors = evaluate_model(loaded, labeled, out, resampling, allow_same_ids, workers)
    if json:
        sys.stdout.write(dumps(scores, indent=2) + "\n")
    if errors:
        listed = "".join(f"\n  - {error}" for error in errors)
        raise InputError(
            f"{len(errors)} of {plural(labeled.count, 'scan', 'scans')} could not be read; {out}/ "
            f"has the scores of the others{listed}"
        )
