"""Creates mutated inputs and reads them with the project's readers."""

import hashlib
import resource
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from multi_abnormality.config.schema import Columns, Data, LabelValues, SplitValues
from multi_abnormality.data.catalog.ct_rate_files import read_label_table, read_metadata_table
from multi_abnormality.data.catalog.custom_table import read_custom_table
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.scan_sources import find_scans
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.utils.errors import InputError, raise_errors
from mutations.changes import Target, change
from mutations.formats import FORMATS, MEMBER

OWN = Data(
    table="labels.csv", sheet=None, findings=("Emphysema",), scans=".", test_fraction=0.2,
    values=LabelValues(positive=(1,), negative=(0,), uncertain=(), missing=()),
    uncertain="missing", split_seed=0, folds=None, fold=None,
    split_values=SplitValues(train=("train",), val=("val",), test=("test",), missing=()),

    columns=Columns(scan="scan", patient="patient", split="split", manufacturer=None, kernel=None,
                    sex=None, age=None),
)  # fmt: skip
OTHER = "accepted with other voxels"
PEAK_BYTES = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """Result of reading one mutated input.

    Attributes:
        result: refused | accepted | accepted with other voxels.
        messages: of the refusals.
        fault: description of a failure, or "".
        peak: bytes of this process, or of the largest that it started so far.
    """

    index: int
    format: str
    change: str
    result: str = "refused"
    messages: tuple[str, ...] = ()
    fault: str = ""
    seconds: float = 0.0
    peak: int = 0


def read_mutated(seed: int, index: int, folder: Path) -> Outcome:
    """Make and read the input with this seed and index.

    Args:
        seed: of all inputs.
        index: chooses the format in turn, and with the seed the change.
        folder: an empty one, for the input and the originals.
    """
    name = list(FORMATS)[index % len(FORMATS)]
    original, right = _original(name, folder.parent)
    root = folder / "input"
    shutil.copytree(original.root, root)
    target = replace(original, root=root, given=root / original.given.relative_to(original.root))
    changed, given = change(target, np.random.default_rng([seed, index]))
    outcome = Outcome(index, name, changed.what)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak on Linux
    start = time.monotonic()
    try:
        found, messages = READERS[target.format.kind](given)
    except InputError as error:
        found, messages = [], (str(error),)
    except BaseException:  # including SystemExit
        found, messages = [], ()
        outcome = replace(outcome, result="traceback", fault=traceback.format_exc())
    others = [one for one in found if one != right[0]]
    if found:
        outcome = replace(outcome, result=OTHER if others else "accepted")
    if others and changed.faithful and "table" not in target.format.kind:
        outcome = replace(outcome, fault=OTHER)
    peak = max(_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    if peak > PEAK_BYTES and not outcome.fault:
        outcome = replace(outcome, fault=f"peak memory {peak / 1e9:.2f} GB")
    return replace(outcome, messages=messages, seconds=time.monotonic() - start, peak=peak)


def _peak() -> int:
    """Peak memory, bytes, since its last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@cache
def _original(name: str, folder: Path) -> tuple[Target, list[str]]:
    """The well-formed input of a format, and what reading it gives."""
    root = folder / f"original {list(FORMATS).index(name)}"
    root.mkdir()
    given = FORMATS[name].write(root)
    right, messages = READERS[FORMATS[name].kind](given)
    if len(right) != 1:
        raise RuntimeError(f"the original of {name} cannot be read: {messages}")
    return Target(FORMATS[name], given, root), right


def _read_scans(path: Path) -> tuple[list[str], tuple[str, ...]]:
    found, messages = [], []
    try:
        sources = find_scans(path)
    except OSError as error:  # as documented; programs name the path and the error
        return [], (str(error),)
    for source in sources:
        try:
            volume = read_volume(source)
        except InputError as error:
            messages.append(str(error))
        else:
            found.append(_digest(volume.hu, str(volume.spacing)))
    return found, tuple(messages)


def _read_set(path: Path) -> tuple[list[str], tuple[str, ...]]:
    return [_digest(ProcessedDataset(path).read(MEMBER))], ()


def _read_labels(path: Path) -> tuple[list[str], tuple[str, ...]]:
    return _table(*read_label_table(path, "train"))


def _read_metadata(path: Path) -> tuple[list[str], tuple[str, ...]]:
    return _table(*read_metadata_table(path.parents[2], "train"))


def _read_own(path: Path) -> tuple[list[str], tuple[str, ...]]:
    table = read_custom_table(path, OWN)
    return _table(table.rows, table.errors)


def _table(table: object, faults: list[str]) -> tuple[list[str], tuple[str, ...]]:
    raise_errors(faults, "")
    return [str(table)], ()


def _digest(voxels: np.ndarray, text: str = "") -> str:
    content = np.ascontiguousarray(voxels)
    return hashlib.sha256(content.tobytes() + f"{voxels.shape}{text}".encode()).hexdigest()


READERS: dict[str, Callable[[Path], tuple[list[str], tuple[str, ...]]]] = {
    "scan": _read_scans,
    "set": _read_set,
    "label table": _read_labels,
    "metadata table": _read_metadata,
    "own table": _read_own,
}
