"""Registry of readers by file suffix."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from multi_abnormality.data.io.scan import Scan

# To add a format, write a function from a path to a Scan and add a line here. Modules are imported
# when needed, as most calls read one format.
_READERS = {
    ".nii.gz": "nifti:read_nifti",
    ".nii": "nifti:read_nifti",
    ".hdr": "nifti:read_nifti",
    ".img": "nifti:read_nifti",
    ".mha": "metaimage:read_metaimage",
    ".mhd": "metaimage:read_metaimage",
    ".nrrd": "nrrd:read_nrrd",
    ".nhdr": "nrrd:read_nrrd",
}
# Suffixes of files that count as a scan; the .img of a .hdr is not a second scan.
SUFFIXES = tuple(suffix for suffix in _READERS if suffix != ".img")


def suffix_of(path: Path) -> str:
    """Return the known suffix of a file's name, in lower case, or ""."""
    name = path.name.lower()
    return next((suffix for suffix in _READERS if name.endswith(suffix)), "")


def reader_of(path: Path) -> Callable[..., Scan] | None:
    """Return the reader for a file's suffix; None for DICOM and unknown formats."""
    suffix = suffix_of(path)
    if not suffix:
        return None
    module, function = _READERS[suffix].split(":")
    reader: Callable[..., Scan] = getattr(import_module(f"{__package__}.{module}"), function)
    return reader


def scan_name(path: Path) -> str:
    """Return the name of a file without its suffix, or of a folder."""
    if path.is_dir():
        return path.resolve().name
    return path.name[: len(path.name) - len(suffix_of(path))]
