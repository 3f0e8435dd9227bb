"""Check of the checkpoint that training would resume from."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.tools.doctor.context import (
    CheckResult,
    DoctorContext,
    captured_warnings,
    passed,
    warning,
)
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.config.schema import Params
    from multi_abnormality.runtime.resume_decision import ResumeCandidate

CHECKPOINTS, ARCHIVE = Path("checkpoints"), Path(".dvc/tmp/trainings")  # of the train stage


def check_checkpoint(context: DoctorContext) -> Iterator[CheckResult]:
    """Select a checkpoint as training does, in a directory of links, since training moves files."""
    from multi_abnormality.training.debug_modes import apply_debug_overrides
    from multi_abnormality.training.history import StopCriteria

    if context.params is None:
        yield warning("not checked: it depends on params.yaml")
        return
    with captured_warnings():  # check_model reports a debug run
        params = apply_debug_overrides(context.params)
    with tempfile.TemporaryDirectory() as folder, captured_warnings() as warned:
        copy = Path(folder)
        _link(context.root, copy)
        try:
            found = _find(context, params, copy)
        except InputError as error:
            raise InputError(str(error).replace(f"{copy}/", "")) from error
    lines = [line.replace(f"{copy}/", "") for line in warned]
    if found:
        context.starts_from_scratch, progress = False, found.position
        name = CHECKPOINTS / found.path.name
        text = f"{name}: training resumes at epoch {progress.epoch}, batch {progress.batch}"
        if found.history.is_finished(StopCriteria.of(params)):
            text = f"{name} belongs to a finished run"
        yield (warning if lines else passed)("\n".join([text, *lines]))
    elif lines:
        text = "training starts at epoch 0 and archives the existing checkpoints. It will log:"
        yield warning("\n".join([text, *lines]), "git diff params.yaml")
    else:
        yield passed("none: training starts at epoch 0")


def _link(root: Path, copy: Path) -> None:
    """Link all checkpoints that training looks for into another directory."""
    (copy / CHECKPOINTS).mkdir(parents=True)
    for path in [*root.glob(f"{CHECKPOINTS}/*.ckpt"), *root.glob(f"{ARCHIVE}/*/*.ckpt*")]:
        there = copy / path.relative_to(root)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(path.absolute())


def _find(context: DoctorContext, params: "Params", copy: Path) -> "ResumeCandidate | None":
    from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
    from multi_abnormality.runtime.resume_decision import CheckpointDir

    metadata = {"identity": _identity(context, params)}
    archive = CheckpointArchive(copy / ARCHIVE, context.root.absolute() / ".dvc/cache/files/md5")
    return CheckpointDir(copy / CHECKPOINTS, archive).select_and_archive_others(metadata, params)


def _identity(context: DoctorContext, params: "Params") -> dict[str, Any]:
    """Fingerprint of the next run; before preprocessing, with the volumes of the last run."""
    import multi_abnormality
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
    from multi_abnormality.models.pretrained_weights import find_pretrained
    from multi_abnormality.runtime.resume_decision import (
        ResumeCandidate,
        recorded_pretrained_cfg,
    )
    from multi_abnormality.runtime.run_fingerprint import identify

    package = Path(multi_abnormality.__file__).parent
    try:
        processed = ProcessedDataset(context.root / "processed", params.data.fold)
        findings, content = processed.findings, processed.content_hash("train")
    except InputError:  # not preprocessed yet
        findings, content = params.data.names, ""
        for path in sorted((context.root / CHECKPOINTS).glob("*.ckpt")):
            try:
                content = ResumeCandidate.read(path).content["about"]["identity"]["processed"]
            except InputError:  # training reports it
                continue
    pretrained, pretrained_cfg = params.model.pretrained, None
    if isinstance(pretrained, str) and (context.root / pretrained).exists():
        with suppress(InputError):  # check_model reports it
            found = find_pretrained(params.model, root=context.root).cfg
            pretrained_cfg = found.to_dict() if found else None
    else:
        pretrained_cfg = recorded_pretrained_cfg(params.model, context.root / CHECKPOINTS)
    return identify(params, findings, content, package, pretrained_cfg)
