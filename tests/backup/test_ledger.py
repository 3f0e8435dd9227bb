"""What was backed up when, and what becomes of it where the file is damaged."""

from pathlib import Path

import pytest

from multi_abnormality.backup.ledger import KEPT_LINES, Ledger
from multi_abnormality.backup.states import Generation

RUN = "main/0123456789abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "backup.json")


def test_what_a_run_sent_outlives_the_process(ledger: Ledger):
    first, second = Generation(1, ("a", "b"), ("b",)), Generation(2, ("b", "c"), ("c",))
    ledger.add_generation(RUN, first)
    ledger.add_generation(RUN, second)
    ledger.claim(RUN, {"b", "c"}, "gdrive://root/backup")
    ledger.mark_sent(RUN)
    again = Ledger(ledger.path)
    earlier, newest = again.generations(RUN)
    assert earlier == first
    assert (newest.uploaded, newest.remote, newest.sent) == (("c",), "gdrive://root/backup", True)
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
