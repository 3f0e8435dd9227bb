"""Which volumes of the set are fetched: decided by the label tables, before any is."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from multi_abnormality.console import log
from multi_abnormality.data.names import VolumeName
from multi_abnormality.data.rows import MOST_FAULTS
from multi_abnormality.download.hub import RemoteFile, in_groups
from multi_abnormality.errors import InputError

PATIENTS_A_QUESTION = 100
_FOLDER_SUFFIX = {"v1": "", "v2": "_fixed"}
_RANGE = re.compile(r"([1-9]\d{0,6})(?:-([1-9]\d{0,6}))?", re.ASCII)

Ranges = tuple[range, ...]


@dataclass(frozen=True)
class Choice:
    """What a user asks for.

    Attributes:
        patients: numbers, in each of the splits; None: all.
        max_bytes: of volumes, those that are there already included; None: no end.
        reconstructions: "first" or "all" of each scan.
        version: "v1" or "v2".
    """

    splits: tuple[str, ...]
    patients: Ranges | None
    max_bytes: int | None
    reconstructions: str
    version: str

    def path(self, name: VolumeName) -> str:
        """Of a volume on the hub, and below the folder that is downloaded to."""
        folder = f"dataset/{name.split}{_FOLDER_SUFFIX[self.version]}"
        return f"{folder}/{name.patient_id}/{name.scan_id}/{name}.nii.gz"


def parse_patients(text: str) -> Ranges:
    """Read numbers and ranges such as "1-50,60".

    Raises:
        InputError: it is something else.
    """
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        low, high = (int(number or match[1]) for number in match.groups()) if match else (1, 0)
        if high < low:
            raise InputError(f"--patients: {part!r} is no number or range such as 1-50")
        ranges.append(range(low, high + 1))
    return tuple(ranges)


def candidates(
    labelled: Iterable[VolumeName], excluded: set[VolumeName], choice: Choice
) -> list[list[VolumeName]]:
    """The volumes that may be fetched, a list a patient, in the order of choosing.

    Patients of both splits are taken in turn, each split in the measure of its size, so that any
    limit leaves some of both, and a raised one only adds.

    Raises:
        InputError: a patient whose number is asked for is in none of the splits, or none is left.
    """
    known = sorted(labelled)
    if choice.patients is not None:
        _check_numbers(choice.patients, {name.patient for name in known}, choice.splits)
        known = [n for n in known if any(n.patient in part for part in choice.patients)]
    known = [name for name in known if name not in excluded]
    if choice.reconstructions == "first":
        known = [next(group) for _, group in groupby(known, key=lambda name: name.scan_id)]
    if not known:
        raise InputError("--patients: none of these has a chest scan; ask for others")
    ranked = []
    for split in choice.splits:
        own = (name for name in known if name.split == split)
        patients = [list(group) for _, group in groupby(own, key=lambda name: name.patient)]
        ranked += [((i + 0.5) / len(patients), patient) for i, patient in enumerate(patients)]
    return [patient for _, patient in sorted(ranked)]


def _check_numbers(ranges: Ranges, known: set[int], splits: Sequence[str]) -> None:
    unknown = sorted({number for part in ranges for number in part if number not in known})
    if unknown:
        shown = ", ".join(map(str, unknown[:MOST_FAULTS]))
        more = f" and {len(unknown) - MOST_FAULTS} more" if len(unknown) > MOST_FAULTS else ""
        raise InputError(
            f"--patients: {' and '.join(splits)} of CT-RATE has no patient {shown}{more}; their "
            f"numbers go from {min(known)} to {max(known)}"
        )


def choose(
    patients: Sequence[Sequence[VolumeName]],
    choice: Choice,
    describe: Callable[[Iterable[str]], dict[str, RemoteFile]],
) -> dict[VolumeName, RemoteFile]:
    """The files of the patients that fit into the limit, in order; `describe` asks the hub.

    Raises:
        InputError: not even the first patient fits, or the hub has none of the files.
    """
    chosen: dict[VolumeName, RemoteFile] = {}
    lacking: list[VolumeName] = []
    total = 0
    for files, missing in _with_files(patients, choice, describe):
        size = sum(file.size for file in files.values())
        if choice.max_bytes is not None and total + size > choice.max_bytes:
            if not chosen:
                raise InputError(
                    f"--max-gb {choice.max_bytes / 1e9:g}: the first patient alone has "
                    f"{size / 1e9:.3g} GB; raise it, or ask for --reconstructions first"
                )
            break
        total += size
        chosen |= files
        lacking += missing
    if lacking:
        shown = ", ".join(map(str, lacking[:MOST_FAULTS]))
        log.warning("%d volumes have labels but are not on the hub: %s", len(lacking), shown)
    if not chosen:
        raise InputError(
            f"the hub has no {choice.version} volume of these patients; try the other --version"
        )
    return chosen


def _with_files(
    patients: Sequence[Sequence[VolumeName]],
    choice: Choice,
    describe: Callable[[Iterable[str]], dict[str, RemoteFile]],
) -> Iterator[tuple[dict[VolumeName, RemoteFile], list[VolumeName]]]:
    """Each patient's files, and the volumes that the hub has not."""
    for some in in_groups(patients, PATIENTS_A_QUESTION):
        found = describe([choice.path(name) for patient in some for name in patient])
        for patient in some:
            files = {n: found[choice.path(n)] for n in patient if choice.path(n) in found}
            yield files, [name for name in patient if name not in files]
