"""`python -m multi_abnormality.sample`: draw the sample scans."""

import argparse
import os
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.sample.settings import Settings


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.sample",
        description="Draw chest CT phantoms with the 18 findings, in CT-RATE's own layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[console.options()],
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data"), help="folder to make")
    add("--patients", type=int, default=default.patients, help="train and valid together")
    add("--seed", type=int, default=default.seed, help="the same seed draws the same bytes")
    add("--size", type=int, default=default.size, help="pixels across a slice")
    add("--slices", type=int, default=default.slices, help="about how many slices a volume")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    from multi_abnormality.sample.write import make_sample

    settings = Settings(given.patients, given.seed, given.size, given.slices)
    make_sample(given.out, settings, given.workers)


if __name__ == "__main__":
    console.run(main)
