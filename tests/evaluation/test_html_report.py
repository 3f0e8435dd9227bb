"""Report: a self-contained offline page with the scores."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.label_checks import describe_validation
from multi_abnormality.evaluation.html_report import write_report
from multi_abnormality.evaluation.metric_registry import METRICS, Metric
from multi_abnormality.evaluation.report_data import highest_threshold
from report_arguments import (
    CASE,
    HISTORY,
    NAMES,
    VIEW,
    arguments_of_one_patient,
    arguments_with_names,
    report_arguments,
    with_comparison,
)


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

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


def report(path: Path, *, empty: tuple[int, ...] = (), **changes) -> str:
    arguments = report_arguments(empty)
    write_report(path, **(arguments | changes))
    text = path.read_text(encoding="utf-8")
    scores = arguments["scores"]
    assert f"{scores['classification']['macro']['accuracy']:.3f}" in text
    return text


def page_data(text: str) -> dict:
    """Return what the page's script reads."""
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_the_page_is_well_formed_and_makes_no_request(tmp_path):
    page = Page(report(tmp_path / "metrics" / "report.html"))
    loaded = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "data", "action"}
    ]
    assert loaded
    assert all(value.startswith(("data:", "#")) for value in loaded)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {value[1:] for value in loaded if value.startswith("#")} <= ids


def test_a_synthetic_model_has_a_banner(tmp_path):
    assert "no clinical meaning" not in report(tmp_path / "report.html")
    assert "no clinical meaning" in report(tmp_path / "report.html", synthetic=True)


def test_thresholds_stand_beside_the_findings(tmp_path):
    text = report(tmp_path / "report.html")
    assert text.count(">0.333</td>") >= len(FINDINGS)
    assert "best for crg on validation patients" in text
    text = report(tmp_path / "r.html", undecided=FINDINGS, threshold_metric="none")
    assert text.count('<td data-value="">\N{EN DASH} <small>not calibrated</small></td>') == 18
    assert text.count("Predictions have a probability of it, but no decision.") == 18
    assert "<abbr title" not in text


def test_a_debug_run_has_a_banner(tmp_path):
    assert "Debug run" not in report(tmp_path / "report.html")
    text = report(tmp_path / "report.html", debug="overfit_batches")
    banner = "Debug run (train.debug: overfit_batches): its scores mean nothing."
    assert f'<p class="banner" role="note"><b>{banner}</b></p>' in text


def test_a_score_without_an_interval_has_words_in_place_of_a_bar(tmp_path):
    arguments = report_arguments(empty=())
    arguments["scores"]["intervals"]["per_pathology"]["Cardiomegaly"]["auroc"] = None
    arguments["scores"]["intervals"]["macro"]["auroc"] = None
    write_report(tmp_path / "report.html", **arguments)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    row = text.split('data-value="Cardiomegaly"')[1].split("</tr>")[0]
    assert 'class="bar"' not in row
    assert "interval not estimable: too few patients</small>" in row
    assert 'data-value="">not estimable</td>' in row
    assert text.count("interval not estimable: too few patients</p>") == 1


def test_without_a_positive_recall_is_a_dash(tmp_path):
    text = report(tmp_path / "report.html", empty=(2,))
    row = text.split('data-value="Cardiomegaly"')[1].split("</tr>")[0]
    values = re.findall(r'<td data-value="([^"]*)">[^<]*</td>', row)
    average_precision, f1, precision, recall, accuracy = values[-5:]
    assert average_precision == f1 == precision == recall == ""
    assert float(accuracy) > 0
    arguments = report_arguments(tuple(range(len(FINDINGS))))
    write_report(tmp_path / "r.html", **arguments)
    tile = (tmp_path / "r.html").read_text().split("<h3>Macro F1</h3>")[1].split("</div>")[0]
    assert '<p class="value">\N{EN DASH}</p>' in tile
    assert '<p class="range-text">\N{EN DASH}</p>' in tile


def test_every_finding_has_a_row_and_a_pair_of_curves(tmp_path):
    text = report(tmp_path / "report.html")
    for finding in FINDINGS:
        assert f'data-value="{finding}"' in text
        assert f'aria-label="ROC curve, {finding}"' in text
    assert "epoch 1 with 0.710" in text


def test_a_new_metric_has_a_tile_and_a_column(tmp_path, monkeypatch):
    metric = Metric("Brier score", brier_score_loss, headline=("Brier", "squared error"))
    monkeypatch.setitem(METRICS, "brier", metric)
    text = report(tmp_path / "report.html")
    assert "<h3>Brier</h3>" in text
    for metric in METRICS.values():
        assert f">{metric.column or metric.title}</button>" in text


