"""Every page that the project writes, in a real browser."""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import yaml
from playwright.sync_api import Browser

from browser import SETTLED, OpenPage, chromium, needs_chromium
from chest_files import write_nifti
from documents import ROOT
from multi_abnormality import load_model
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.evaluation.dvc_plots import write_plots
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.slice_rendering import webp
from multi_abnormality.inference.batch_prediction import predict_all
from multi_abnormality.inference.scan_id import NamedScan
from report_arguments import (
    CASE,
    HISTORY,
    NAMES,
    VIEW,
    arguments_of_one_patient,
    arguments_with_names,
    arguments_without_validation,
    report_arguments,
    with_comparison,
)
from test_pipeline import run
from tiny_model import write_model

pytestmark = [pytest.mark.slow, needs_chromium]

ANGLE = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"
LONG_NAMES = [f"Finding {number}, whose name is {'very ' * 16}long" for number in range(60)]
IMAGE = webp(np.full((8, 8), 100.0))
DRAWN = replace(CASE, view=replace(VIEW, pictures=(IMAGE,) * 3, heat=IMAGE))


def report(arguments: dict[str, Any], folder: Path) -> Path:
    """Write a report in which each finding that has cases has one that can be drawn."""
    cases = {
        finding: {"hits": [DRAWN], "misses": [], "false_alarms": []}
        for finding in arguments["cases"]
    }
    write_report(folder / "report.html", **arguments | {"cases": cases})
    return folder / "report.html"


def explanation(folder: Path) -> Path:
    """Explain a scan by a small model."""
    model = load_model(write_model(folder / "model.onnx"))
    source = ScanSource(write_nifti(folder / "scan.nii.gz"))
    predict_all(model, [NamedScan("scan", source)], pictures=folder / "why")
    return folder / "why/scan/index.html"


def plots(
    labels: np.ndarray,
    probabilities: list[np.ndarray],
    findings: tuple[str, ...],
    folder: Path,
    history: pd.DataFrame,
) -> Path:
    """Write the page of `dvc plots show`, or of `dvc plots diff` for several probabilities."""
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "config", "user.name", "A User")
    run(folder, "git", "config", "user.email", "user@example.org")
    run(folder, "dvc", "init", "--quiet")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/.gitignore", folder / ".dvc")
    shown = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": shown}))
    revisions = [f"run-{number}" for number in range(len(probabilities))]
    for revision, scores in zip(revisions, probabilities, strict=True):
        write_plots(folder / "metrics/plots", labels, scores, findings)
        history.to_csv(folder / "metrics/history.csv", index=False)
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", revision)
        run(folder, "git", "tag", revision)
    run(folder, "python", "-m", "multi_abnormality", "offline-plots")
    run(folder, "dvc", "plots", *(["diff", *revisions] if len(revisions) > 1 else ["show"]))
    return folder / "dvc_plots/index.html"


@functools.cache
def site(parent: Path) -> Path:
    """Build the documentation as `make docs` does, in another folder."""
    run(ROOT, "python", "docs/generate_pages.py")
    run(ROOT, "mkdocs", "build", "--strict", "--site-dir", str(parent / "site"))
    return parent / "site"


def document(name: str, folder: Path) -> Path:
    return site(folder.parent) / name


def write_plots_page(
    folder: Path,
    findings: tuple[str, ...],
    revisions: int = 1,
    history: pd.DataFrame = HISTORY,
) -> Path:
    """Write the page of plots; one finding has no positive, so no curves."""
    arguments = report_arguments(empty=(len(findings) - 1,))
    scores = [arguments["probabilities"] ** power for power in range(1, revisions + 1)]
    return plots(arguments["labels"], scores, findings, folder, history)


