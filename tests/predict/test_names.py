"""What scans are called: by their files, apart where these are alike, or as in an own table."""

import unicodedata
from pathlib import Path

import pytest

from multi_abnormality.data.own_files import locate
from multi_abnormality.errors import InputError
from multi_abnormality.predict.names import name_scans
from multi_abnormality.predict.scans import find_scans


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/7/CT.nii.gz", "a/9/x.mha"], ["CT", "x"]),
        (["a/7/CT.nii.gz", "a/8/CT.nii.gz", "a/8/MR.mha"], ["7/CT", "8/CT", "MR"]),
        (["1/s/CT.nii", "2/s/CT.nii", "2/t/CT.nii"], ["1/s/CT", "2/s/CT", "2/t/CT"]),
        (["7/CT.nii.gz", "7/CT.mha"], ["CT.nii.gz", "CT.mha"]),
        (["7/CT.nii.gz", "7/CT.mha", "8/CT.mha"], ["7/CT.nii.gz", "7/CT.mha", "8/CT.mha"]),
    ],
)
def test_as_few_folders_as_tell_scans_apart(tmp_path: Path, paths: list[str], names: list[str]):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    named = name_scans([tmp_path / path for path in paths])
    assert list(named.values()) == names


def test_names_do_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for patient in "78":
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "CT.nii").touch()
    monkeypatch.chdir(tmp_path / "7")
    assert list(name_scans([Path("CT.nii"), Path("../8/CT.nii")]).values()) == ["7/CT", "8/CT"]


def test_a_path_given_twice_is_one_scan_and_two_links_are_two(tmp_path: Path):
    """Two patients' scans of the same bytes may be links to one file of DVC's cache."""
    (tmp_path / "cached").touch()
    for patient in "78":
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "CT.nii").symlink_to(tmp_path / "cached")
    first, second = (tmp_path / patient / "CT.nii" for patient in "78")
    scans = find_scans([first, tmp_path / "8/../7/CT.nii", second, tmp_path])
    assert scans == [first, second]
    assert list(name_scans(scans).values()) == ["7/CT", "8/CT"]


def test_below_a_folder_names_are_those_of_a_table_of_own_scans(tmp_path: Path):
    cells = ("a/one.nii.gz", "a/two", "b/Größe", "b/c/one.MHA", "b/series")
    for path in ("a/one.nii.gz", "a/two.nii", "b/Größe.nii", "b/c/one.MHA", "b/series/IM1.dcm"):
        path = tmp_path / unicodedata.normalize("NFD", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    scans = find_scans([tmp_path])
    expected = {locate(cell, tmp_path).path: locate(cell, tmp_path).name for cell in cells}
    assert name_scans(scans, tmp_path) == expected
    with pytest.raises(InputError, match=r"one\.nii\.gz: is not below .*b, which --names-below"):
        name_scans(scans, tmp_path / "b")


def test_below_a_folder_no_name_stands_for_two_scans(tmp_path: Path):
    scans = [tmp_path / "a/CT.nii.gz", tmp_path / "a/CT.mha"]
    with pytest.raises(InputError, match=r"a/CT: is the name of several scans: .*; give"):
        name_scans(scans, tmp_path)
