import pytest

from multi_abnormality.data.names import VolumeName
from multi_abnormality.download.choose import Choice, candidates, parse_patients
from multi_abnormality.errors import InputError


def name(split: str, patient: int) -> VolumeName:
    return VolumeName(split, patient, "a", 1)


def test_numbers_and_ranges_are_read():
    assert parse_patients("1-3, 60") == (range(1, 4), range(60, 61))


@pytest.mark.parametrize("text", ["", "0", "1-", "-3", "3-1", "train_1", "1,,2", "1-99999999"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InputError, match="is no number or range such as 1-50"):
        parse_patients(text)


def test_each_beginning_of_the_order_has_some_of_both_splits():
    labelled = [name("train", i) for i in range(1, 201)] + [name("valid", i) for i in range(1, 21)]
    choice = Choice(("train", "valid"), None, None, "all", "v2")
    order = [patient[0] for patient in candidates(reversed(labelled), set(), choice)]
    assert sorted(order) == labelled
    for count in (22, 55, 110):
        valid = sum(volume.split == "valid" for volume in order[:count])
        assert valid == pytest.approx(count / 11, abs=1)
    assert [v.patient for v in order if v.split == "train"] == list(range(1, 201))
