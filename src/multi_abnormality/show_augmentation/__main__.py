"""`python -m multi_abnormality.show_augmentation`: what training sees, as a sheet to look at."""

import argparse
import io
from pathlib import Path

from multi_abnormality import console


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.show_augmentation",
        description="Write a sheet of what training sees of some scans in several epochs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[console.options()],
    )
    parser.add_argument("--out", type=Path, default=Path("augmentation.png"), help="PNG file")
    parser.add_argument("--scans", type=_count, default=5, help="rows")
    parser.add_argument("--epochs", type=_count, default=6, help="columns beside the plain one")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    from PIL import Image

    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.files import write_durably
    from multi_abnormality.params import load_params
    from multi_abnormality.show_augmentation.sheet import draw_sheet

    sheet = draw_sheet(load_params(), ProcessedSet(Path("processed")), given.scans, given.epochs)
    picture = io.BytesIO()
    Image.fromarray(sheet).save(picture, "PNG", optimize=True)
    write_durably(picture.getvalue(), given.out)
    console.log.info("%s: a row a scan, first as it is, then in %d epochs", given.out, given.epochs)


if __name__ == "__main__":
    console.run(main)
