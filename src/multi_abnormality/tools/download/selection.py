"""Selection of the volumes to fetch, from the label tables."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.tools.download.hub import Hub, RemoteFile, batched
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, first_few, plural

PATIENTS_PER_REQUEST = 100
_FOLDER_SUFFIX = {"v1": "", "v2": "_fixed"}
_RANGE = re.compile(r"([1-9]\d{0,6})(?:-([1-9]\d{0,6}))?", re.ASCII)

Ranges = tuple[range, ...]


@dataclass(frozen=True)
class Choice:
    """The user's selection of volumes."""

    splits: tuple[str, ...]
    patients: Ranges | None  # patient numbers, in each of the splits; None for all
    max_bytes: int | None  # size limit of all volumes, including existing ones; None for no limit
    reconstructions: str  # "first" or "all" of each scan
    version: str

    def path(self, name: VolumeName) -> str:
        """Return a volume's path on the hub, which is also that below the destination folder."""
        folder = f"dataset/{name.prefix}{_FOLDER_SUFFIX[self.version]}"
        return f"{folder}/{name.patient_id}/{name.scan_id}/{name}.nii.gz"


def parse_patients(text: str) -> Ranges:
    """Parse patient numbers and ranges such as "1-50,60"."""
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        low, high = (int(number or match[1]) for number in match.groups()) if match else (1, 0)
        if high < low:
            raise InputError(f"--patients: {part!r} is not a number or range such as 1-50")
        ranges.append(range(low, high + 1))
    return tuple(ranges)


def candidates(
    labelled: Iterable[VolumeName], excluded: set[VolumeName], choice: Choice
) -> list[list[VolumeName]]:
    """Return the volumes that may be fetched, one list per patient, in order of selection.

    Patients of the splits are interleaved in proportion to the splits' sizes, so that any limit
    selects some of each split, and a higher limit only adds patients.

    Raises:
        InputError: a requested patient is in none of the splits, or no volume remains.
    """
    known = sorted(labelled)
    if choice.patients is not None:
        _check_numbers(choice.patients, {name.patient for name in known}, choice.splits)
        known = [n for n in known if any(n.patient in part for part in choice.patients)]
    known = [name for name in known if name not in excluded]
    if choice.reconstructions == "first":
        known = [next(group) for _, group in groupby(known, key=lambda name: name.scan_id)]
    if not known:
        raise InputError("--patients: none of these has a chest scan; choose others")
    ranked = []
    for split in choice.splits:
        own = (name for name in known if name.split == split)
        patients = [list(group) for _, group in groupby(own, key=lambda name: name.patient)]
        ranked += [((i + 0.5) / len(patients), patient) for i, patient in enumerate(patients)]
    return [patient for _, patient in sorted(ranked)]


def _check_numbers(ranges: Ranges, known: set[int], splits: Sequence[str]) -> None:
    unknown = sorted({number for part in ranges for number in part if number not in known})
    if unknown:
        raise InputError(
            f"--patients: {' and '.join(splits)} of CT-RATE has no patient "
            f"{first_few([*map(str, unknown)])}; their numbers range from {min(known)} to "
            f"{max(known)}"
        )


def choose(
    patients: Sequence[Sequence[VolumeName]], choice: Choice, hub: Hub
) -> dict[VolumeName, RemoteFile]:
    """Return the files of the first patients that fit into the size limit."""
    chosen: dict[VolumeName, RemoteFile] = {}
    all_missing: list[VolumeName] = []
    total = 0
    for files, missing in _with_files(patients, choice, hub):
        size = sum(file.size for file in files.values())
        if choice.max_bytes is not None and total + size > choice.max_bytes:
            if not chosen:
                raise InputError(
                    f"--max-gb {choice.max_bytes / 1e9:g}: the first patient alone has "
                    f"{size / 1e9:.3g} GB; raise the limit, or add --reconstructions first"
                )
            break
        total += size
        chosen |= files
        all_missing += missing
    if all_missing:
        log.warning(
            "%s not on the hub: %s",
            plural(len(all_missing), "volume has labels but is", "volumes have labels but are"),
            first_few([*map(str, all_missing)]),
        )  # fmt: skip
    if not chosen:
        raise InputError(
            f"the hub has no {choice.version} volume of these patients; try the other --version"
        )
    return chosen


def _with_files(
    patients: Sequence[Sequence[VolumeName]], choice: Choice, hub: Hub
) -> Iterator[tuple[dict[VolumeName, RemoteFile], list[VolumeName]]]:
    """Yield each patient's files, and the volumes that the hub lacks."""
    for batch in batched(patients, PATIENTS_PER_REQUEST):
        found = hub.describe([choice.path(name) for patient in batch for name in patient])
        for patient in batch:
            files = {n: found[choice.path(n)] for n in patient if choice.path(n) in found}
            yield files, [name for name in patient if name not in files]
