"""What was backed up when, and what becomes of it where the file is damaged."""

import json
from pathlib import Path

import pytest

from multi_abnormality.backup.ledger import KEPT_LINES, Ledger
from multi_abnormality.backup.snapshot_metadata import Generation

RUN = "main/0123456789abcdef"
A, B, C = (letter * 32 for letter in "abc")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "backup.json")


def test_what_a_run_sent_outlives_the_process(ledger: Ledger):
    first = Generation(epochs=1, objects=(A, B), own=(B,))
    second = Generation(epochs=2, objects=(B, C), own=(C,))
    ledger.add_generation(RUN, first)
    ledger.add_generation(RUN, second)
    ledger.claim(RUN, {B, C}, "0123")
    ledger.mark_sent(RUN)
    again = Ledger(ledger.path)
    earlier, newest = again.generations(RUN)
    assert earlier == first
    assert (newest.uploaded, newest.remote, newest.sent) == ((C,), "0123", True)
    assert again.generations("main/another") == []


def test_the_list_of_backups_does_not_grow_for_ever(ledger: Ledger):
    assert ledger.last_backup() is None
    for epochs in range(KEPT_LINES + 5):
        ledger.add_backup({"epochs": epochs})
    ledger.add_backup({"epochs": None})  # of the inputs alone
    assert len(ledger._read()["backups"]) == KEPT_LINES
    assert ledger.last_backup()["epochs"] == KEPT_LINES + 4


def test_a_damaged_file_stops_no_training(ledger: Ledger, caplog: pytest.LogCaptureFixture):
    ledger.path.write_text('{"backups": [')
    ledger.add_failure("no network")
    assert f"{ledger.path}: can't be read" in caplog.text
    assert "a new one is begun" in caplog.text
    assert Ledger(ledger.path)._read()["last_failure"]["reason"] == "no network"


@pytest.mark.parametrize("hash_", ["../../../etc/passwd", "a" * 31, 7])
def test_a_malformed_run_is_forgotten_with_a_warning(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, hash_: object
):
    """Its hashes name files to delete."""
    generation = {"epochs": 1, "objects": [hash_], "own": [hash_]}
    content = {"backups": [], "last_failure": None, "runs": {RUN: [generation]}}
    ledger.path.write_text(json.dumps(content))
    assert ledger.generations(RUN) == []
    assert RUN in caplog.text


@pytest.mark.parametrize(
    "reason",
    [
        "[Errno 28] No space left on device: '/mnt/My Drive/backup/files/md5/ab/cd'",
        "gdrive://root/secret can't be reached",
        "ssh://user@host:/secret/place: refused",
    ],
)
def test_failures_are_noted_without_addresses(ledger: Ledger, reason: str):
    """People attach the file to a bug report."""
    ledger.add_failure(reason)
    text = ledger.path.read_text()
    assert "<path>" in text
    assert not any(word in text for word in ("backup/", "secret", "mnt"))
