import numpy as np
import pandas as pd
import pytest

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.evaluation.subgroups import score_groups, subgroup_columns

RESAMPLING = ResamplingConfig(200, 0.95, seed=0)


def manifest(**columns) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    defaults = {
        "source_spacing": "0.7 0.7 2.5",
        "source_axes": "LPS",
        **dict.fromkeys(("Manufacturer", "ConvolutionKernel", "PatientSex", "PatientAge"), ""),
    }
    return pd.DataFrame({name: [value] * rows for name, value in defaults.items()} | columns)


def test_traits_are_read_from_the_manifest():
    found = subgroup_columns(
        manifest(
            Manufacturer=["Philips", "", "PNMS"],
            ConvolutionKernel=["['Br40f', '3']", "B", ""],
            PatientAge=["036Y", "081Y", "six"],
            source_spacing=["0.75 0.7 0.7", "0.7 0.7 5", "0.7 1.5 0.7"],
            source_axes=["SPL", "LAS", "PIR"],
        )
    )
    assert found["Age"].tolist() == ["below 40 years", "80 years and more", ""]
    thickness = ["below 1 mm", "4 mm and more", "1 to 2 mm"]
    assert found["Slice thickness"].tolist() == thickness
    assert found["Manufacturer"].tolist() == ["Philips", "", "PNMS"]
    assert found["Kernel"].tolist() == ["Br40f, 3", "B", ""]


@pytest.fixture
def scans():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 4)) < 0.4).astype(int)
    good = rng.beta(1 + 3 * labels, 3)
    vendor = np.array(["A", "B", ""])[np.arange(300) % 3]
    probabilities = np.where((vendor == "B")[:, None], rng.random((300, 4)), good)
    patients = [f"p{row // 2}" for row in range(300)]
    return vendor, labels, probabilities, patients


def test_each_group_has_the_scores_of_its_own_scans(scans):
    vendor, labels, probabilities, patients = scans
    groups = pd.DataFrame({"Vendor": vendor, "Sex": "F"})
    found = score_groups(groups, labels, probabilities, patients, list("abcd"), RESAMPLING)
    assert list(found) == ["Vendor"]  # one group is no trait
    assert list(found["Vendor"]) == ["A", "B"]
    for name, group in found["Vendor"].items():
        rows = vendor == name
        own = [patient for patient, inside in zip(patients, rows, strict=True) if inside]
        alone = evaluate(labels[rows], probabilities[rows], own, list("abcd"), RESAMPLING)
        assert group["auroc"] == pytest.approx(alone["classification"]["macro"]["auroc"], abs=1e-12)
        assert group["crg"] == pytest.approx(alone["crg"]["CRG"], abs=1e-12)
        assert group["auroc_interval"] == alone["intervals"]["macro"]["auroc"]
        assert group["scans"] == rows.sum()
        assert group["patients"] == len(set(own))
    assert found["Vendor"]["B"]["auroc_interval"]["high"] < found["Vendor"]["A"]["auroc"]


def test_small_groups_have_counts_only_and_rare_values_are_merged(scans):
    _, labels, probabilities, patients = scans
    kernels = [f"K{row % 6}" for row in range(280)] + [f"rare {row}" for row in range(20)]
    groups = pd.DataFrame({"Kernel": kernels})
    found = score_groups(groups, labels, probabilities, patients, list("abcd"), RESAMPLING)[
        "Kernel"
    ]
    assert list(found) == [*(f"K{number}" for number in range(6)), "others"]
    assert found["others"]["scans"] == 20
    few = pd.DataFrame({"Sex": ["F"] * 290 + ["M"] * 10})
    men = score_groups(few, labels, probabilities, patients, list("abcd"), RESAMPLING)["Sex"]["M"]
    assert set(men) == {"scans", "patients", "positive_share"}