# With commands and their output, wide tables, code in YAML and Python, and generated references.
DOCUMENTS = (
    "index",
    "getting-started/installation",
    "how-to/compare",
    "how-to/ct-rate",
    "explanation/performance",
    "explanation/resume",
    "reference/command-line",
    "reference/parameters",
    "reference/python-api",
)
RENAMED = (*NAMES, *FINDINGS[len(NAMES) :])
# Each page by its name: what writes it into a folder, and returns it.
PAGES: dict[str, Callable[[Path], Path]] = {
    "report": lambda folder: report(report_arguments() | {"synthetic": True}, folder),
    "report of one patient": lambda folder: report(arguments_of_one_patient(scans=1), folder),
    "report with a comparison": lambda folder: report(with_comparison(report_arguments()), folder),
    "report without validation": lambda folder: report(arguments_without_validation(), folder),
    "report of 60 long names": lambda folder: report(
        with_comparison(arguments_with_names(LONG_NAMES, 60), earlier="x" * 100), folder
    ),
    "report of names as code": lambda folder: report(arguments_with_names(NAMES), folder),
    "explanation": explanation,
    "plots": lambda folder: write_plots_page(folder, FINDINGS),
    "plots of names as code": lambda folder: write_plots_page(folder, RENAMED),
    "plots without validation": lambda folder: write_plots_page(
        folder, FINDINGS, history=arguments_without_validation()["history"]
    ),
    "plots of two runs": lambda folder: write_plots_page(folder, FINDINGS, revisions=2),
    **{name: functools.partial(document, f"{name}.html") for name in DOCUMENTS},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write each page once."""
    parent = tmp_path_factory.mktemp("pages")

    @functools.cache
    def write(name: str) -> Path:
        folder = parent / name.replace(" ", "-").replace("/", "-")
        folder.mkdir()
        return PAGES[name](folder)

    return write


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_page_has_no_faults(browser, path_of, name, width, scheme):
    opened = OpenPage(browser, path_of(name), width, scheme)
    with opened as page:
        if page.locator("#open-all").count():
            page.click("#open-all")
        assert opened.faults() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_table_of_findings_is_sorted_and_searched(browser, path_of, width):
    with OpenPage(browser, path_of("report"), width, "light") as page:
        page.click("#worst")
        values = page.eval_on_selector_all(
            "#findings tbody .strong", "cells => cells.map((cell) => Number(cell.dataset.value))"
        )
        assert values == sorted(values)
        page.locator("#findings thead button", has_text="Finding").press("Enter")
        names = page.locator("#findings tbody th").all_inner_texts()
        assert names == sorted(names)
        page.fill("#search", "calcification")
        assert page.locator("#findings tbody tr:visible").count() == 2
        assert page.inner_text("#matches") == "2 of 18"


@pytest.mark.parametrize("width", [1280, 400])
def test_a_threshold_is_moved_by_the_keyboard(browser, path_of, width):
    with OpenPage(browser, path_of("report"), width, "light") as page:
        page.click("#findings a[href='#finding-8']")
        finding = page.locator("#finding-8")
        before = finding.locator("output").inner_text()
        drawn = finding.locator(".chart[data-chart=roc] svg").inner_html()
        finding.locator(".threshold").press("Home")
        assert finding.locator("output").inner_text() == "0.000"
        assert finding.locator('[data-name="sensitivity"]').inner_text() == "1.000"
        assert finding.locator(".interval:visible").count() == 0  # it is of another threshold
        page.wait_for_function(
            "(before) => document.querySelector('#finding-8 .chart[data-chart=roc] svg').innerHTML"
            " !== before", arg=drawn,
        )  # fmt: skip
        finding.get_by_role("button", name="The model's threshold").press("Enter")
        assert finding.locator("output").inner_text() == before
        assert finding.locator(".interval:visible").count() == 4


@pytest.mark.parametrize("width", [1280, 400])
def test_the_slices_of_a_case_are_scrolled_and_its_heat_map_hidden(browser, path_of, width):
    with OpenPage(browser, path_of("report"), width, "light") as page:
        page.click("#open-all")
        case = page.locator(".case").first
        assert case.locator(".heat").is_visible()
        case.locator(".scroll-slices").press("End")
        assert not case.locator(".heat").is_visible()
        assert case.locator(".no-heat").is_visible()
        case.locator(".scroll-slices").press("ArrowLeft")
        case.locator(".show-heat").press("Space")
        assert not case.locator(".heat").is_visible()
        case.locator(".scroll-slices").press("Home")
        assert case.locator(".position").inner_text().startswith("slice 1 of 3, 0 mm")


def test_all_of_the_report_is_reached_by_the_keyboard(browser, path_of):
    """Tab visits the contents first; on a narrow page the table scrolls by arrow keys."""
    with OpenPage(browser, path_of("report"), 400, "light") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#summary"
        region = page.locator(".scroll:has(#findings)")
        region.press("ArrowRight")
        page.wait_for_function("document.querySelector('.scroll:has(#findings)').scrollLeft > 0")
        assert not page.locator("#content-1").is_visible()
        page.locator("#findings tbody a").first.press("Enter")
        assert page.url.endswith("#finding-1")
        assert page.locator("#content-1").is_visible()
        page.locator("#finding-1 h3 button").press("Enter")
        assert not page.locator("#content-1").is_visible()


def test_a_search_opens_the_finding_whose_text_it_finds(browser, path_of):
    """By a link to text, which the browser looks up as Ctrl+F does."""
    with OpenPage(browser, path_of("report"), 1280, "light") as page:
        text = page.locator("#content-7 .note").first.text_content().split("; ")[1]
        address = page.url
        page.goto("about:blank")
        page.goto(f"{address}#:~:text={quote(text)}")
        page.wait_for_selector("#finding-7 [aria-expanded=true]")
        assert page.locator("#content-7").is_visible()
        assert page.locator(".finding [aria-expanded=true]").count() == 1
        page.locator("#finding-7 h3 button").press("Enter")
        assert not page.locator("#content-7").is_visible()


# A browser that does not know "until-found": `hidden` is true or false.
ONLY_BOOLEAN = """Object.defineProperty(HTMLElement.prototype, "hidden", {
  get() { return this.hasAttribute("hidden"); },
  set(value) { this.toggleAttribute("hidden", Boolean(value)); },
})"""


@pytest.mark.parametrize("script", ["", ONLY_BOOLEAN])
def test_closed_findings_are_read_out_by_no_screen_reader_and_printed(browser, path_of, script):
    with OpenPage(browser, path_of("report"), 1280, "light") as page:
        page.add_init_script(script)
        page.reload()
        page.wait_for_function(SETTLED)
        counts, chart = page.locator("#finding-18 .counts"), page.locator("#finding-18 svg").first
        assert not counts.is_visible()
        assert float(chart.get_attribute("width")) > 200
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        names = {node.get("name", {}).get("value") for node in nodes if not node["ignored"]}
        assert FINDINGS[17] in names
        assert f"ROC curve, {FINDINGS[17]}" not in names
        page.emulate_media(media="print")
        assert counts.is_visible()
        page.emulate_media(media="screen")
        page.click("#finding-18 h3 button")
        assert counts.is_visible()


@pytest.mark.parametrize("name", ["report of names as code", "plots of names as code"])
def test_names_stay_text(browser, path_of, name):
    with OpenPage(browser, path_of(name), 1280, "light") as page:
        text = page.evaluate("document.body.textContent").replace(
            "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "<"
        )
        assert [one for one in NAMES if one[:20] not in text] == []
        assert page.locator("img[src=x], a[href*='example.org'], strong").count() == 0


def test_a_plot_without_values_is_not_drawn(browser, path_of):
    """Epochs that were not validated have no points, and without any there are no axes."""
    with OpenPage(browser, path_of("plots"), 1280, "light") as page:
        assert page.locator("#Loss svg path[aria-roledescription=point]").count() == 3 + 2
        assert page.locator("#Validation_AUROC svg path[aria-roledescription=point]").count() == 2
    with OpenPage(browser, path_of("plots without validation"), 1280, "light") as page:
        assert page.locator("#Loss svg path[aria-roledescription=point]").count() == 3
        assert page.locator("#Validation_AUROC svg").count() == 0
        assert page.inner_text("#Validation_AUROC") == "Validation AUROC by epoch: no values"


def test_plots_of_two_runs_name_the_score_of_each(browser, path_of):
    with OpenPage(browser, path_of("plots of two runs"), 1280, "light") as page:
        reliability = page.locator("main svg").nth(2)
        assert reliability.locator("text", has_text="ECE 0.").count() == 2 * (1 + len(FINDINGS))


def test_the_documentation_is_searched(browser, path_of):
    with OpenPage(browser, path_of("index"), 1280, "light") as page:
        page.locator(".md-search__input").fill("calibration")
        page.wait_for_selector(".md-search-result__item")
        assert page.locator(".md-search-result__item").count() > 3
