"""`python -m chest_phantom`: generate sample scans."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from chest_phantom.settings import PhantomError, Settings

DEFAULT = Settings()


def sample(
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("data"),
    patients: Annotated[
        int, typer.Option(min=2, max=100_000, help="Patients of both splits.")
    ] = DEFAULT.patients,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63, help="Equal seeds give equal bytes.")
    ] = DEFAULT.seed,
    size: Annotated[
        int, typer.Option(min=64, max=1024, help="Pixels across a slice.")
    ] = DEFAULT.size,
    slices: Annotated[
        int, typer.Option(min=24, max=2000, help="Approximate slices per volume.")
    ] = DEFAULT.slices,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = os.cpu_count() or 1,
) -> None:
    """Generate synthetic sample scans.

    They show chests with the 18 findings, in CT-RATE's layout.
    """
    from chest_phantom.generate import make_sample  # takes seconds to import

    try:
        make_sample(out, Settings(patients, seed, size, slices), workers)
    except PhantomError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    typer.run(sample)
