"""CSV files of thinned curves, which preserve the scores."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.curves import precision_recall
from multi_abnormality.evaluation.dvc_plots import MEAN, write_plots


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    write_plots(folder, *made_up(), FINDINGS)
    return folder


def made_up() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = (generator.random((1500, len(FINDINGS))) < 0.2).astype(int)
    labels[:, 4] = 0
    return labels, generator.beta(1 + labels, 3)


def test_files_are_small_and_hold_every_defined_curve(folder):
    for name in ("roc", "precision_recall", "reliability"):
        path = folder / f"{name}.csv"
        assert path.stat().st_size < 100_000
        frame = pd.read_csv(path)
        assert frame.finding.iloc[0] == MEAN
        assert frame.groupby("finding").size().max() <= 60
        assert (FINDINGS[4] in set(frame.finding)) == (name == "reliability")
        assert frame.notna().all(axis=None)


def test_a_thinned_roc_curve_keeps_its_area(folder):
    labels, probabilities = made_up()
    curve = pd.read_csv(folder / "roc.csv").query("finding == 'Emphysema'")
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    column = FINDINGS.index("Emphysema")
    assert area == pytest.approx(
        roc_auc_score(labels[:, column], probabilities[:, column]), abs=0.005
    )
    assert curve.iloc[[0, -1], 1:3].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_reliability_bins_count_every_cell(folder):
    frame = pd.read_csv(folder / "reliability.csv")
    assert frame.query("finding == @MEAN").scans.sum() == 1500 * len(FINDINGS)
    assert frame.query("finding == 'Emphysema'").scans.sum() == 1500


def test_equal_predictions_give_equal_bytes(folder, tmp_path):
    write_plots(tmp_path, *made_up(), FINDINGS)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_panels_have_a_score_and_a_reference_line(folder):
    labels, probabilities = made_up()
    column = FINDINGS.index("Emphysema")
    curves = {
        name: pd.read_csv(folder / f"{name}.csv").set_index("finding")
        for name in ("roc", "precision_recall", "reliability")
    }
    area = roc_auc_score(labels[:, column], probabilities[:, column])
    assert set(curves["roc"].loc["Emphysema"].score) == {f"AUROC {area:.3f}"}
    assert curves["roc"].loc[MEAN].score.iloc[0].startswith("macro AUROC 0.")
    ends = ["reference_from", "reference_to"]
    assert (curves["roc"][ends] == [0, 1]).all(axis=None)
    assert (curves["reliability"][ends] == [0, 1]).all(axis=None)
    share = labels[:, column].mean()
    chance = curves["precision_recall"].loc["Emphysema", ends]
    assert chance.to_numpy() == pytest.approx(share, abs=1e-5)


def test_a_name_cannot_end_the_script_that_dvc_writes_it_into(tmp_path):
    labels, probabilities = made_up()
    write_plots(tmp_path, labels[:, :1], probabilities[:, :1], ("</script><b>",))
    for path in tmp_path.iterdir():
        assert "<" not in path.read_text()


@pytest.mark.parametrize("first_negatives", [1, 2, 3])
def test_a_thinned_curve_keeps_its_corners(first_negatives: int):
    labels = np.array([0] * first_negatives + [1, 0, 0, 1, 1, 0])
    probabilities = np.linspace(0.9, 0.1, len(labels))
    curve = precision_recall(labels, probabilities)
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    for x, y in zip(recall, precision, strict=True):  # of every point, on the drawn line
        ends = zip(curve.x, curve.y, curve.x[1:], curve.y[1:], strict=False)
        assert any(
            np.hypot(x - a, y - b) + np.hypot(x - c, y - d) < np.hypot(a - c, b - d) + 1e-9
            for a, b, c, d in ends
        )
