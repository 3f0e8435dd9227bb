"""Backup to Google Drive, and restore from it alone."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drive_stand_in import DRIVE_CALLS, USER, DriveProcess, Faults, remote_options
from machines import LONG, Machine
from multi_abnormality.utils.errors import InputError

RESUME = ("python", "-m", "multi_abnormality", "resume")


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DriveProcess]:
    (tmp_path / "drive").mkdir()
    with DriveProcess(tmp_path / "drive") as drive:
        for name, value in drive.environment().items():
            monkeypatch.setenv(name, value)
        yield drive


@pytest.mark.slow
def test_restore_from_drive_with_failing_requests(
    first: Machine, second: Machine, drive: DriveProcess, tmp_path: Path
):
    options = remote_options(tmp_path / "drive", USER)
    first.log_in(options)
    drive.set_faults(Faults(("rate_limit", "server_error"), share=0.2, only=DRIVE_CALLS))
    backup = first.backup()
    backup.start()
    for epoch, content in enumerate(("one", "two", "three"), start=1):
        first.save(content)
        backup.saved(epoch)
    backup.close(LONG)
    assert first.epochs_backed_up() == 3
    shutil.rmtree(first.folder)
    second.log_in(options)
    assert "epochs done 3" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert (second.folder / "checkpoints/last.ckpt").read_text() == "three"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [("quota_full", "quota has been exceeded"), ("revoked", "expired or revoked")],
)
def test_unwritable_drive_is_an_error_at_the_start(
    fault: str, message: str, first: Machine, drive: DriveProcess, tmp_path: Path
):
    first.log_in(remote_options(tmp_path / "drive", USER))
    drive.set_faults(Faults((fault,)))
    with pytest.raises(InputError, match=message):
        first.backup().start()


@pytest.mark.slow
def test_drive_that_fails_later_is_logged_and_training_continues(
    first: Machine, drive: DriveProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first.log_in(remote_options(tmp_path / "drive", USER))
    backup = first.backup()
    backup.start()
    drive.set_faults(Faults(("quota_full",)))
    first.save("one")
    backup.saved(1)
    end = time.monotonic() + LONG
    while "quota has been exceeded" not in caplog.text:
        assert time.monotonic() < end
        backup.poll()
        time.sleep(0.05)
    backup.close(1)
    assert "machine still has it" in caplog.text
