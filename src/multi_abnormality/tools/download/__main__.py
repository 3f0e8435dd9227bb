"""`multi-abnormality download`: download a part of CT-RATE."""

import argparse
from pathlib import Path

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

DATA, PROCESSED = Path("data"), Path("processed")  # of the preprocess stage


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality download",
        description="Download a part of CT-RATE from the Hugging Face hub. The same command "
        "resumes after an interruption; a different one adds to the folder.",
        parents=[console.options()],
    )
    add = parser.add_argument
    add(
        "--split",
        choices=("train", "test", "both"),
        action="append",
        help="may be given twice; test is CT-RATE's valid split (default: both)",
    )
    add("--patients", metavar="1-50,60", help="patient numbers in each split (default: all)")
    add(
        "--max-gb",
        type=float,
        help="size limit in GB; only whole patients are downloaded (default: none)",
    )
    add(
        "--reconstructions",
        choices=("first", "all"),
        default="all",
        help="reconstructions of each scan: the one with the lowest number, or all "
        "(default: %(default)s)",
    )
    add(
        "--version",
        choices=("v1", "v2"),
        default="v2",
        help="v2 is in HU, with corrected headers (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        default=DATA,
        help="target folder, gets `dataset/` (default: %(default)s)",
    )
    add("--revision", default="main", help="branch, tag or commit (default: %(default)s)")
    add(
        "--workers", type=int, default=4, help="number of parallel downloads (default: %(default)s)"
    )
    add(
        "--retries",
        type=int,
        default=4,
        help="retries in a row without progress (default: %(default)s)",
    )
    add(
        "--then-preprocess",
        action="store_true",
        help="preprocess each volume after its download and delete it, to save disk space",
    )
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.catalog.volume_id import SPLITS
    from multi_abnormality.tools.download.destination import DownloadDir
    from multi_abnormality.tools.download.download_run import download
    from multi_abnormality.tools.download.hub import Hub
    from multi_abnormality.tools.download.postprocess import PreprocessAndDelete, StoreScan
    from multi_abnormality.tools.download.selection import Choice, parse_patients

    splits = arguments.split or ["both"]
    choice = Choice(
        splits=SPLITS if "both" in splits else tuple(s for s in SPLITS if s in splits),
        patients=parse_patients(arguments.patients) if arguments.patients else None,
        max_bytes=None if arguments.max_gb is None else round(arguments.max_gb * 1e9),
        reconstructions=arguments.reconstructions,
        version=arguments.version,
    )
    if arguments.then_preprocess and arguments.out.resolve() != DATA.resolve():
        raise InputError(f"--then-preprocess: the pipeline reads {DATA}/; omit --out")
    destination = DownloadDir(arguments.out)

    def make_post_download() -> StoreScan:
        if not arguments.then_preprocess:
            return StoreScan(destination)
        params = load_params()
        if params.data.table is not None:
            raise InputError(
                f"--then-preprocess: params.yaml's data.table is {params.data.table}, so "
                "CT-RATE's scans would not be read; set it to null"
            )
        return PreprocessAndDelete(destination, params, PROCESSED)

    hub = Hub(arguments.revision, max(0, arguments.retries))
    download(hub, choice, destination, max(1, arguments.workers), make_post_download)


if __name__ == "__main__":
    console.run(main)
