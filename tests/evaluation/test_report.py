"""The report: one offline page that says what the scores say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from multi_abnormality.evaluation.cases import Case, Cases
from multi_abnormality.evaluation.explanation import Explanation
from multi_abnormality.evaluation.report import write_report
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.findings import FINDINGS

EXPLANATION = Explanation(np.array([0.2, 0.7, 0.1]), 1, np.zeros((2, 2)))
CASE = Case("valid_1_a_1 & more", 0.91, EXPLANATION, "bm8gcmVhbCBpbWFnZQ==")
CASES = [Cases("Emphysema", hits=[CASE], misses=[], false_alarms=[CASE])]
HISTORY = [
    {"epoch": 0, "train_loss": 0.3, "val_loss": 0.32, "val_auroc": 0.6},
    {"epoch": "1", "train_loss": "0.2", "val_loss": "0.25", "val_auroc": "0.71"},
    {"epoch": 2, "train_loss": 0.15, "val_loss": None, "val_auroc": ""},
]


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def report_arguments(empty: tuple[int, ...]) -> dict:
    """Of a report on made-up predictions; the columns in `empty` have no positives."""
    generator = np.random.default_rng(0)
    labels = (generator.random((80, len(FINDINGS))) < 0.3).astype(int)
    labels[:, list(empty)] = 0
    probabilities = generator.beta(1 + 2 * labels, 3)
    scores = evaluate(
        labels,
        probabilities,
        [str(row // 2) for row in range(80)],
        FINDINGS,
        resamples=50,
        confidence=0.95,
        seed=0,
        uncalibrated=probabilities**2,
    )
    return {
        "facts": {"Backbone": "efficientnet_b0", "Notes": "<script>alert(1)</script>"},
        "scores": scores,
        "labels": labels,
        "probabilities": probabilities,
        "uncalibrated": probabilities**2,
        "findings": FINDINGS,
        "history": HISTORY,
        "cases": CASES,
    }


def report(path: Path, *, empty: tuple[int, ...] = (), **changes) -> str:
    arguments = report_arguments(empty)
    write_report(path, **(arguments | changes))
    text = path.read_text(encoding="utf-8")
    scores = arguments["scores"]
    assert f"{scores['classification']['macro']['accuracy']:.3f}" in text
    return text


def test_the_page_is_well_formed_and_asks_the_network_for_nothing(tmp_path):
    page = Page(report(tmp_path / "metrics" / "report.html"))
    loaded = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "data", "action"}
    ]
    assert loaded
    assert all(value.startswith("data:") for value in loaded)
    text = (tmp_path / "metrics" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)


def test_every_finding_has_a_row_and_a_pair_of_curves(tmp_path):
    text = report(tmp_path / "report.html")
    for finding in FINDINGS:
        assert f'data-value="{finding}"' in text
        assert f"ROC curve, {finding}" in text
    assert "epoch 1 with 0.710" in text


def test_a_narrow_screen_shows_which_group_scores_what(tmp_path):
    """The first column stays where the table scrolls: it names the group, and AUROC comes soon."""
    counts = {"scans": 40, "patients": 30, "positive_share": 0.25}
    span = {"low": 0.625, "high": 0.875}
    scored = {"auroc": 0.75, "auroc_interval": span, "crg": 0.5, "crg_interval": span}
    groups = {"Sex": {"F": counts | scored, "M": counts}, "Age": {"above 90": counts}}
    arguments = report_arguments(empty=())
    arguments["scores"] = arguments["scores"] | {"groups": groups}
    write_report(tmp_path / "report.html", **arguments)
    table = (tmp_path / "report.html").read_text(encoding="utf-8").split("<h2>Groups</h2>")[1]
    heads = re.findall(r'<th scope="row(group)?" [^>]*>(?:<span>)?([^<]+)', table)
    assert heads == [
        ("group", "Sex"),
        ("", "F"),
        ("", "M"),
        ("group", "Age"),
        ("", "above 90"),
    ]
    women = table.split('class="name">F</th>')[1].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>([^<]+)", women)
    assert cells[:3] == ["40", "0.750", "0.625\N{EN DASH}0.875"]


def test_what_users_pass_in_is_escaped(tmp_path):
    text = report(tmp_path / "report.html")
    assert "<script>alert" not in text
    assert "valid_1_a_1 &amp; more" in text


def test_undefined_scores_show_a_dash_and_sort_last(tmp_path):
    text = report(tmp_path / "report.html", empty=(2,))
    row = text.split('data-value="Cardiomegaly"')[1].split("</tr>")[0]
    assert 'data-value="">\N{EN DASH}</td>' in row
    assert "ROC curve, Cardiomegaly" not in text
    assert (
        "nan" not in re.sub(r"base64,\S+", "", text).lower().split("<main>")[1].split("<script>")[0]
    )


def test_a_model_that_finds_nothing_still_gets_a_report(tmp_path):
    Page(report(tmp_path / "report.html", empty=tuple(range(len(FINDINGS)))))


@pytest.mark.parametrize("history", [[], HISTORY[:1], [{**HISTORY[0], "val_auroc": None}]])
def test_short_histories_and_no_cases_leave_their_parts_out(tmp_path, history):
    text = report(tmp_path / "report.html", history=history, cases=())
    Page(text)
    assert ("<h2>Training</h2>" in text) == bool(history)
    assert "<h2>Cases</h2>" not in text


def test_equal_input_gives_equal_bytes(tmp_path):
    assert report(tmp_path / "a.html") == report(tmp_path / "b.html")
