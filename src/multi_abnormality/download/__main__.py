"""`python -m multi_abnormality.download`: fetch a part of CT-RATE."""

import argparse
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.errors import InputError

DATA, PROCESSED = Path("data"), Path("processed")  # as the preprocess stage has them


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.download",
        description="Fetch a part of CT-RATE from the Hugging Face hub. The same command goes on "
        "after an interruption; another one adds to what is there.",
        parents=[console.options()],
    )
    add = parser.add_argument
    add(
        "--split",
        choices=("train", "valid", "both"),
        action="append",
        help="may be given twice (default: both)",
    )
    add("--patients", metavar="1-50,60", help="their numbers in each split (default: all)")
    add("--max-gb", type=float, help="choose whole patients up to this much (default: no end)")
    add(
        "--reconstructions",
        choices=("first", "all"),
        default="all",
        help="of each scan: the one with the lowest number, or all (default: %(default)s)",
    )
    add(
        "--version",
        choices=("v1", "v2"),
        default="v2",
        help="v2 is in HU, with mended headers (default: %(default)s)",
    )
    add("--out", type=Path, default=DATA, help="folder for `dataset` (default: %(default)s)")
    add("--revision", default="main", help="branch, tag or commit (default: %(default)s)")
    add("--workers", type=int, default=4, help="files fetched at a time (default: %(default)s)")
    add(
        "--retries",
        type=int,
        default=4,
        help="tries after a failed one that brought nothing (default: %(default)s)",
    )
    add(
        "--then-preprocess",
        action="store_true",
        help="preprocess each volume when it is there, and delete it: a small disk will do",
    )
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    from multi_abnormality.data.names import SPLITS
    from multi_abnormality.download.choose import Choice, parse_patients
    from multi_abnormality.download.hub import Hub
    from multi_abnormality.download.keep import Keeper, KeepFiles, KeepProcessed
    from multi_abnormality.download.place import Place
    from multi_abnormality.download.run import download
    from multi_abnormality.params import load_params

    splits = given.split or ["both"]
    choice = Choice(
        splits=SPLITS if "both" in splits else tuple(s for s in SPLITS if s in splits),
        patients=parse_patients(given.patients) if given.patients else None,
        max_bytes=None if given.max_gb is None else round(given.max_gb * 1e9),
        reconstructions=given.reconstructions,
        version=given.version,
    )
    if given.then_preprocess and given.out.resolve() != DATA.resolve():
        raise InputError(f"--then-preprocess: the pipeline reads {DATA}/; leave --out away")
    place = Place(given.out)

    def make_keeper() -> Keeper:
        if not given.then_preprocess:
            return KeepFiles(place)
        params = load_params()
        if params.data.table is not None:
            raise InputError(
                f"--then-preprocess: params.yaml's data.table is {params.data.table}, so that "
                "CT-RATE's scans would not be read; set it to null"
            )
        return KeepProcessed(place, params, PROCESSED)

    hub = Hub(given.revision, max(0, given.retries))
    download(hub, choice, place, max(1, given.workers), make_keeper)


if __name__ == "__main__":
    console.run(main)
