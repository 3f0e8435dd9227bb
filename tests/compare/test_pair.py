"""Which scans of two revisions are compared."""

import logging

import numpy as np
import pytest

from multi_abnormality.compare.pair import pair
from multi_abnormality.compare.revisions import Revision
from multi_abnormality.compare.scored import Scored
from multi_abnormality.errors import InputError
from multi_abnormality.findings import FINDINGS


def scored(
    name: str,
    scans: range,
    labels_of: int = 0,
    files: str = "here",
    findings: tuple[str, ...] = FINDINGS,
    voxels: str = "those",
) -> Scored:
    """Scan i has labels drawn from `labels_of`, and i as every probability."""
    drawn = np.random.default_rng(labels_of).integers(2, size=(100, len(FINDINGS)))
    return Scored(
        Revision(name, "0123456789abcdef"),
        np.array([f"valid_{scan}_a" for scan in scans]),
        np.array([f"valid_{scan}" for scan in scans]),
        np.array([f"{files} {scan}" for scan in scans]),
        np.array([f"{voxels} {scan}" for scan in scans]),
        findings,
        drawn[scans],
        np.repeat(np.array(scans)[:, None] / 100, len(FINDINGS), axis=1),
    )


def test_rows_are_matched_by_scan_in_the_first_ones_order(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        first, second = pair(scored("old", range(9, 2, -1)), scored("new", range(5, 20)))
    assert first.scans.tolist() == [f"valid_{scan}_a" for scan in (9, 8, 7, 6, 5)]
    for attribute in ("scans", "patients", "sources", "voxels", "labels", "probabilities"):
        np.testing.assert_array_equal(getattr(first, attribute), getattr(second, attribute))
    assert caplog.messages == [
        "2 scans that old (0123456) was scored on, and new (0123456) was not, are left out",
        "10 scans that new (0123456) was scored on, and old (0123456) was not, are left out",
    ]


def test_other_files_of_the_same_scans_are_told(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        pair(scored("old", range(8)), scored("new", range(8), files="there", voxels="others"))
    assert "8 of the 8 scans have other files and other voxels at old" in caplog.text


@pytest.mark.parametrize("change", [{"files": "packed anew"}, {"voxels": "of another recipe"}])
def test_the_same_scans_otherwise_packed_or_made_are_not_told(
    caplog: pytest.LogCaptureFixture, change: dict[str, str]
):
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        pair(scored("old", range(8)), scored("new", range(8), **change))
    assert caplog.messages == []


def test_other_labels_are_refused_and_the_first_one_named():
    first, second = scored("old", range(8)), scored("new", range(8))
    second.labels[3, 2] = 1 - first.labels[3, 2]
    with pytest.raises(InputError, match=r"1 in 1 of 8 scans differ.* Cardiomegaly of valid_3_a"):
        pair(first, second)


def test_revisions_without_a_common_scan_are_refused():
    with pytest.raises(InputError, match="scored on other scans: none of 8 is among 5"):
        pair(scored("old", range(8)), scored("new", range(20, 25)))


def test_models_of_other_findings_are_refused():
    some = scored("some", range(5), findings=("Cyst", *FINDINGS[1:]))
    with pytest.raises(InputError, match=rf"only one of them has Cyst, {FINDINGS[0]}; run both"):
        pair(scored("all", range(5)), some)


def test_the_same_findings_in_another_order_are_put_in_the_first_ones():
    first = scored("first", range(5))
    second = scored("second", range(5)).in_order_of(FINDINGS[::-1])
    assert second.labels[:, ::-1].tolist() == first.labels.tolist()
    _, ordered = pair(first, second)
    assert ordered.findings == FINDINGS
    np.testing.assert_array_equal(ordered.labels, first.labels)
