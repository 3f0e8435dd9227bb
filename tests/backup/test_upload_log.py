"""Upload log, also if its file is damaged."""

import json
from pathlib import Path

import pytest

from multi_abnormality.backup.resume_commit import Generation
from multi_abnormality.backup.upload_log import MAX_BACKUPS, UploadLog

RUN = "main/0123456789abcdef"
A, B, C = (letter * 32 for letter in "abc")


@pytest.fixture
def upload_log(tmp_path: Path) -> UploadLog:
    return UploadLog(tmp_path / "backup.json")


def test_generations_persist(upload_log: UploadLog):
    first = Generation(epochs=1, objects=(A, B), own=(B,))
    second = Generation(epochs=2, objects=(B, C), own=(C,))
    upload_log.set_generations(RUN, [first, second])
    upload_log.update_newest(RUN, uploaded=(C,), remote="0123", sent=True)
    again = UploadLog(upload_log.path)
    earlier, newest = again.generations(RUN)
    assert earlier == first
    assert (newest.uploaded, newest.remote, newest.sent) == ((C,), "0123", True)
    assert again.generations("main/another") == []


def test_list_of_backups_is_bounded(upload_log: UploadLog):
    assert upload_log.last_backup(RUN, "disk") is None
    for epochs in range(MAX_BACKUPS + 5):
        upload_log.add_backup({"run": RUN, "remote": "disk", "epochs": epochs})
    assert len(upload_log._read()["backups"]) == MAX_BACKUPS
    assert upload_log.last_backup(RUN, "disk")["epochs"] == MAX_BACKUPS + 4
    assert upload_log.last_backup(RUN, "another disk") is None
    assert upload_log.last_backup("main/another", "disk") is None


def test_damaged_file_is_replaced_with_a_warning(
    upload_log: UploadLog, caplog: pytest.LogCaptureFixture
):
    upload_log.path.write_text('{"backups": [')
    upload_log.add_backup({"run": RUN, "remote": "disk", "epochs": 1})
    assert f"{upload_log.path}: can't be read" in caplog.text
    assert "starting a new one" in caplog.text
    assert upload_log.last_backup(RUN, "disk")["epochs"] == 1


@pytest.mark.parametrize("hash_", ["../../../etc/passwd", "a" * 31, 7])
def test_malformed_run_is_dropped_with_a_warning(
    upload_log: UploadLog, caplog: pytest.LogCaptureFixture, hash_: object
):
    """Its hashes become paths of files to delete."""
    generation = {"epochs": 1, "objects": [hash_], "own": [hash_]}
    content = {"backups": [], "runs": {RUN: [generation]}}
    upload_log.path.write_text(json.dumps(content))
    assert upload_log.generations(RUN) == []
    assert RUN in caplog.text
