"""Unique names of scans in all outputs."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError, first_few, raise_errors

if TYPE_CHECKING:
    from multi_abnormality.data.io.scan_sources import ScanSource

_SURROGATES = re.compile("[\ud800-\udfff]")
_LIKE_AN_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


class NamedScan(NamedTuple):
    """Scan with a name that is unique in the call."""

    name: str
    source: "ScanSource"


def name_scans(sources: Sequence["ScanSource"], below: Path | None = None) -> list[NamedScan]:
    """Give each scan a unique name, in the order given.

    The name is that of the file without its suffix, or of the folder; one of several series in a
    folder has its number or UID appended. Equal names, as with a folder per patient, are prefixed
    with as many parent folders as make them unique: 7/CT and 8/CT. Files that differ only in their
    suffixes keep them. Bytes that are not UTF-8 are escaped: "scan\\xff".

    Args:
        sources: distinct scans.
        below: folder whose relative paths are the names, as in a table of own scans.

    Raises:
        InputError: a scan is not below that folder, or two names are equal.
    """
    alike: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        name = _name_below(source, below) if below else source.own_name
        alike.setdefault(name, []).append(index)
    names: dict[int, str] = {}
    for name, group in alike.items():
        is_final = bool(below) or len(group) == 1
        names |= dict.fromkeys(group, name) if is_final else _disambiguate(sources, group)
    named = [NamedScan(_valid_text(names[index]), source) for index, source in enumerate(sources)]
    refuse_equal(named, "nothing was predicted")
    return named


def absolute(path: Path) -> Path:
    """Make a path absolute and remove "..", without following links."""
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() follows links


def _name_below(source: "ScanSource", folder: Path) -> str:
    name = source.name_below(folder)
    if name is None:
        raise InputError(f"{source.path}: is not below {folder}, the folder of --names-below")
    return name


def _disambiguate(sources: Sequence["ScanSource"], group: Sequence[int]) -> dict[int, str]:
    """Name scans by the last parts of their paths, as few as make them unique."""
    plain = [
        [*absolute(sources[index].path).parent.parts[1:], sources[index].own_name]
        for index in group
    ]
    with_suffix = [
        [*own[:-1], absolute(sources[index].path).name]
        for index, own in zip(group, plain, strict=True)
    ]
    deepest = max(map(len, plain))
    for parts, least in ((plain, 2), (with_suffix, 1)):
        for count in range(least, deepest + 1):
            names = ["/".join(own[-count:]) for own in parts]
            if len(set(names)) == len(group):
                return dict(zip(group, names, strict=True))
    return {index: "/".join(own) for index, own in zip(group, plain, strict=True)}


def _valid_text(name: str) -> str:
    """Escape bytes that are not UTF-8, so that distinct names stay distinct."""
    escaped = _LIKE_AN_ESCAPE.sub(r"\\x5c", name)
    return _SURROGATES.sub(lambda found: printable(found[0]), escaped)


def refuse_equal(scans: Iterable[NamedScan], title: str) -> None:
    """Reject equal names, as of a.mha beside a.nii.gz.

    Args:
        scans: scans with their names.
        title: first line of the error.

    Raises:
        InputError: several scans have the same name.
    """
    paths: dict[str, list[str]] = {}
    for name, source in scans:
        paths.setdefault(name, []).append(str(source.path))
    faults = [
        f"{name}: is the name of several scans: {first_few(given)}; predict them in separate calls"
        for name, given in paths.items()
        if len(given) > 1
    ]
    raise_errors(faults, title)
