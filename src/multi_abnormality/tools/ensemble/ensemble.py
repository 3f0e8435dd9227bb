"""`multi-abnormality ensemble REV_A REV_B ... --name N`: fuse revisions to one model."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multi_abnormality.utils import console


class Weights(StrEnum):
    mean = "mean"
    val = "val"


def ensemble(
    revisions: Annotated[
        list[str],
        typer.Argument(metavar="REVISION...", help="Branches, tags, commits or DVC experiments."),
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the ensemble: a folder of ensembles/.")
    ],
    weights: Annotated[
        Weights,
        typer.Option(
            help="Weights of the members' calibrated logits: equal (mean), or fitted on the val "
            "scans (val).",
        ),
    ] = Weights.mean,
) -> None:
    """Fuse the models of several revisions to one.

    The ensemble is calibrated on val scans, scored on the test split, compared with its best
    member, exported to ensembles/NAME/model, and recorded by DVC.
    """
    from multi_abnormality.tools.compare.comparison_tables import print_tables
    from multi_abnormality.tools.compare.revisions import require_repository, resolve
    from multi_abnormality.tools.ensemble.ensemble_stage import new_folder, record, write_stage
    from multi_abnormality.tools.ensemble.fused_model import fuse_members
    from multi_abnormality.tools.ensemble.fused_results import FOLDER, write_results
    from multi_abnormality.tools.ensemble.members import read_members

    repo = require_repository(Path())
    folder = new_folder(Path(), name)
    members = read_members(repo, [resolve(repo, revision) for revision in revisions])
    fused = fuse_members(name, members, weights.value)
    try:
        write_stage(folder, weights.value, [member.revision for member in members])
        write_results(fused, folder)
        record(repo, folder)
    except BaseException:  # such as a model that is nowhere, a full disk, or Ctrl-C
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print_tables(fused.comparison)
    sys.stdout.write(f"The model is in {folder / FOLDER}, the report is {folder}/report.html\n")
    console.log.info("`git add %s` and `git commit` keep it, `dvc push` uploads it", folder)
