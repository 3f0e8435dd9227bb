"""`multi-abnormality preview-augmentation`: contact sheet of augmented training samples."""

import argparse
import io
from pathlib import Path

from multi_abnormality.utils import console


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality preview-augmentation",
        description="Write a contact sheet of training samples, augmented as in several epochs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[console.options()],
    )
    parser.add_argument("--out", type=Path, default=Path("augmentation.png"), help="PNG file")
    parser.add_argument("--scans", type=_count, default=5, help="rows")
    parser.add_argument(
        "--epochs", type=_count, default=6, help="augmented columns, after the original"
    )
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    from PIL import Image

    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
    from multi_abnormality.tools.preview_augmentation.augmentation_sheet import draw_sheet
    from multi_abnormality.utils.atomic_io import atomic_write

    sheet = draw_sheet(
        load_params(), ProcessedDataset(Path("processed")), given.scans, given.epochs
    )
    picture = io.BytesIO()
    Image.fromarray(sheet).save(picture, "PNG", optimize=True)
    atomic_write(picture.getvalue(), given.out)
    console.log.info(
        "%s: one row per scan, the original and %d augmented epochs", given.out, given.epochs
    )


if __name__ == "__main__":
    console.run(main)
