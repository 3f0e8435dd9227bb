"""`multi-abnormality download`: download a part of CT-RATE."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from multi_abnormality.utils.errors import InputError

DATA, PROCESSED = Path("data"), Path("processed")  # of the preprocess stage


class Split(StrEnum):
    """Splits to download."""

    TRAIN = "train"
    TEST = "test"
    BOTH = "both"


def download(
    split: Annotated[
        list[Split] | None,
        typer.Option(help="May be given twice; test is CT-RATE's valid split. Default: both."),
    ] = None,
    patients: Annotated[
        str | None,
        typer.Option(metavar="1-50,60", help="Patient numbers in each split. Default: all."),
    ] = None,
    max_gb: Annotated[
        float | None,
        typer.Option(
            min=0, help="Size limit in GB; only whole patients are downloaded. Default: none."
        ),
    ] = None,
    reconstructions: Annotated[
        Literal["first", "all"],
        typer.Option(help="Of each scan: the one with the lowest number, or all."),
    ] = "all",
    version: Annotated[
        Literal["v1", "v2"], typer.Option(help="v2 is in HU, with corrected headers.")
    ] = "v2",
    out: Annotated[Path, typer.Option(help="Target folder, gets `dataset/`.")] = DATA,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel downloads.")] = 4,
    retries: Annotated[int, typer.Option(min=0, help="Retries in a row without progress.")] = 4,
    then_preprocess: Annotated[
        bool,
        typer.Option(
            "--then-preprocess",
            help="Preprocess each volume after its download and delete it, to save disk space.",
        ),
    ] = False,
) -> None:
    """Download a part of CT-RATE.

    It is on the Hugging Face hub. The same command resumes after an interruption; a different one
    adds to the folder.
    """
    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.catalog.volume_id import SPLITS
    from multi_abnormality.tools.download import download_run
    from multi_abnormality.tools.download.destination import DownloadDir
    from multi_abnormality.tools.download.hub import Hub
    from multi_abnormality.tools.download.postprocess import PreprocessAndDelete, StoreScan
    from multi_abnormality.tools.download.selection import Choice, parse_patients

    splits = split or [Split.BOTH]
    choice = Choice(
        splits=SPLITS if Split.BOTH in splits else tuple(s for s in SPLITS if s in splits),
        patients=parse_patients(patients) if patients else None,
        max_bytes=None if max_gb is None else round(max_gb * 1e9),
        reconstructions=reconstructions,
        version=version,
    )
    if then_preprocess and out.resolve() != DATA.resolve():
        raise InputError(f"--then-preprocess: the pipeline reads {DATA}/; omit --out")
    destination = DownloadDir(out)

    def make_post_download() -> StoreScan:
        if not then_preprocess:
            return StoreScan(destination)
        params = load_params()
        if params.data.table is not None:
            raise InputError(
                f"--then-preprocess: params.yaml's data.table is {params.data.table}, so "
                "CT-RATE's scans would not be read; set it to null"
            )
        return PreprocessAndDelete(destination, params, PROCESSED)

    hub = Hub(revision, retries)
    download_run.download(hub, choice, destination, workers, make_post_download)
