"""The checkpoint that a training would go on from."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen

if TYPE_CHECKING:
    from multi_abnormality.training.resume import Found


def look_at_checkpoint(house: House) -> Iterator[Seen]:
    """The furthest whole one, and whether it is of the training that params.yaml describes."""
    from multi_abnormality.errors import InputError
    from multi_abnormality.training.resume import Found

    whole = []
    for path in sorted((house.root / "checkpoints").glob("*.ckpt")):
        try:
            whole.append(Found.read(path))
        except InputError as error:
            yield Seen(DOUBT, "checkpoint", f"{error}; training passes it over")
    if whole:
        yield _judge(max(whole, key=lambda found: found.progress), house)
    elif house.params and house.params.train.resume == "must":
        yield Seen(FAULT, "checkpoint", "none, and train.resume is `must`",
                   "dvc pull --allow-missing checkpoints, or set train.resume to auto")  # fmt: skip
    else:
        yield Seen(WELL, "checkpoint", "none: training starts at epoch 0")


def _judge(found: "Found", house: House) -> Seen:
    path, at = found.path.relative_to(house.root), found.position
    if changes := _changes(found, house):
        lines = "".join(f"\n  - {line}" for line in changes)
        return Seen(DOUBT, "checkpoint", f"{path} is of another training, which would be put aside "
                    f"and this one start anew. What differs:{lines}",
                    "git diff; git checkout params.yaml")  # fmt: skip
    if found.content["complete"]:
        return Seen(WELL, "checkpoint", f"{path} is of a finished training")
    return Seen(WELL, "checkpoint", f"{path}: training goes on at epoch {at.epoch}, step "
                f"{at.batch}", "dvc repro")  # fmt: skip


def _changes(found: "Found", house: House) -> list[str]:
    """What determines the result and is another now; nothing where that can't be told."""
    import multi_abnormality
    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.errors import InputError
    from multi_abnormality.training.debug import settle
    from multi_abnormality.training.identity import differences, identify

    if house.params is None:
        return []
    old = found.content["about"]["identity"]
    try:
        processed = ProcessedSet(house.root / "processed")
        findings, content = processed.findings, processed.content_hash("train")
    except InputError:  # preprocess tells what is wrong with it
        findings, content = found.content["about"]["findings"], old["processed"]
    package = Path(multi_abnormality.__file__).parent
    new = identify(settle(house.params), findings, content, package)
    if house.params.machine.accept_changed_code:
        new |= {"code": old["code"]}
    return differences(old, new)
