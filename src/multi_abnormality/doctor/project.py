"""The project itself: parameters, scans, stages, and a training that runs here now."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen
from multi_abnormality.doctor.listen import warnings_kept

INSTALL = "pip install --requirement requirements.txt"
MOST = 4  # changes of a stage that are named


def look_at_params(house: House) -> Iterator[Seen]:
    from multi_abnormality.errors import InputError
    from multi_abnormality.params import load_params

    try:
        params = load_params(house.root / "params.yaml")
    except InputError as error:
        yield Seen(FAULT, "params.yaml", str(error), "git diff params.yaml")
        return
    model, train = params.model.backbone, params.train
    yield Seen(WELL, "params.yaml", f"valid: {model}, {train.epochs} epochs of batches of "
               f"{train.batch_size}")  # fmt: skip


def look_at_data(house: House) -> Iterator[Seen]:
    """Tables and names, as preprocess reads them first; no scan is opened."""
    from multi_abnormality.data.source import read_catalogue
    from multi_abnormality.errors import InputError

    data = house.root / "data"
    if not data.exists():
        yield _without_data(house)
        return
    if house.params is None:
        return
    try:
        with warnings_kept() as warned:
            catalogue = read_catalogue(data, house.params.data)
    except InputError as error:
        yield Seen(FAULT, "data/", str(error))
        return
    volumes = catalogue.volumes
    house.catalogue = catalogue
    splits = ", ".join(
        f"{count} {split}" for split, count in volumes["split"].value_counts().items()
    )
    patients = len(volumes[["split", "patient_id"]].drop_duplicates())
    yield Seen(WELL, "data/", f"{len(volumes)} volumes of {patients} patients ({splits}), each "
               "with its labels")  # fmt: skip
    for warning in warned:
        yield Seen(DOUBT, "data/", warning)


def _without_data(house: House) -> Seen:
    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.errors import InputError

    try:
        stored = ProcessedSet(house.root / "processed")
    except InputError:
        return Seen(FAULT, "data/", "is not there, and no processed volumes either",
                    "dvc pull data, or make repro for the sample")  # fmt: skip
    house.command = "dvc repro --allow-missing"
    return Seen(DOUBT, "data/", f"is not there; the {len(stored.names)} processed volumes serve",
                house.command)  # fmt: skip


def look_at_stages(house: House) -> Iterator[Seen]:
    """By `dvc status`, in a process of its own: what DVC makes of a broken file stays there."""
    if (house.root / ".dvc").is_dir() and not (house.root / "dvc.yaml").is_file():
        yield Seen(FAULT, "stages", "dvc.yaml, which names the stages, is not there",
                   "git checkout dvc.yaml")  # fmt: skip
        return
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=house.root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        text = "; ".join(line.removeprefix("ERROR: ") for line in said) or done.stderr.strip()
        yield Seen(FAULT, "stages", text, _help(text))
        return
    status: dict[str, list[Any]] = json.loads(done.stdout)
    stages = {name: changes for name, changes in status.items() if not name.endswith(".dvc")}
    house.runs = tuple(stages)
    for name, changes in stages.items():
        yield Seen(WELL, "stages", f"{name} will run: {_told(changes)}")
    if not stages:
        yield Seen(WELL, "stages", "all up to date: `dvc repro` has nothing to do")


def look_at_dask(house: House) -> Iterator[Seen]:
    """Whether a scheduler answers, by what preprocess asks it with."""
    if house.params is None or house.params.machine.dask is None:
        return
    from multi_abnormality.data.work.cluster import Cluster
    from multi_abnormality.errors import InputError

    try:
        with tempfile.TemporaryDirectory() as folder:
            Cluster(house.params.machine.dask, [Path(folder)]).close()
    except InputError as error:
        yield Seen(FAULT if house.preprocesses else DOUBT, "Dask", str(error))
        return
    yield Seen(WELL, "Dask", f"a scheduler answers at {house.params.machine.dask}")


def _help(text: str) -> str:
    """The way out of what DVC says."""
    if "No module named" in text:
        return INSTALL
    if "not inside of a DVC repository" in text:
        return "cd to the project's folder, or clone it anew: .dvc/ is part of it"
    if "is not a git repository" in text:
        return "git init && git add --all && git commit, or clone the project anew"
    if "dvc.lock" in text:
        return "git checkout dvc.lock"
    if "lock" in text or "busy" in text:
        return (
            "wait for the other DVC command; where none runs: rm -f .dvc/tmp/rwlock .dvc/tmp/lock"
        )
    return "git status; git checkout brings back what was committed"


def _told(changes: list[Any]) -> str:
    """DVC's list of what changed, in a line: the names, and after them what became of them."""
    became: dict[str, list[str]] = {}
    for name, state in _states(changes):
        became.setdefault(state, []).append(name)
    lines = [change for change in changes if isinstance(change, str)]  # such as "changed command"
    for state, names in became.items():
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        lines.append(f"{', '.join(names[:MOST])}{more} {state}")
    return "; ".join(lines)


def _states(changes: list[Any]) -> Iterator[tuple[str, str]]:
    """Of files, and of single parameters in the place of params.yaml."""
    for change in changes:
        for items in change.values() if isinstance(change, dict) else ():
            for name, state in items.items():
                yield from state.items() if isinstance(state, dict) else [(name, state)]


def look_for_another_training(house: House) -> Iterator[Seen]:
    file = house.root / ".dvc/tmp/train.lock"
    if not file.exists():
        return
    from multi_abnormality.errors import InputError
    from multi_abnormality.training.lock import sole_training

    try:
        with sole_training(file):
            return
    except InputError as error:
        house.trains = True
        yield Seen(FAULT, "training", str(error))
