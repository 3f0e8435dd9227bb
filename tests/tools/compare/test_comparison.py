"""Alignment of two revisions' scans."""

import logging

import numpy as np
import pandas as pd
import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.tools.compare.compare_run import align
from multi_abnormality.tools.compare.revision_predictions import RevisionPredictions
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.utils.errors import InputError


def scored(
    name: str,
    scans: range,
    labels_of: int = 0,
    files: str = "here",
    findings: tuple[str, ...] = FINDINGS,
    voxels: str = "those",
) -> RevisionPredictions:
    """Predictions with random labels of seed `labels_of`, and probability i / 100 for scan i."""
    drawn = np.random.default_rng(labels_of).integers(2, size=(100, len(FINDINGS)))
    index = [f"valid_{scan}_a" for scan in scans]
    rows = {
        "patient_id": [f"valid_{scan}" for scan in scans],
        "source_sha256": [f"{files} {scan}" for scan in scans],
        "voxels_sha256": [f"{voxels} {scan}" for scan in scans],
    }
    probabilities = np.repeat(np.array(scans)[:, None] / 100, len(FINDINGS), axis=1)
    return RevisionPredictions(
        Revision(name, "0123456789abcdef"),
        pd.DataFrame(rows, index),
        pd.DataFrame(drawn[scans], index, list(findings)),
        pd.DataFrame(probabilities, index, list(findings)),
    )


def test_align_matches_scans_in_the_order_of_the_first(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        first, second = align(scored("old", range(9, 2, -1)), scored("new", range(5, 20)))
    assert first.scans.index.tolist() == [f"valid_{scan}_a" for scan in (9, 8, 7, 6, 5)]
    for attribute in ("scans", "labels", "probabilities"):
        pd.testing.assert_frame_equal(getattr(first, attribute), getattr(second, attribute))
    assert caplog.messages == [
        "left out: 2 scans that old (0123456) was scored on, and new (0123456) was not",
        "left out: 10 scans that new (0123456) was scored on, and old (0123456) was not",
    ]


def test_align_warns_of_changed_scans(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        align(scored("old", range(8)), scored("new", range(8), files="there", voxels="others"))
    assert "different files and voxels in old (0123456) and new (0123456): 8 of 8" in caplog.text


@pytest.mark.parametrize("change", [{"files": "recompressed"}, {"voxels": "of another recipe"}])
def test_align_does_not_warn_of_recompressed_or_reprocessed_scans(
    caplog: pytest.LogCaptureFixture, change: dict[str, str]
):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        align(scored("old", range(8)), scored("new", range(8), **change))
    assert caplog.messages == []


def test_align_refuses_different_labels():
    first, second = scored("old", range(8)), scored("new", range(8))
    second.labels.iloc[3, 2] = 1 - first.labels.iloc[3, 2]
    with pytest.raises(InputError, match=r"1 in 1 of 8 scans differ.* Cardiomegaly of valid_3_a"):
        align(first, second)


def test_missing_labels_are_equal_to_each_other_alone():
    first, second = (scored(name, range(8)) for name in ("old", "new"))
    for one in (first, second):
        one.labels["Emphysema"] = np.nan
    align(first, second)
    second.labels.loc["valid_2_a", "Emphysema"] = 0
    with pytest.raises(InputError, match=r"1 in 1 of 8 .* Emphysema of valid_2_a, nan and 0"):
        align(first, second)


def test_align_refuses_revisions_without_a_common_scan():
    with pytest.raises(InputError, match="scored on different scans: none of the 8 is among the 5"):
        align(scored("old", range(8)), scored("new", range(20, 25)))


def test_align_refuses_different_findings():
    some = scored("some", range(5), findings=("Cyst", *FINDINGS[1:]))
    with pytest.raises(InputError, match=rf"only one of them has Cyst, {FINDINGS[0]}; run both"):
        align(scored("all", range(5)), some)


def test_align_reorders_findings():
    first = scored("first", range(5))
    second = scored("second", range(5))
    second = second.select(second.scans.index, second.labels.columns[::-1])
    assert second.labels.columns.tolist() == list(FINDINGS[::-1])
    _, ordered = align(first, second)
    pd.testing.assert_frame_equal(ordered.labels, first.labels)
