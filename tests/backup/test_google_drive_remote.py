"""Google Drive as a DVC remote: real `dvc` and its real Drive client, against the stand-in."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.config_schema import REMOTE_SCHEMAS

from drive_stand_in import (
    DRIVE_CALLS,
    SERVICE,
    USER,
    DriveProcess,
    DriveStandIn,
    Faults,
    remote_options,
)
from drive_stand_in.accounts import FOLDER_TITLE
from drive_stand_in.contents import MY_DRIVE, SHARED_DRIVE
from drive_stand_in.project import FILES, Project, make_project
from drive_stand_in.query import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriveStandIn]:
    """Pages of three, so that every list is a list of several pages."""
    with DriveStandIn(tmp_path_factory.mktemp("drive"), page_size=3) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, drive: DriveStandIn) -> Path:
    return make_project(tmp_path_factory.mktemp("template") / "project", drive).folder


@pytest.fixture
def project(tmp_path: Path, template: Path, drive: DriveStandIn) -> Iterator[Project]:
    """Logged in as the user, whose My Drive has an empty folder of the test's name."""
    folder = tmp_path / "Projekt mit Größe"
    shutil.copytree(template, folder, symlinks=True)
    drive.contents.add(tmp_path.name, MY_DRIVE)
    project = Project(folder, drive)
    project.log_in(remote_options(tmp_path, USER, tmp_path.name))
    yield project
    drive.set_faults(Faults())


def arrived(project: Project, drive: DriveStandIn) -> bool:
    """Whether all of a project's data is in its folder on Drive, byte for byte."""
    top = f"{project.folder.parent.name}/"
    stored = {item.md5 for path, item in drive.contents.files().items() if path.startswith(top)}
    return set(project.hashes().values()) <= stored


def failed(drive: DriveStandIn) -> int:
    return sum(drive.counts()["faults"].values())


@pytest.mark.slow
def test_push_and_pull_into_a_fresh_clone(project: Project, drive: DriveStandIn):
    assert f"{FILES + 2} files pushed" in project.run("dvc", "push")
    uploads = drive.counts()["calls"]["upload"]
    assert "Everything is up to date" in project.run("dvc", "push")
    assert drive.counts()["calls"]["upload"] == uploads
    clone = project.clone()
    clone.run("dvc", "pull")
    assert clone.hashes() == project.hashes()
    assert clone.run("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_service_account_keeps_things_in_a_shared_drive(tmp_path: Path, drive: DriveStandIn):
    backup = drive.contents.add("Backup", SHARED_DRIVE)
    project = make_project(tmp_path / "Projekt", drive, files=60)  # enough for a very long query
    project.log_in(remote_options(tmp_path, SERVICE) | {"url": f"gdrive://{backup.id}"})
    project.run("dvc", "push")
    assert "in sync" in project.run("dvc", "status", "--cloud")
    clone = project.clone()
    clone.run("dvc", "pull")
    assert clone.hashes() == project.hashes()


@pytest.mark.slow
def test_a_file_of_several_pieces(project: Project, drive: DriveStandIn):
    """The client sends and fetches 100 MB at a time."""
    large = project.folder / "data/empty"
    with large.open("r+b") as file:
        file.truncate(201 * 2**20)
    project.run("dvc", "add", "--quiet", "data")
    project.run("git", "commit", "--quiet", "--all", "--message", "Larger")
    project.run("dvc", "push")
    assert arrived(project, drive)
    clone = project.clone()
    clone.run("dvc", "pull")
    assert clone.hashes() == project.hashes()


@pytest.mark.slow
def test_a_service_account_has_no_storage_of_its_own(tmp_path: Path, project: Project):
    options = remote_options(tmp_path, SERVICE)
    project.log_in(options | {"url": f"gdrive://root/{tmp_path.name}"})
    assert "Service Accounts do not have storage quota" in project.run("dvc", "push", ok=False)


@pytest.mark.slow
def test_errors_that_pass_are_outlasted(project: Project, drive: DriveStandIn):
    kinds = ("rate_limit", "user_rate_limit", "server_error")
    before = failed(drive)
    drive.set_faults(Faults(kinds, share=0.3, only=DRIVE_CALLS, first=4))
    project.run("dvc", "push")
    assert failed(drive) - before == 4
    assert arrived(project, drive)


def test_a_login_that_fails_is_not_repeated_by_itself(project: Project, drive: DriveStandIn):
    drive.set_faults(Faults(("server_error",), only=("token",), first=1))
    assert "Failed to authenticate GDrive" in project.run("dvc", "push", ok=False)
    project.run("dvc", "push")
    assert arrived(project, drive)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rate_limit", "user_rate_limit", "server_error", "unavailable"])
def test_one_request_in_five_fails(project: Project, drive: DriveStandIn, kind: str):
    before = failed(drive)
    drive.set_faults(Faults((kind,), share=0.2, only=DRIVE_CALLS))
    project.run("dvc", "push")
    assert failed(drive) - before >= 5
    assert arrived(project, drive)
    clone = project.clone()
    clone.run("dvc", "pull")
    assert clone.hashes() == project.hashes()


def test_slow_answers_only_take_time(project: Project, drive: DriveStandIn):
    drive.set_faults(Faults(("slow",), only=("upload",), seconds=0.3))
    project.run("dvc", "push")
    assert arrived(project, drive)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("quota_full", "storage quota has been exceeded"),
        ("unauthorized", "Invalid Credentials"),
        ("revoked", "Token has been expired or revoked"),
    ],
)
def test_permanent_errors_are_reported(
    project: Project, drive: DriveStandIn, kind: str, message: str
):
    drive.set_faults(Faults((kind,)))
    assert message in project.run("dvc", "push", ok=False)
    assert not arrived(project, drive)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "cut_answer", "bad_gateway", "too_many_requests"])
