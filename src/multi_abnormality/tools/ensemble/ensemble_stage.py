"""The DVC stage of an ensemble: ensembles/NAME/dvc.yaml, members.json and dvc.lock."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.ensemble.fused_results import FOLDER
from multi_abnormality.utils.atomic_io import atomic_write, write_json
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

ENSEMBLES = Path("ensembles")
MEMBERS = "members.json"
MAX_NAME = 100
# Code that decides the result.
CODE = (
    "config/findings.py", "data/catalog", "data/storage", "evaluation", "export",
    "stages/fuse.py", "tools/compare", "tools/ensemble", "tools/experiments.py",
    "utils/rng.py", "utils/strict_csv.py",
)  # fmt: skip
CACHED = (FOLDER, "predictions.json", "submission.json", "report.html")  # in .gitignore
IN_GIT = ("calibration.json", "comparison.json", "evaluate.json")


def new_folder(root: Path, name: str) -> Path:
    """Return the folder of a new ensemble, which is not created.

    Raises:
        InputError: the name is no file name, or is used already.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}", name):
        raise InputError(
            f"--name {name!r}: must be a file name of at most {MAX_NAME} letters, digits, '.', '_' "
            "and '-' that begins with a letter or digit"
        )
    folder = root / ENSEMBLES / name
    if folder.exists():
        raise InputError(
            f"--name {name}: {ENSEMBLES / name} exists; choose another name, or delete that folder "
            f"(`dvc repro {ENSEMBLES / name}/dvc.yaml` computes it again)"
        )
    return folder


def stage_content(name: str) -> dict[str, Any]:
    """Return the content of an ensemble's dvc.yaml; paths are relative to the project."""
    folder = ENSEMBLES / name
    code = [f"src/multi_abnormality/{path}" for path in CODE]
    in_git = [{str(folder / file): {"cache": False}} for file in IN_GIT]
    stage = {
        "desc": "Fuse the members, calibrate and score the ensemble, and write its model",
        "wdir": "../..",
        "cmd": f"python -m multi_abnormality.stages.fuse {name}",
        "deps": [str(folder / MEMBERS), *code],
        "outs": [*(str(folder / file) for file in CACHED), *in_git],
        "metrics": [{str(folder / "scores.json"): {"cache": False}}],
    }
    return {"stages": {"fuse": stage}}


def write_stage(folder: Path, weighting: str, revisions: Sequence[Revision]) -> None:
    """Write dvc.yaml, and members.json with the members' commits."""
    members = [asdict(revision) for revision in revisions]
    write_json({"weights": weighting, "members": members}, folder / MEMBERS)
    content = yaml.safe_dump(stage_content(folder.name), sort_keys=False, width=100)
    atomic_write(content.encode(), folder / "dvc.yaml")


def read_definition(folder: Path) -> tuple[str, list[Revision]]:
    """Return weighting and members, as write_stage wrote them.

    Raises:
        InputError: there is no such ensemble, or its file is damaged.
    """
    path = folder / MEMBERS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["weights"]), [Revision(**member) for member in content["members"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}); restore it by `git checkout -- {path}`"
        ) from error


def record(repo: "Repo", folder: Path) -> None:
    """Record the files of an ensemble in DVC's cache and in its dvc.lock."""
    repo.commit(str(folder / "dvc.yaml"), force=True)
