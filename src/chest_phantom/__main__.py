"""`python -m chest_phantom`: generate sample scans."""

import argparse
import logging
import os
import sys
from pathlib import Path

from chest_phantom.phantom_error import PhantomError
from chest_phantom.settings import Settings


def _parse_arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(
        description="Generate synthetic chest CT with the 18 findings, in CT-RATE's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("data"), help="folder to create")
    add("--patients", type=int, default=default.patients, help="number of patients, both splits")
    add("--seed", type=int, default=default.seed, help="the same seed generates the same bytes")
    add("--size", type=int, default=default.size, help="pixels across a slice")
    add("--slices", type=int, default=default.slices, help="about how many slices a volume has")
    add("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    add("-q", "--quiet", action="store_true", help="show only errors")
    return parser.parse_args()


def main() -> None:
    args = _parse_arguments()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("chest_phantom").setLevel(logging.ERROR if args.quiet else logging.INFO)
    from chest_phantom.generate import make_sample  # takes seconds to import

    settings = Settings(args.patients, args.seed, args.size, args.slices)
    try:
        make_sample(args.out, settings, args.workers)
    except PhantomError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
