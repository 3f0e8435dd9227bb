"""The rule by which one series of a study is chosen."""

from dataclasses import replace

import pytest

from multi_abnormality.tools.index.scan_paths import TablePath
from multi_abnormality.tools.index.series_choice import SHARP, SOFT, UNKNOWN, choose, sharpness
from multi_abnormality.tools.index.series_records import SeriesRecord

ORDINARY = SeriesRecord(
    key="1.2", uid="1.2", path="a", first_file="a/1", folders=["a"], in_zip=False,
    names_patient=False, study="S1", patient="P1", patient_any_issuer="I1", birth="",
    similar_id="L1", name="N1",
    study_date="2024-01-31", number="2", description="Chest", modality="CT", body_part="CHEST",
    manufacturer="SIEMENS", model="Force", kernel="Br40", thickness="1", age="60", sex="F",
    slices=300, spacing=1.0, is_axial=True, derivation="", problem="",
)  # fmt: skip


def chosen(*records: SeriesRecord) -> list[int]:
    """Return the positions of those that are chosen; the order given must not matter."""
    paths = [TablePath(str(number)) for number in range(len(records))]
    found = [int(one.path) for one in choose(records, paths) if one.is_chosen]
    backwards = choose(records[::-1], paths[::-1])
    assert [int(one.path) for one in backwards if one.is_chosen] == found
    return found


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"spacing": 2.0, "slices": 150}, {"spacing": 5.0, "slices": 60}),
        ({"spacing": 2.0, "slices": 150}, {"kernel": "Br64"}),  # soft before thinner
        ({"spacing": 2.0, "slices": 150, "kernel": "Br64"}, {"spacing": 5.0, "slices": 60}),
        ({"kernel": "Br40"}, {"kernel": ""}),
        ({"kernel": ""}, {"kernel": "LUNG"}),
        ({"spacing": 0.7, "slices": 430}, {}),
        ({"slices": 301}, {}),
        ({"uid": "1.1"}, {}),
    ],
)
def test_the_better_series_is_chosen(better: dict, worse: dict):
    assert chosen(replace(ORDINARY, **worse), replace(ORDINARY, **better)) == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "PT"},
        {"problem": "slices are missing"},
        {"derivation": "reformat"},
        {"is_axial": False},
        {"body_part": "ABDOMENPELVIS KNEE"},
        {"slices": 149},
        {"slices": 501},
        {"spacing": None},
    ],
)
def test_what_is_no_candidate_is_not_chosen_even_alone(changes: dict):
    assert chosen(replace(ORDINARY, **changes)) == []
    assert chosen(
        replace(ORDINARY, **changes), replace(ORDINARY, kernel="LUNG", spacing=5, slices=60)
    ) == [1]


def test_each_study_has_one_and_a_study_of_two_patients_none():
    other = replace(ORDINARY, study="S2")
    assert chosen(ORDINARY, other, replace(other, uid="1.1")) == [0, 2]
    mixed = replace(other, uid="1.1", patient="P2", patient_any_issuer="I2")
    assert chosen(ORDINARY, other, mixed) == [0]
    # Not another patient, but one that the series does not name, or an issuer that it adds.
    assert chosen(ORDINARY, other, replace(mixed, patient_any_issuer="")) == [0, 2]
    assert chosen(ORDINARY, other, replace(mixed, patient_any_issuer="I1")) == [0, 2]


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("B30f B31s Br40 I30f\\3 Bf37f Qr40 Bl41d", SOFT),
        ("B70f B60s Br59 Bl64 I70f\\3 Hr64", SHARP),
        ("STANDARD SOFT CHST FC08 FC18 A B C", SOFT),
        ("LUNG BONE BONEPLUS EDGE FC51 FC30 FC86 D L YC", SHARP),
        ("XYZ 17 - F", UNKNOWN),
    ],
)
def test_kernels_of_the_vendors(kernels: str, expected: int):
    assert {name: sharpness(name) for name in kernels.split()} == dict.fromkeys(
        kernels.split(), expected
    )
    assert sharpness("") == UNKNOWN


def test_a_series_without_patient_has_that_of_its_study():
    nameless = replace(ORDINARY, uid="1.1", patient="P9", patient_any_issuer="")
    decisions = choose([ORDINARY, nameless], [TablePath("a"), TablePath("b")])
    assert {one.record.patient for one in decisions} == {"P1"}
    (alone,) = choose([nameless], [TablePath("b")])
    assert alone.record.patient == "P9"
