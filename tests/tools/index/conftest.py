"""An export, with caches and salts of the test alone."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_export import Export


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return Export(tmp_path)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything that is logged in the test."""
    caplog.set_level(logging.DEBUG, "multi_abnormality")
    return lambda: caplog.text