def test_a_narrow_screen_shows_which_group_scores_what(tmp_path):
    """The first column, the group's name, is sticky, and AUROC is the third."""
    counts = {"scans": 40, "patients": 30, "positive_share": 0.25}
    span = {"low": 0.625, "high": 0.875, "reliable": True}
    scored = {"auroc": 0.75, "auroc_interval": span, "crg": 0.5, "crg_interval": span}
    groups = {"Sex": {"F": counts | scored, "M": counts}, "Age": {"above 90": counts}}
    arguments = report_arguments(empty=())
    arguments["scores"] = arguments["scores"] | {"groups": groups}
    write_report(tmp_path / "report.html", **arguments)
    table = (tmp_path / "report.html").read_text(encoding="utf-8").split("<h2>Groups</h2>")[1]
    table = table.split("</table>")[0]
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


def test_a_bar_shows_an_auroc_below_chance(tmp_path):
    arguments = report_arguments()
    scores = arguments["scores"]
    for finding, value, low, high in (
        (FINDINGS[0], 1 / 3, 0.21, 0.5),
        (FINDINGS[1], 0.6, 0.5, 1.0),
    ):
        scores["classification"]["per_pathology"][finding]["auroc"] = value
        span = {"low": low, "high": high, "reliable": low > 0.3}
        scores["intervals"]["per_pathology"][finding]["auroc"] = span
    write_report(tmp_path / "report.html", **arguments)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<span>0.2</span><span>1</span>" in text  # the axis holds the lowest end
    rows = [text.split(f'data-value="{one}"')[1].split("</tr>")[0] for one in FINDINGS[:2]]
    ends = [[float(number) for number in re.findall(r"([\d.]+)%", row)] for row in rows]
    assert ends[0] == [37.5, 1.2, 100, 37.5, 16.7]  # chance, low, (the bar's right:) high, value
    assert ends[1] == [37.5, 37.5, 100, 100, 50]
    assert 'class="mark"' in rows[0]
    assert "* unreliable interval: fewer than 10 patients" in text


def test_the_slider_starts_at_the_threshold_and_counts_the_scans(tmp_path):
    arguments = report_arguments()
    finding = page_data(report(tmp_path / "report.html"))["findings"][3]
    cuts = finding["thresholds"]["cut"]
    labels, probabilities = arguments["labels"][:, 3], arguments["probabilities"][:, 3]
    assert finding["own"] == pytest.approx(1 / 3)
    assert finding["own"] in cuts
    for cut, tp, fp in zip(*finding["thresholds"].values(), strict=True):
        assert tp == ((probabilities >= cut) & (labels == 1)).sum()
        assert fp == ((probabilities >= cut) & (labels == 0)).sum()
    assert finding["at_sensitivity"]["0.95"]["threshold"] in cuts
    curve, band = finding["roc"]["curve"], finding["roc"]["band"]
    assert (curve[0]["y"], curve[-1]["y"]) == (0, 1)
    assert all(one["low"] <= one["high"] for one in band)
    middle = min(band, key=lambda one: abs(one["x"] - 0.4))
    on_curve = np.interp(0.4, [one["x"] for one in curve], [one["y"] for one in curve])
    assert middle["low"] < on_curve < middle["high"]


def test_the_threshold_of_a_sensitivity_is_the_highest():
    labels, probabilities = np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.7, 0.7, 0.1, 0.2])
    found = highest_threshold(labels, probabilities, 0.75)
    assert found == {"threshold": 0.7, "sensitivity": 0.75}
    assert highest_threshold(labels, probabilities, 0.76)["threshold"] == 0.1


def test_a_group_that_scores_lower_has_a_small_p(tmp_path):
    arguments = report_arguments()
    women = np.arange(80) % 4 < 2  # whole patients
    arguments["groups"] = pd.DataFrame({"Sex": np.where(women, "F", "M")})
    worse = np.where(women[:, None], 1 - arguments["probabilities"], arguments["probabilities"])
    span = {"low": 0.4, "high": 0.6, "reliable": True}
    kind = {"scans": 40, "patients": 20, "positive_share": 0.3, "auroc": 0.5, "crg": 0.5}
    kind |= {"auroc_interval": span, "crg_interval": span}
    arguments["scores"]["groups"] = {"Sex": {"F": kind, "M": kind}}

    def tests(probabilities: np.ndarray) -> list[str]:
        write_report(tmp_path / "r.html", **(arguments | {"probabilities": probabilities}))
        table = (tmp_path / "r.html").read_text().split("<h2>Groups</h2>")[1]
        return re.findall(
            r'<td( class="strong")?>(?:&lt; )?0\.\d{3}</td>', table.split("</table")[0]
        )

    assert any(tests(worse))
    assert '<td class="strong">&lt; 0.001</td>' in (tmp_path / "r.html").read_text()


