"""The checkpoint that a training would go on from."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen
from multi_abnormality.doctor.listen import warnings_kept

if TYPE_CHECKING:
    from multi_abnormality.params import Params
    from multi_abnormality.training.resume import Found

CHECKPOINTS, ASIDE = Path("checkpoints"), Path(".dvc/tmp/trainings")  # as the train stage has them


def look_at_checkpoint(house: House) -> Iterator[Seen]:
    """What training itself finds, in a folder of links: it moves what is in its way."""
    from multi_abnormality.errors import InputError
    from multi_abnormality.training.debug import settle
    from multi_abnormality.training.history import Limits

    if house.params is None:
        yield Seen(DOUBT, "checkpoint", "not looked at: params.yaml says which serves")
        return
    with warnings_kept():  # look_at_model tells of a debug run
        params = settle(house.params)
    with tempfile.TemporaryDirectory() as folder, warnings_kept() as told:
        twin = Path(folder)
        _link(house.root, twin)
        try:
            found = _find(house, params, twin)
        except InputError as error:
            yield Seen(FAULT, "checkpoint", str(error).replace(f"{twin}/", ""))
            return
    lines = [line.replace(f"{twin}/", "") for line in told]
    if found:
        house.starts_anew, at = False, found.position
        name = CHECKPOINTS / found.path.name
        text = f"{name}: training goes on at epoch {at.epoch}, step {at.batch}"
        if found.history.is_over(Limits.of(params)):
            text = f"{name} is of a finished training"
        yield Seen(DOUBT if lines else WELL, "checkpoint", "\n".join([text, *lines]))
    elif lines:
        yield Seen(DOUBT, "checkpoint", "\n".join([
            "training starts anew, at epoch 0, and keeps the earlier checkpoints aside. It will "
            "tell:", *lines]), "git diff params.yaml")  # fmt: skip
    else:
        yield Seen(WELL, "checkpoint", "none: training starts at epoch 0")


def _link(root: Path, twin: Path) -> None:
    """Have what a training looks for in another folder as well."""
    (twin / CHECKPOINTS).mkdir(parents=True)
    for path in [*root.glob(f"{CHECKPOINTS}/*.ckpt"), *root.glob(f"{ASIDE}/*/*.ckpt")]:
        there = twin / path.relative_to(root)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(path.absolute())


def _find(house: House, params: "Params", twin: Path) -> "Found | None":
    from multi_abnormality.training.aside import Aside
    from multi_abnormality.training.resume import Folder

    about = {"identity": _identity(house, params)}
    aside = Aside(twin / ASIDE, house.root.absolute() / ".dvc/cache/files/md5")
    return Folder(twin / CHECKPOINTS, aside).find(about, params)


def _identity(house: House, params: "Params") -> dict[str, Any]:
    """Of the training to come; where nothing is preprocessed yet, with what the last one had."""
    import multi_abnormality
    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.errors import InputError
    from multi_abnormality.run_fingerprint import identify
    from multi_abnormality.training.resume import Found

    package = Path(multi_abnormality.__file__).parent
    try:
        processed = ProcessedSet(house.root / "processed")
        findings, content = processed.findings, processed.content_hash("train")
    except InputError:  # preprocess makes it
        findings, content = params.data.names, ""
        for path in sorted((house.root / CHECKPOINTS).glob("*.ckpt")):
            try:
                content = Found.read(path).content["about"]["identity"]["processed"]
            except InputError:  # training tells of it
                continue
    return identify(params, findings, content, package)
