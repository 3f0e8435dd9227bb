"""What each scan is called in what is written of it."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from multi_abnormality.data.io.read import scan_name
from multi_abnormality.errors import InputError, first_few, raise_faults


def name_scans(scans: Sequence[Path], below: Path | None = None) -> dict[Path, str]:
    """A name of its own for each scan.

    It is the file's name without its suffix, or the folder's. Where several scans have the same,
    as with a folder for each patient, as many folders go before it as tell these apart: 7/CT and
    8/CT. Files that differ in their suffixes alone keep them.

    Args:
        scans: different paths.
        below: folder from which on the whole path is the name, as in a table of own scans.

    Raises:
        InputError: a scan is not below that folder.
    """
    if below:
        names = {scan: "/".join(_parts(scan, below)) for scan in scans}
        names = {scan: unicodedata.normalize("NFC", name) for scan, name in names.items()}
    else:
        alike: dict[str, list[Path]] = {}
        for scan in scans:
            alike.setdefault(scan_name(scan), []).append(scan)
        names = {}
        for name, group in alike.items():
            names |= {group[0]: name} if len(group) == 1 else _told_apart(group)
    refuse_equal(names, "nothing was predicted")
    return {scan: names[scan] for scan in scans}


def absolute(path: Path) -> Path:
    """As it is written, links and all, but from the root and without "..": where users see it."""
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() follows links


def _parts(scan: Path, below: Path | None = None) -> list[str]:
    """The folders that a scan lies in, and its name; from the root, or from a folder on."""
    folders = absolute(scan).parent
    if below is None:
        return [*folders.parts[1:], scan_name(scan)]
    try:
        return [*folders.relative_to(absolute(below)).parts, scan_name(scan)]
    except ValueError:
        raise InputError(
            f"{scan}: is not below {below}, which --names-below says that names start from"
        ) from None


def _told_apart(scans: Sequence[Path]) -> dict[Path, str]:
    """By the last parts of their paths, as few of them as it takes."""
    plain = [_parts(scan) for scan in scans]
    with_suffix = [[*own[:-1], absolute(scan).name] for scan, own in zip(scans, plain, strict=True)]
    deepest = max(map(len, plain))
    for parts, least in ((plain, 2), (with_suffix, 1)):
        for count in range(least, deepest + 1):
            names = ["/".join(own[-count:]) for own in parts]
            if len(set(names)) == len(scans):
                return dict(zip(scans, names, strict=True))
    raise AssertionError(f"two of {scans} are one path")


def refuse_equal(names: dict[Path, str], title: str) -> None:
    """As where names are whole paths, and a.mha lies beside a.nii.gz.

    Raises:
        InputError: several scans have one name; it begins with the title.
    """
    scans: dict[str, list[str]] = {}
    for scan, name in names.items():
        scans.setdefault(name, []).append(str(scan))
    faults = [
        f"{name}: is the name of several scans: {first_few(paths)}; give them apart"
        for name, paths in scans.items()
        if len(paths) > 1
    ]
    raise_faults(faults, title)
