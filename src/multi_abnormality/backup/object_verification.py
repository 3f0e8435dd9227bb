"""Verification of pulled DVC objects against the hashes in their names.

DVC does not verify objects from folders, web servers and buckets unless the remote's `verify` is
set. Damaged or altered objects are then linked into the work tree, and later replace intact files.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.backup.dvc_remote import digest_of
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, first_few

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

MAX_BYTES_CHECKED = 20e9  # about a minute from a disk
DAMAGED_DIR = ".dvc/tmp/damaged"
_VERIFIED_SCHEMES = ("gdrive://", "oss://")  # DVC verifies these by default


def remotes_to_verify(root: Path) -> list[str]:
    """Return the names of the remotes that DVC pulls from without verification.

    Remotes with an explicit `verify` setting, true or false, are excluded.
    """
    from dvc.config import Config, ConfigError

    try:
        remotes = Config(str(root / ".dvc"), validate=False)["remote"]  # without defaults
    except ConfigError:
        return []  # DVC reports the error
    return [
        name for name, known in remotes.items()
        if "verify" not in known and not str(known.get("url", "gdrive://")).startswith(_VERIFIED_SCHEMES)
    ]  # fmt: skip


def set_verify(root: Path, names: list[str]) -> None:
    """Set `verify` of remotes in .dvc/config.local, which Git does not track."""
    from dvc.config import Config, ConfigError

    if not names:
        return
    try:
        with Config(str(root / ".dvc"), validate=False).edit("local", validate=False) as local:
            for name in names:
                local.setdefault("remote", {}).setdefault(name, {})["verify"] = "true"
    except (ConfigError, OSError) as error:
        log.warning("the DVC remotes' `verify` could not be set: %s", error)
        return
    log.info(
        "set `verify = true` in .dvc/config.local, so that DVC verifies what it pulls from %s",
        ", ".join(map(repr, names)),
    )


def verify_pulled(root: Path) -> None:
    """Verify objects that DVC may have pulled unverified, and set `verify` for later pulls.

    Objects of the pipeline's outputs whose content does not match their name are moved from DVC's
    cache to `DAMAGED_DIR`, and so are their copies in the work tree: a file may be linked to the
    cache, and its change may be a user's edit.

    Raises:
        InputError: objects were damaged. The message names the files and how to fetch them again.
    """
    names = remotes_to_verify(root)
    if not names:
        return
    from multi_abnormality.backup.dvc_recorder import open_repository

    repo = open_repository(root)
    if repo is None:
        return
    damaged = sorted(_move_damaged(repo))
    set_verify(Path(repo.root_dir), names)
    if damaged:
        raise InputError(
            f"damaged or changed since they were made: {first_few(damaged)}. They were "
            f"moved to {DAMAGED_DIR}/. `dvc pull --allow-missing` fetches and verifies them; if "
            "the copy on the remote is damaged, too, `dvc repro` makes them again"
        )


def _move_damaged(repo: "Repo") -> set[str]:
    """Move damaged objects out of the cache and return their paths in the project."""
    cache, bytes_left = repo.cache.local, MAX_BYTES_CHECKED
    damaged: set[str] = set()
    digests: dict[str, str] = {}
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info.value:
            continue
        for path, hash_ in _objects(repo, out):
            file = Path(cache.oid_to_path(hash_))
            if hash_ not in digests:
                try:
                    bytes_left -= file.stat().st_size
                except FileNotFoundError:
                    continue
                if bytes_left < 0:
                    limit = MAX_BYTES_CHECKED / 1e9
                    log.warning("only the first %.0f GB of DVC's cache were verified", limit)
                    return damaged
                digests[hash_] = digest_of(file)
                if digests[hash_] != hash_[:32]:
                    _move(file, Path(repo.root_dir) / DAMAGED_DIR / hash_)
            if digests[hash_] != hash_[:32]:
                damaged.add(path)
                work_file = Path(repo.root_dir) / path
                if work_file.is_symlink() and not work_file.exists():  # its target was the object
                    work_file.unlink()
                elif work_file.is_file() and digest_of(work_file) == digests[hash_]:
                    _move(work_file, Path(repo.root_dir) / DAMAGED_DIR / path)
    return damaged


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, target)  # the cache may be on another disk


def _objects(repo: "Repo", out: "Output") -> Iterator[tuple[str, str]]:
    """Yield the path and hash of an output and, for a folder, of each of its files."""
    top, value = out.def_path, str(out.hash_info.value)
    yield top, value
    listed = Path(repo.cache.local.oid_to_path(value))
    if out.hash_info.isdir and listed.exists() and digest_of(listed) == value[:32]:
        for key, _, info in out.get_obj() or ():
            yield "/".join((top, *key)), str(info.value)
