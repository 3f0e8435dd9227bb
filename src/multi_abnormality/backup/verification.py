"""Verification of what DVC pulled: an object's content must be what its name says.

DVC trusts a remote that is a folder, a web server or a bucket unless the remote's `verify` is set.
Then a damaged or altered object is linked into the work tree, and later over sound files.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.backup.remote import digest_of
from multi_abnormality.console import log
from multi_abnormality.errors import InputError, first_few

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

BUDGET = 20e9  # bytes that are read once; a minute from a disk
DAMAGED = ".dvc/tmp/damaged"
_VERIFYING = ("gdrive://", "oss://")  # DVC's default for these


def remotes_to_verify(root: Path) -> list[str]:
    """Return the names of the remotes that DVC pulls from unverified, in DVC's order of files.

    One whose `verify` was set, to true or to false, is none of them.
    """
    from configobj import ConfigObj, ConfigObjError
    from dvc.dirs import global_config_dir, system_config_dir

    options: dict[str, dict[str, Any]] = {}
    everywhere = (Path(system_config_dir()) / "config", Path(global_config_dir()) / "config")
    for file in (*everywhere, root / ".dvc/config", root / ".dvc/config.local"):
        if not file.is_file():
            continue
        try:
            content = ConfigObj(str(file), encoding="utf-8", interpolation=False)
        except (ConfigObjError, UnicodeDecodeError):
            return []  # DVC names the fault
        for section in content.sections:
            kind, _, remote = section.strip("'").partition(" ")
            if kind == "remote":
                options.setdefault(remote.strip('"'), {}).update(content[section])
    return [
        name for name, known in options.items()
        if "verify" not in known and not str(known.get("url", "gdrive://")).startswith(_VERIFYING)
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
        "DVC checks from now on what it pulls from %s: set `verify = true` in .dvc/config.local",
        ", ".join(map(repr, names)),
    )


def verify_pulled(root: Path) -> None:
    """Check once what may have been pulled unverified; from then on DVC checks it by itself.

    Objects of the pipeline's outputs in DVC's cache whose content does not match their name are
    moved to `DAMAGED`, and so are their copies in the work tree: a file may be linked to the cache,
    and the change may be a person's.

    Args:
        root: the project's folder.

    Raises:
        InputError: some were damaged. The message names the files and how to fetch them again.
    """
    names = remotes_to_verify(root)
    if not names:
        return
    from multi_abnormality.backup.record import open_repository

    repo = open_repository(root)
    if repo is None:
        return
    damaged = sorted(_move_damaged(repo))
    set_verify(Path(repo.root_dir), names)
    if damaged:
        raise InputError(
            f"damaged or changed since they were made: {first_few(damaged)}. What was there is "
            f"now in {DAMAGED}/. `dvc pull --allow-missing` fetches them again, and checks them "
            "now; if the remote's own copy is damaged, `dvc repro` makes them again"
        )


def _move_damaged(repo: "Repo") -> set[str]:
    """Return the paths, from the project's folder, whose object in the cache was damaged."""
    cache, left = repo.cache.local, BUDGET
    damaged: set[str] = set()
    digests: dict[str, str] = {}
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info.value:
            continue
        for path, hash_ in _objects(repo, out):
            file = Path(cache.oid_to_path(hash_))
            if hash_ not in digests:
                try:
                    left -= file.stat().st_size
                except FileNotFoundError:
                    continue
                if left < 0:
                    log.warning("only the first %.0f GB of DVC's cache were checked", BUDGET / 1e9)
                    return damaged
                digests[hash_] = digest_of(file)
                if digests[hash_] != hash_[:32]:
                    _put_aside(file, Path(repo.root_dir) / DAMAGED / hash_)
            if digests[hash_] != hash_[:32]:
                damaged.add(path)
                copy = Path(repo.root_dir) / path
                if copy.is_symlink() and not copy.exists():  # it led to the object
                    copy.unlink()
                elif copy.is_file() and digest_of(copy) == digests[hash_]:
                    _put_aside(copy, Path(repo.root_dir) / DAMAGED / path)
    return damaged


def _put_aside(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, place)  # the cache may be on another disk


def _objects(repo: "Repo", out: "Output") -> Iterator[tuple[str, str]]:
    """Yield the path and the hash of an output, and of each of its files if it is a folder."""
    top, value = out.def_path, str(out.hash_info.value)
    yield top, value
    listed = Path(repo.cache.local.oid_to_path(value))
    if out.hash_info.isdir and listed.exists() and digest_of(listed) == value[:32]:
        for key, _, info in out.get_obj() or ():
            yield "/".join((top, *key)), str(info.value)
