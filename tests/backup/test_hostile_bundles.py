"""Hostile bundles on a remote: nothing of them is written or run."""

import hashlib
import logging
import shutil
from pathlib import Path

import pytest
import yaml

import bundles
from machines import FINGERPRINT, LONG, Machine, git
from multi_abnormality.tools import resume as command
from multi_abnormality.utils.errors import InputError

RUN = f"main/{FINGERPRINT}"


@pytest.fixture(scope="module")
def attacked(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a clone, a remote with one honest state, and an attacker's clone."""
    folder = tmp_path_factory.mktemp("attacked")
    victim = Machine(Path(shutil.copytree(published / "first", folder / "attacker", symlinks=True)))
    remote = folder / "remote"
    remote.mkdir()
    victim.use(remote)
    backup = victim.backup()
    backup.start()
    victim.save("honest")
    backup.saved(3)
    backup.close(LONG)
    git(folder, "clone", "--quiet", str(published / "origin.git"), "victim")
    Machine(folder / "victim").use(remote)
    return folder


@pytest.fixture(scope="module")
def honest(attacked: Path) -> str:
    return git(attacked / "attacker", "rev-parse", f"refs/resume/{RUN}")


class Victim:
    """Copy of the clone and its remote, whose newest bundle is forged."""

    def __init__(self, attacked: Path, folder: Path) -> None:
        shutil.copytree(attacked / "remote", folder / "remote")
        shutil.copytree(attacked / "victim", folder / "victim", symlinks=True)
        self.top, self.folder, self.remote = folder, folder / "victim", folder / "remote"
        config = self.folder / ".dvc/config.local"
        text = config.read_text().replace(str(attacked / "remote"), str(self.remote))
        config.write_text(text)
        self.forged = self.remote / "resume" / RUN / f"{bundles.TIME:012d}-{'f' * 12}.bundle"

    def files(self) -> dict[str, str]:
        """Return all files and links with their content, without internal files of Git and DVC."""
        own = {".git/index", ".git/objects", ".git/refs/resume", ".dvc/cache", ".dvc/tmp"}
        found = {}
        for path in self.top.rglob("*"):
            name = path.relative_to(self.top).as_posix()
            if any(name.startswith(f"victim/{part}") for part in own):
                continue
            if path.is_symlink():
                found[name] = f"link to {path.readlink()}"
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@pytest.fixture
def victim(attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    found = Victim(attacked, tmp_path / "here")
    monkeypatch.chdir(found.folder)
    return found


# Changed by restoring an honest state, and by setting `verify`.
EXPECTED = {"victim/dvc.lock", "victim/.dvc/config.local"}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def objects(victim: Victim) -> str:
    return git(victim.folder, "for-each-ref", "--format=%(refname)")


@pytest.mark.parametrize("name", bundles.REFUSED)
def test_hostile_bundle_is_skipped(
    attacked: Path, honest: str, victim: Victim, name: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    bundles.forge(attacked / "attacker", honest, bundles.REFUSED[name], victim.forged)
    before = victim.files()
    state = command.resume(Path())
    assert state is not None
    assert state.commit == honest
    assert "is skipped" in caplog.text
    assert changed(before, victim.files()) == EXPECTED
    assert "\x1b" not in caplog.text
    assert objects(victim).split() == [
        "refs/heads/main", "refs/remotes/origin/HEAD", "refs/remotes/origin/main",
        f"refs/resume/{RUN}",
    ]  # fmt: skip


@pytest.mark.parametrize("name", bundles.REDUCED)
def test_machine_specific_files_are_not_restored(
    attacked: Path, honest: str, victim: Victim, name: str
):
    bundles.forge(attacked / "attacker", honest, bundles.REDUCED[name], victim.forged)
    before = victim.files()
    state = command.resume(Path())
    assert state is not None
    assert state.time == bundles.TIME
    assert changed(before, victim.files()) == EXPECTED


@pytest.mark.parametrize("name", bundles.CODE)
def test_code_changes_need_a_flag(attacked: Path, honest: str, victim: Victim, name: str):
    bundles.forge(attacked / "attacker", honest, bundles.CODE[name], victim.forged)
    before = victim.files()
    with pytest.raises(InputError, match=r"has other code than this clone(?s:.*)--allow-code-ch"):
        command.resume(Path())
    assert not changed(before, victim.files())
    command.resume(Path(), allow_code_changes=True)
    assert changed(before, victim.files()) == EXPECTED | {f"victim/{name}"}


def test_folder_list_cannot_write_outside(attacked: Path, honest: str, victim: Victim):
    """DVC writes a folder's files to any path in its list."""
    path = victim.remote / "files/md5"
    content = b'[{"md5": "%s", "relpath": "../../.git/hooks/post-checkout"}]' % (b"0" * 32)
    name = hashlib.md5(content).hexdigest()
    (path / name[:2]).mkdir(exist_ok=True)
    (path / name[:2] / f"{name[2:]}.dir").write_bytes(content)

    def alter(forgery: bundles.Forgery) -> None:
        for out in forgery.lock["stages"]["train"]["outs"]:
            out["md5"] = f"{name}.dir"
        forgery.files["dvc.lock"] = yaml.safe_dump(forgery.lock).encode()

    bundles.forge(attacked / "attacker", honest, alter, victim.forged)
    before = victim.files()
    state = command.resume(Path())
    assert state is not None
    assert state.commit == honest
    assert changed(before, victim.files()) == EXPECTED
    assert not list((victim.folder / ".dvc/cache").rglob(f"{name[2:]}*"))


def test_only_hostile_bundles_is_an_error(attacked: Path, honest: str, victim: Victim):
    for bundle in victim.remote.rglob("*.bundle"):
        bundle.unlink()
    alter = bundles.REFUSED["a hook of Git"]
    bundles.forge(attacked / "attacker", honest, alter, victim.forged)
    with pytest.raises(InputError, match="none of the resume states"):
        command.resume(Path())
