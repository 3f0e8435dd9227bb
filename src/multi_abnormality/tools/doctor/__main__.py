"""`multi-abnormality doctor`: check whether a training run can start here."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from multi_abnormality.tools.doctor.check_checkpoint import check_checkpoint
from multi_abnormality.tools.doctor.check_machine import (
    check_device,
    check_disks,
    check_memory,
)
from multi_abnormality.tools.doctor.check_model import check_model, check_split
from multi_abnormality.tools.doctor.check_output import print_result, write
from multi_abnormality.tools.doctor.check_packages import (
    check_drive_client,
    check_packages,
    check_python,
    check_torch,
)
from multi_abnormality.tools.doctor.check_project import (
    check_dask,
    check_data,
    check_no_other_training,
    check_params,
    check_stages,
)
from multi_abnormality.tools.doctor.check_remotes import check_dvc_remote, check_git
from multi_abnormality.tools.doctor.context import (
    FAIL,
    OK,
    Check,
    CheckResult,
    DoctorContext,
    run_check,
)

CHECKS: tuple[tuple[str, Check], ...] = (
    ("Python", check_python),
    ("packages", check_packages),
    ("torch", check_torch),
    ("params.yaml", check_params),
    ("device", check_device),
    ("memory", check_memory),
    ("data/", check_data),
    ("disk", check_disks),
    ("training", check_no_other_training),
    ("stages", check_stages),
    ("Dask", check_dask),
    ("split", check_split),
    ("checkpoint", check_checkpoint),
    ("model", check_model),
    ("Drive client", check_drive_client),
    ("DVC remote", check_dvc_remote),
    ("Git", check_git),
)


def examine(context: DoctorContext) -> Iterator[CheckResult]:
    """Run all checks, whatever is broken."""
    for part, check in CHECKS:
        yield from run_check(part, check, context)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality doctor",
        description="Check this machine and project for what would make a training run fail, and "
        "print the command that fixes it. The exit code is 1 if anything would.",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show only warnings and failures"
    )
    given = parser.parse_args()
    context, fails = DoctorContext(Path()), False
    for result in examine(context):
        fails |= result.status == FAIL
        if not (given.quiet and result.status == OK):
            print_result(result)
    if fails:
        write("Training would fail here. Fix what is marked FAIL, from the top.")
    elif not given.quiet:
        write(_closing(context))
    return int(fails)


def _closing(context: DoctorContext) -> str:
    if context.stages_to_run == ():
        return f"Every stage is up to date: `{context.command}` has nothing to do."
    return f"Training can run here: `{context.command}`."


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
