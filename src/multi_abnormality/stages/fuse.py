"""Stage of an ensemble, in ensembles/NAME/dvc.yaml: members' revisions to one model."""

from pathlib import Path

from multi_abnormality.utils import console

if __name__ == "__main__":
    NAME = console.parse_stage_args("name")

from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.tools.ensemble.ensemble_stage import ENSEMBLES, read_definition
from multi_abnormality.tools.ensemble.fused_model import fuse_members
from multi_abnormality.tools.ensemble.fused_results import write_results
from multi_abnormality.tools.ensemble.members import read_members
from multi_abnormality.utils.errors import InputError


def run(root: Path, name: str) -> None:
    """Fuse the members again that ensembles/NAME/members.json lists by their commits.

    Raises:
        InputError: there is no such ensemble, or a member's files are missing.
    """
    repo = open_repository(root)
    if repo is None:
        raise InputError(f"{root.resolve()}: not in a DVC project; run in the project's folder")
    folder = root / ENSEMBLES / name
    weighting, revisions = read_definition(folder)
    members = read_members(repo, revisions)
    write_results(fuse_members(name, members, weighting), folder)


if __name__ == "__main__":
    console.run(lambda: run(Path(), NAME))
