"""The file formats that can be read, by suffix."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from multi_abnormality.data.io.scan import Scan

# A new format is a module with a function from a path to a Scan, and a line here. Modules are
# imported when needed: most calls read one format.
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
# Of the files that stand for a scan; the image beside a .hdr may be named, but is no second scan.
SUFFIXES = tuple(suffix for suffix in _READERS if suffix != ".img")


def suffix_of(path: Path) -> str:
    """The known suffix of a file's name, in lower case; "" if it has none of them."""
    name = path.name.lower()
    return next((suffix for suffix in _READERS if name.endswith(suffix)), "")


def reader_of(path: Path) -> Callable[..., Scan] | None:
    """The function that reads a file with this suffix; None for DICOM and unknown formats."""
    suffix = suffix_of(path)
    if not suffix:
        return None
    module, function = _READERS[suffix].split(":")
    reader: Callable[..., Scan] = getattr(import_module(f"{__package__}.{module}"), function)
    return reader


def scan_name(path: Path) -> str:
    """The file's name without its suffix, or the folder's."""
    if path.is_dir():
        return path.resolve().name
    return path.name[: len(path.name) - len(suffix_of(path))]
