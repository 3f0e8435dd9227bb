import pytest

from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.tools.download.selection import Choice, candidates, parse_patients
from multi_abnormality.utils.errors import InputError


def name(split: str, patient: int) -> VolumeName:
    return VolumeName(split, patient, "a", 1)


def test_parse_numbers_and_ranges():
    assert parse_patients("1-3, 60") == (range(1, 4), range(60, 61))


@pytest.mark.parametrize("text", ["", "0", "1-", "-3", "3-1", "train_1", "1,,2", "1-99999999"])
def test_invalid_range_is_an_error(text):
    with pytest.raises(InputError, match="is not a number or range such as 1-50"):
        parse_patients(text)


def test_each_prefix_of_the_order_has_both_splits():
    labelled = [name("train", i) for i in range(1, 201)] + [name("valid", i) for i in range(1, 21)]
    choice = Choice(("train", "test"), None, None, "all", "v2")
    order = [patient[0] for patient in candidates(reversed(labelled), set(), choice)]
    assert sorted(order) == labelled
    for count in (22, 55, 110):
        test = sum(volume.split == "test" for volume in order[:count])
        assert test == pytest.approx(count / 11, abs=1)
    assert [v.patient for v in order if v.split == "train"] == list(range(1, 201))