def test_names_stay_text(tmp_path):
    write_report(tmp_path / "report.html", **arguments_with_names(NAMES))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "{{ 7 * 7 }}" in text
    for name in NAMES:  # no specification holds a name
        assert name not in json.dumps(page_data(text)["specifications"])


@pytest.mark.parametrize("scans", [1, 2])
def test_a_single_patient_gets_a_report(tmp_path, scans):
    write_report(tmp_path / "report.html", **arguments_of_one_patient(scans))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(page)
    assert "1 finding in chest CT" in page
    assert f"Scored on {scans} scan{'s' if scans > 1 else ''} of 1 patient " in page


def test_missing_labels_are_left_out_of_counts(tmp_path):
    arguments = report_arguments()
    labels = arguments["labels"].astype(float)
    labels[::2, 0] = np.nan
    labels[:, 1] = np.nan
    write_report(tmp_path / "report.html", **(arguments | {"labels": labels}))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    first, second, *_ = page_data(text)["findings"]
    assert first["positives"] + first["negatives"] == 40
    assert second["positives"] + second["negatives"] == 0
    assert "roc" not in second


def test_early_stopping_and_few_validation_patients_are_reported(tmp_path):
    few = describe_validation(np.ones((11, 2)), [f"p{row}" for row in range(11)])
    text = report(tmp_path / "report.html", planned_epochs=16, chosen_on=few)
    assert "3 of 16 epochs, ended by early stopping;" in text
    training = page_data(text)["training"]
    marks = training["losses"]["marks"]
    assert marks == [{"epoch": 1, "name": "best"}, {"epoch": 2, "name": "early stopping"}]
    assert len(training["losses"]["history"]) == 5
    assert [one["y"] for one in training["rate"]["history"]] == [2e-3, 1e-3, 1e-4]
    assert "chosen on 11 validation patients: few, so the choice is uncertain." in text
    assert "early stopping" not in report(tmp_path / "report.html", planned_epochs=3)


def test_attention_on_padding_is_in_the_caption(tmp_path):
    padded = replace(CASE, view=replace(VIEW, padding=0.63))
    cases = {"Emphysema": {"hits": [padded], "misses": [CASE], "false_alarms": []}}
    text = report(tmp_path / "report.html", cases=cases)
    assert text.count("63&nbsp;% of the attention is on padding outside the scan") == 1


def test_cases_name_decision_position_and_other_findings(tmp_path):
    low = replace(CASE, probability=0.2)
    cases = {"Emphysema": {"hits": [CASE], "misses": [low], "false_alarms": [CASE, low]}}
    text = report(tmp_path / "report.html", cases=cases)
    titles = re.findall(r"<b>((?:True|False) \w+)</b>, probability", text)
    assert titles == ["True positive", "False negative", "False positive", "True negative"]
    assert text.count("slice 2 of 3, 2.5 mm above the lowest; attention 0.700</span>") == 4
    assert text.count("Other findings: Atelectasis") == 4
    assert "lung window (centre -600, width 1500 HU)" in text
    assert "outside of the body" not in text
    outside = replace(CASE, view=replace(VIEW, outside=0.8))
    text = report(
        tmp_path / "r.html", cases={"Emphysema": cases["Emphysema"] | {"hits": [outside]}}
    )
    assert text.count("80&nbsp;% of the heat lies outside of the body") == 1


def test_large_pictures_lose_their_neighbours(tmp_path, monkeypatch):
    cases = {"Emphysema": {"hits": [CASE] * 2, "misses": [], "false_alarms": [CASE]}}
    count = 'src="data:image/webp'
    for limit, pictures in ((1000, 12), (45, 6), (30, 4), (15, 2)):
        monkeypatch.setattr("multi_abnormality.evaluation.html_report.CASE_BYTES", limit)
        assert report(tmp_path / "report.html", cases=cases).count(count) == pictures


def test_values_are_escaped(tmp_path):
    text = report(tmp_path / "report.html")
    assert "<script>alert" not in text
    assert "valid_1_a_1 &amp; more" in text


def test_undefined_scores_show_a_dash_and_sort_last(tmp_path):
    text = report(tmp_path / "report.html", empty=(2,))
    row = text.split('data-value="Cardiomegaly"')[1].split("</tr>")[0]
    assert 'data-value="">\N{EN DASH}</td>' in row
    assert 'aria-label="ROC curve, Cardiomegaly"' not in text
    assert (
        "nan" not in re.sub(r"base64,\S+", "", text).lower().split("<main>")[1].split("<script")[0]
    )


def test_a_model_that_finds_nothing_still_gets_a_report(tmp_path):
    Page(report(tmp_path / "report.html", empty=tuple(range(len(FINDINGS)))))


