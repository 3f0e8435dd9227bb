"""`multi-abnormality offline-plots`; tests/test_pages.py opens the page that it is for."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from multi_abnormality.tools.offline_plots import PAGE, offline_plots
from multi_abnormality.utils.errors import InputError
from test_pipeline import run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Repo.init(str(tmp_path), no_scm=True).close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_set_and_renewed(project: Path):
    offline_plots()
    page = project / ".dvc" / PAGE
    text = page.read_text(encoding="utf-8")
    assert text.count("{plot_divs}") == 1  # without it DVC fails
    assert "{scripts}" not in text  # DVC's load Vega from the network
    assert "vegaEmbed" in text
    page.write_text("of an older version")
    offline_plots()
    assert page.read_text(encoding="utf-8") == text
    assert run(project, "dvc", "config", "plots.html_template").strip() == PAGE


def test_another_page_is_kept(project: Path):
    run(project, "dvc", "config", "plots.html_template", "own.html")
    offline_plots()
    assert run(project, "dvc", "config", "plots.html_template").strip() == "own.html"
    assert not (project / ".dvc" / PAGE).exists()


def test_outside_of_a_project_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not in a DVC project"):
        offline_plots()
