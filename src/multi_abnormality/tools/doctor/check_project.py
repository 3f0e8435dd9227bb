"""Checks of the project: parameters, scans, stages, and training runs in progress."""

import json
import subprocess
import sys
from collections.abc import Iterator

from multi_abnormality.tools.doctor.context import (
    CheckResult,
    DoctorContext,
    failure,
    passed,
    warning,
)
from multi_abnormality.utils.errors import INSTALL_ALL, InputError, count_scans, plural

MIN_EXTENT = 100.0  # mm of a scan that are stored along each axis; less is no chest


def check_params(context: DoctorContext) -> Iterator[CheckResult]:
    from multi_abnormality.config.schema import load_params

    try:
        params = load_params(context.root / "params.yaml")
    except InputError as error:
        yield failure(str(error), "git diff params.yaml")
        return
    model, train = params.model.backbone, params.train
    yield passed(
        f"valid: {model}, {plural(train.epochs, 'epoch', 'epochs')} of batches of "
        f"{train.batch_size}"
    )
    stored = params.preprocess
    extent = [mm * count for mm, count in zip(stored.spacing, stored.shape, strict=True)]
    if min(extent) < MIN_EXTENT:
        yield warning(
            "preprocess.spacing and preprocess.shape keep only "
            f"{' x '.join(f'{mm:.4g}' for mm in extent)} mm (z, y, x) of each scan, less than a "
            "chest. Is the spacing in mm?"
        )


def check_data(context: DoctorContext) -> Iterator[CheckResult]:
    """Tables and file names, as preprocess reads them; no scan is opened."""
    from multi_abnormality.data.catalog.read_catalog import read_catalog

    data = context.root / "data"
    if not data.exists():
        yield _without_data(context)
        return
    if context.params is None:
        return
    context.catalogue = read_catalog(data, context.params.data)
    volumes = context.catalogue.volumes
    splits = ", ".join(
        f"{count} {split}" for split, count in volumes["split"].value_counts().items()
    )
    patients = len(volumes[["split", "patient_id"]].drop_duplicates())
    scans = volumes["scan_id"].nunique()
    missing = int(volumes[list(context.catalogue.findings)].isna().sum().sum())
    labelled = f"{plural(missing, 'label', 'labels')} missing" if missing else "all labelled"
    yield passed(
        f"{plural(len(volumes), 'volume', 'volumes')} of {count_scans(scans, patients)} "
        f"({splits}), {labelled}"
    )


def _without_data(context: DoctorContext) -> CheckResult:
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset

    try:
        stored = ProcessedDataset(context.root / "processed")
    except InputError:
        return failure(
            "does not exist, and there are no processed volumes",
            "dvc pull data, or make repro for the sample",
        )
    context.command = "dvc repro --allow-missing"
    return warning(
        f"does not exist; the {len(stored.names)} processed volumes are used", context.command
    )


def check_stages(context: DoctorContext) -> Iterator[CheckResult]:
    """Stages that will run, by `dvc status` in a separate process, which broken files may end."""
    if (context.root / ".dvc").is_dir() and not (context.root / "dvc.yaml").is_file():
        yield failure("dvc.yaml, which defines the stages, does not exist", "git checkout dvc.yaml")
        return
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=context.root, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        text = "; ".join(line.removeprefix("ERROR: ") for line in errors) or done.stderr.strip()
        yield failure(text, _hint(text))
        return
    stages = tuple(name for name in json.loads(done.stdout) if not name.endswith(".dvc"))
    context.stages_to_run = stages
    if stages:
        yield passed(f"{', '.join(stages)} will run; `dvc status` lists what has changed")
    else:
        yield passed("all up to date: `dvc repro` has nothing to do")


def _hint(text: str) -> str:
    """How to fix an error of DVC."""
    if "No module named" in text:
        return INSTALL_ALL
    if "not inside of a DVC repository" in text:
        return "cd to the project's folder, or clone it again, with .dvc/"
    if "is not a git repository" in text:
        return "git init && git add --all && git commit, or clone the project again"
    if "dvc.lock" in text:
        return "git checkout dvc.lock"
    if "lock" in text or "busy" in text:
        return "wait for the other DVC command; if none runs: rm -f .dvc/tmp/rwlock .dvc/tmp/lock"
    return "git status; git checkout restores committed files"


def check_no_other_training(context: DoctorContext) -> Iterator[CheckResult]:
    from multi_abnormality.runtime.run_lock import training_lock

    file = context.root / ".dvc/tmp/train.lock"
    if file.exists():
        context.is_training = True  # unless the lock is free
        with training_lock(file):
            context.is_training = False
    yield from ()
