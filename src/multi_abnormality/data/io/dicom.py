"""Which files are DICOM's."""

from pathlib import Path

from multi_abnormality.data.io.read import SUFFIXES

MAGIC = b"DICM"  # after 128 bytes


def is_dicom(path: Path) -> bool:
    """Whether it is one of a series, by its name or its first bytes; hidden ones are none.

    Raises:
        OSError: it can't be read.
    """
    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    if path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return False
    return path.suffix.lower() in (".dcm", ".ima") or has_magic(path)  # old ones lack the magic


def has_magic(path: Path) -> bool:
    """Whether its first bytes are those of a DICOM file."""
    with path.open("rb") as file:
        return file.read(132)[128:] == MAGIC
