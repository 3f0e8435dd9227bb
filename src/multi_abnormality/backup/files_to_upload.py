"""What a backup uploads: DVC objects of the train stage, and files in the resume commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage


@dataclass(frozen=True)
class Inputs:
    """The stage's dependencies that a restore needs and Git does not track."""

    paths: tuple[str, ...]  # those in DVC's cache
    objects: tuple[str, ...]  # hashes of their objects
    missing: tuple[str, ...]  # paths of those that are not in DVC's cache


def uploaded_outputs(stage: "Stage") -> list["Output"]:
    """Return the outputs of a stage that every backup uploads: those that persist."""
    return [out for out in stage.outs if out.persist and out.use_cache]


def uploaded_inputs(repo: "Repo", deps: Sequence["Output"]) -> Inputs:
    """Return those dependencies of a stage that a restore needs; the first backup uploads them."""
    cached = [dep for dep in deps if _is_cached(repo, dep)]
    return Inputs(
        paths=tuple(dep.def_path for dep in cached if _is_output(repo, dep)),
        objects=tuple(hash_ for dep in cached for hash_ in hashes_of(dep)),
        missing=tuple(
            dep.def_path for dep in deps
            if dep not in cached and dep.is_in_repo and _is_ignored(repo, dep)
        ),
    )  # fmt: skip


def committed_files(repo: "Repo") -> list[Path]:
    """Return the results that a resume commit contains: dvc.lock, and outputs tracked by Git."""
    from dvc.exceptions import DvcException

    try:
        outs = [Path(out.fs_path) for out in repo.index.outs if not out.use_cache]
    except DvcException as error:
        raise InputError(f"the pipeline can't be read: {error}; `git diff` may show why") from error
    return [Path(repo.root_dir) / "dvc.lock", *outs]


def hashes_of(item: "Output") -> tuple[str, ...]:
    """Return the hashes of an item's object and, for a folder, of its files."""
    files = item.get_obj() if item.hash_info.isdir else None
    return (item.hash_info.value, *sorted({hash_.value for _, _, hash_ in files or ()}))


def _is_output(repo: "Repo", dep: "Output") -> bool:
    """Whether DVC tracks a file, or a folder that contains it."""
    from dvc.exceptions import OutputNotFoundError

    try:
        return bool(repo.find_outs_by_path(dep.fs_path, strict=False))
    except OutputNotFoundError:
        return False


def _is_ignored(repo: "Repo", item: "Output") -> bool:
    from dvc.scm import NoSCM

    return not isinstance(repo.scm, NoSCM) and repo.scm.is_ignored(item.fs_path)


def _is_cached(repo: "Repo", item: "Output") -> bool:
    cache, value = repo.cache.local, item.hash_info.value
    if not value or not cache.exists(value):
        return False
    return all(cache.exists(hash_) for hash_ in hashes_of(item))
