"""Objects on a remote that is full, damaged or missing."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dvc_data.index import collect

from machines import Machine
from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.backup.dvc_remote import Remote, RemoteError

SIZE = 3 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A 4 MB disk. Mounting it requires root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a disk requires root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def opened(first: Machine, remote: Path) -> Iterator[Remote]:
    first.use(remote)
    repo = open_repository(first.folder)
    with closing(repo), closing(Remote(repo, "backup")) as found:
        yield found


def push(remote: Remote, *contents: bytes) -> int:
    """Track files with these contents, and push those that the remote lacks."""
    paths = [Path(remote.repo.root_dir) / f"file {number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    remote.repo.add([str(path) for path in paths])
    hashes = {hashlib.md5(content).hexdigest() for content in contents}
    return remote.push(None, [path.name for path in paths], remote.missing_objects(hashes))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


def test_push_that_does_not_fit_uploads_nothing(first: Machine, small_disk: Path):
    first.use(small_disk / "backup")
    (small_disk / "backup").mkdir()
    repo = open_repository(first.folder)
    message = "6 MB to upload, but only 4 MB free"
    with (
        closing(repo), closing(Remote(repo, "backup")) as remote,
        pytest.raises(RemoteError, match=message),
    ):  # fmt: skip
        push(remote, *(bytes([n]) * SIZE for n in range(2)))
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_failed_uploads_leave_no_files(
    first: Machine, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    """A mounted Drive's quota is unknown to the system; each retry would leave more files."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
    first.use(small_disk / "backup")
    (small_disk / "backup").mkdir()
    repo = open_repository(first.folder)
    with closing(repo), closing(Remote(repo, "backup")) as remote:
        for _ in range(3):
            with pytest.raises(RemoteError, match="No space left"):
                push(remote, *(bytes([n]) * SIZE for n in range(2)))
            assert not leftovers(small_disk)


def test_missing_folder_is_an_error(opened: Remote, remote: Path):
    """Not "no backup": the disk may just not be mounted."""
    shutil.rmtree(remote)
    with pytest.raises(RemoteError, match="is its disk mounted"):
        opened.bundles("main")


def test_damaged_objects_are_not_fetched(opened: Remote):
    assert push(opened, b"sound", b"damaged") == len(b"sound") + len(b"damaged")
    sound, damaged = (hashlib.md5(content).hexdigest() for content in (b"sound", b"damaged"))
    path = Path(opened.odb.oid_to_path(damaged))
    path.chmod(0o644)
    path.write_bytes(b"Damaged")
    path.chmod(0o444)
    for name in (sound, damaged):
        opened.cache.delete(name)
    error_texts = opened.fetch([sound, damaged, "0" * 32])
    assert opened.cache.exists(sound)
    assert not opened.cache.exists(damaged)
    assert "is damaged on the remote" in error_texts[damaged]
    assert error_texts["0" * 32] == "is not on the remote"
    assert opened.remove_damaged([sound, damaged], "0" * 32)
    assert not path.exists()
    assert Path(opened.odb.oid_to_path(sound)).exists()
    assert push(opened, b"sound", b"damaged") == len(b"damaged")
    assert path.read_bytes() == b"damaged"


def test_push_after_a_killed_one_uploads_everything(
    opened: Remote, monkeypatch: pytest.MonkeyPatch
):
    """DVC keeps the list of what to push, also one that a kill has cut short."""
    collect_output = collect._collect_from_index

    def kill_at_second_output(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(collect, "_collect_from_index", killed)
        collect_output(*arguments, **options)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "_collect_from_index", kill_at_second_output)
    with pytest.raises(KeyboardInterrupt):
        push(opened, b"one", b"two")
    monkeypatch.undo()
    assert push(opened, b"one", b"two") == len(b"one") + len(b"two")
    hashes = {hashlib.md5(content).hexdigest() for content in (b"one", b"two")}
    assert opened.missing_objects(hashes) == set()


def test_objects_that_are_nowhere_are_an_error(opened: Remote):
    """`dvc push` only warns."""
    push(opened, b"lost")
    name = hashlib.md5(b"lost").hexdigest()
    opened.cache.delete(name)
    opened.delete([name])
    with pytest.raises(RemoteError, match="1 object is neither in the cache nor on the remote"):
        opened.push(None, ["file 0"], opened.missing_objects([name]))


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_only_regular_files_are_read(opened: Remote, remote: Path, kind: str):
    """Reading a pipe blocks, and reading a device never ends."""
    name, bundle = "0" * 32, remote / "resume/main/0123456789abcdef/1.bundle"
    bundle.parent.mkdir(parents=True)
    for path in (Path(opened.odb.oid_to_path(name)), bundle):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    assert opened.fetch([name]) == {name: "is not a regular file on the remote"}
    for found in opened.bundles("main"):
        with pytest.raises(RemoteError, match="not a regular file"):
            opened.get_bundle(found, remote / "copy")


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"{}",
        b"[1]",
        b"[" * 100_000,
        b'[{"relpath": "../x", "md5": "00000000000000000000000000000000"}]',
        b'[{"relpath": "/x", "md5": "00000000000000000000000000000000"}]',
        b'[{"relpath": "a/../../x", "md5": "00000000000000000000000000000000"}]',
        b'[{"relpath": "..\\\\x", "md5": "00000000000000000000000000000000"}]',
        b'[{"relpath": ".git/config", "md5": "00000000000000000000000000000000"}]',
        b'[{"relpath": "x", "md5": "../../x"}]',
        b'[{"relpath": 1, "md5": "00000000000000000000000000000000"}]',
    ],
    ids=repr,
)
def test_folder_lists_with_paths_outside_are_deleted(opened: Remote, content: bytes):
    name = f"{hashlib.md5(content).hexdigest()}.dir"
    path = Path(opened.cache.oid_to_path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert name in opened.unsafe_folders([name])
    assert not path.exists()