def test_a_second_push_completes_a_failed_one(project: Project, drive: DriveStandIn, kind: str):
    drive.set_faults(Faults((kind,), only=("upload",)))
    project.run("dvc", "push", ok=False)
    drive.set_faults(Faults())
    project.run("dvc", "push")
    assert arrived(project, drive)
    clone = project.clone()
    clone.run("dvc", "pull")
    assert clone.hashes() == project.hashes()


def test_a_missing_folder_is_named(tmp_path: Path, project: Project):
    project.log_in(remote_options(tmp_path, USER, "Not created"))
    output = project.run("dvc", "push", ok=False)
    assert "Confirm root/Not created exists and you can access it" in output


def test_a_login_in_an_environment_variable_is_enough(project: Project, drive: DriveStandIn):
    """The project's own remote as it is in Git, on a machine that has no browser."""
    options = remote_options(project.folder.parent, USER)
    credentials = Path(options["gdrive_user_credentials_file"]).read_text()
    (project.folder / ".dvc/config.local").unlink()
    shutil.copy(ROOT / ".dvc/config", project.folder / ".dvc/config")
    project.extra_environment = {"GDRIVE_CREDENTIALS_DATA": credentials}
    drive.contents.add(FOLDER_TITLE, MY_DRIVE)
    project.run("dvc", "push", "--remote", "gdrive")
    assert f"{FOLDER_TITLE}/files/md5" in " ".join(drive.contents.files())


def test_a_mounted_drive_holds_the_same_files(project: Project, drive: DriveStandIn):
    project.run("dvc", "push")
    top = f"{project.folder.parent.name}/"
    mounted = project.folder.parent / "mounted"
    project.run("dvc", "remote", "add", "mounted", "../mounted")
    project.run("dvc", "push", "--remote", "mounted")
    assert {f"{top}{path.relative_to(mounted)}" for path in mounted.rglob("*/*/*/*")} == {
        path for path in drive.contents.files() if path.startswith(top)
    }


def test_the_remote_of_the_project_is_no_default_and_holds_no_secret():
    config = (ROOT / ".dvc/config").read_text()
    assert "url = gdrive://root/VLM3D_Task2_Backup" in config
    assert "remote = " not in config
    assert not [word for word in ("client", "secret", "credentials", "json") if word in config]


@pytest.mark.slow
def test_a_stand_in_process_accepts_faults_while_it_runs(tmp_path: Path):
    with DriveProcess(tmp_path / "drive") as process:
        project = make_project(tmp_path / "Projekt", process, files=1)
        project.log_in(remote_options(tmp_path, USER))
        process.set_faults(Faults(("quota_full",), only=("upload_start",)))
        project.run("dvc", "push", ok=False)
        assert process.counts()["faults"] == {"quota_full": 2}
        process.set_faults(Faults())
        project.run("dvc", "push")
        assert process.counts()["calls"]["upload"] == 3


def test_the_guide_names_options_that_dvc_has():
    guide = (ROOT / "docs/how-to/google-drive.md").read_text()
    named = set(re.findall(r"dvc remote modify (?:--local )?\S+ (\w+)", guide))
    assert len(named) > 4
    assert named <= {str(option) for option in REMOTE_SCHEMAS["gdrive"]}


def test_queries_are_read_or_refused():
    query = parse("('a' in parents or 'b' in parents) and trashed=false")
    assert query == (("a", "b"), None, False)
    query = parse(r"trashed=false and ('a' in parents) and title='it\'s \'x\' in parents'")
    assert query == (("a",), "it's 'x' in parents", False)
    for text in ("trashed=false", "'a' in parents and starred=true", "'a' in owners"):
        with pytest.raises(ValueError, match="Invalid query"):
            parse(text)
