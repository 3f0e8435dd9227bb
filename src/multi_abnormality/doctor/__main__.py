"""`python -m multi_abnormality.doctor`: would a training run here, and if not, what helps?"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from multi_abnormality.doctor.checkpoint import look_at_checkpoint
from multi_abnormality.doctor.house import FAULT, WELL, House, Look, Seen, look
from multi_abnormality.doctor.machine import look_at_device, look_at_disks, look_at_memory
from multi_abnormality.doctor.model import look_at_model, look_at_split
from multi_abnormality.doctor.packages import (
    look_at_drive_client,
    look_at_packages,
    look_at_python,
    look_at_torch,
)
from multi_abnormality.doctor.project import (
    look_at_dask,
    look_at_data,
    look_at_params,
    look_at_stages,
    look_for_another_training,
)
from multi_abnormality.doctor.remotes import look_at_dvc_remote, look_at_git
from multi_abnormality.doctor.tell import tell, write

LOOKS: tuple[tuple[str, Look], ...] = (
    ("Python", look_at_python),
    ("packages", look_at_packages),
    ("torch", look_at_torch),
    ("params.yaml", look_at_params),
    ("device", look_at_device),
    ("memory", look_at_memory),
    ("data/", look_at_data),
    ("disk", look_at_disks),
    ("training", look_for_another_training),
    ("stages", look_at_stages),
    ("Dask", look_at_dask),
    ("split", look_at_split),
    ("checkpoint", look_at_checkpoint),
    ("model", look_at_model),
    ("Drive client", look_at_drive_client),
    ("DVC remote", look_at_dvc_remote),
    ("Git", look_at_git),
)


def examine(house: House) -> Iterator[Seen]:
    """Look at everything, whatever is broken."""
    for part, at in LOOKS:
        yield from look(part, at, house)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.doctor",
        description="Look at this machine and project, and say what would keep a training from "
        "running, with the command that helps. Exits with 1 where something would.",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only what is not well")
    given = parser.parse_args()
    house, fails = House(Path()), False
    for seen in examine(house):
        fails |= seen.verdict == FAULT
        if not (given.quiet and seen.verdict == WELL):
            tell(seen)
    if fails:
        write("A training would fail here. Mend what is marked FAIL, from the top.")
    elif not given.quiet:
        write(_closing(house))
    return int(fails)


def _closing(house: House) -> str:
    if house.runs == ():
        return f"All is done here: `{house.command}` has nothing to do."
    return f"A training can run here: `{house.command}`."


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