@pytest.mark.parametrize("history", [HISTORY[:0], HISTORY[:1], HISTORY[2:].reset_index()])
def test_short_histories_and_no_cases_leave_their_parts_out(tmp_path, history):
    text = report(tmp_path / "report.html", history=history, cases={})
    Page(text)
    assert ("<h2>Training</h2>" in text) == (len(history) > 0)
    assert "<h2>Cases</h2>" not in text


def test_parameters_that_differ_from_the_recipe_are_listed(tmp_path):
    path = tmp_path / "report.html"
    assert "Differences from the recipe" not in report(path)
    own = report(path, recipe=("t4-colab", {"train.learning_rate": (0.001, 0.002)}))
    listed = own.split('id="recipe"')[1].split("</section>")[0]
    assert "recipes/t4-colab.yaml; 1 value of this run differs from it" in listed
    assert "<dt>train.learning_rate</dt><dd>0.001 <small>recipe: 0.002</small></dd>" in listed
    assert own.index('id="recipe"') < own.index('id="summary"')
    assert "this run has all of its values" in report(path, recipe=("sample", {}))


def test_a_comparison_is_in_contents_and_summary_and_has_a_table(tmp_path):
    write_report(tmp_path / "r.html", **with_comparison(report_arguments()))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    Page(text)
    assert '<a href="#comparison">Comparison with f1b5246</a>' in text
    summary = text.split('id="summary"')[1].split("</section>")[0]
    number = r"[+\N{MINUS SIGN}]0\.\d{3}"
    assert re.search(
        r"this run is better. Macro AUROC 0\.\d{3} instead of 0\.\d{3}, difference "
        rf"{number} \({number} to {number}\), p&nbsp;=&nbsp;0\.\d+", summary,
    )  # fmt: skip
    section = text.split('id="comparison"')[1].split("</section>")[0]
    assert set(re.findall(r'<a href="#finding-\d+">([^<]+)</a>', section)) == set(FINDINGS)
    assert '<tr class="strong">' in section
    assert "<dt>train.epochs</dt><dd>3 <small>f1b5246: 2</small></dd>" in section
    assert "<dt>train.average_best</dt><dd>1 <small>f1b5246: not set</small></dd>" in section
    assert "<dt>model.global_pool</dt><dd>avg <small>f1b5246: null</small></dd>" in section
    assert "evaluate.baseline" not in text


def test_comparisons_without_a_test_have_words(tmp_path):
    undefined = {"a": None, "b": None, "difference": None, "interval": None, "p": None}
    arguments = report_arguments()
    for content, words in (
        ({"macro": {"auroc": undefined}}, "macro AUROC is undefined, as no finding has both"),
        ({"same_predictions": True}, "it predicts the same, to the last bit."),
        ({"parameters": {}}, "None of seed, preprocess, model, train and evaluate."),
    ):
        write_report(tmp_path / "r.html", **with_comparison(arguments, **content))
        text = (tmp_path / "r.html").read_text(encoding="utf-8")
        Page(text)
        assert words in text


def test_without_a_comparison_the_page_names_the_parameter_and_the_command(tmp_path):
    text = report(tmp_path / "report.html")
    assert "#comparison" not in text
    assert "<code>evaluate.baseline</code> in params.yaml" in text
    assert "<code>multi-abnormality compare HEAD workspace</code>" in text


def test_own_scans_may_have_names_as_those_of_ct_rate(tmp_path):
    note = "CT-RATE's names of test scans begin with valid_."
    assert note not in report(tmp_path / "report.html")
    assert note in report(tmp_path / "report.html", ct_rate_names=True)


def test_the_level_of_significance_is_the_tests(tmp_path, monkeypatch):
    monkeypatch.setattr("multi_abnormality.evaluation.html_report.SIGNIFICANT", 1.01)
    span = {"low": 0.4, "high": 0.6, "reliable": True}
    kind = {"scans": 40, "patients": 20, "positive_share": 0.3, "auroc": 0.5, "crg": 0.5}
    kind |= {"auroc_interval": span, "crg_interval": span}
    arguments = report_arguments() | {"groups": pd.DataFrame({"Sex": ["F", "F", "M", "M"] * 20})}
    arguments["scores"]["groups"] = {"Sex": {"F": kind, "M": kind}}
    write_report(tmp_path / "r.html", **arguments)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Sex F, Sex M differ from the other scans (p &lt; 1.01)" in text
    assert "those below 1.01 are listed" in text
    table = text.split("<h2>Groups</h2>")[1].split("</table>")[0]
    assert table.count('<td class="strong">') == 2 + 2  # AUROC and p


def test_equal_input_gives_equal_bytes(tmp_path):
    assert report(tmp_path / "a.html") == report(tmp_path / "b.html")
