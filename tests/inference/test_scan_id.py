"""Scan names: from files, made unique, or as in an own table."""

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset

from chest_files import write_series, write_zipped_series
from multi_abnormality.data.catalog.custom_files import locate
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.inference.input_scans import find_scans
from multi_abnormality.inference.scan_id import name_scans
from multi_abnormality.utils.errors import InputError


def names_of(paths: Iterable[Path]) -> list[str]:
    return [scan.name for scan in name_scans([ScanSource(path) for path in paths])]


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
def test_as_few_folders_as_make_names_unique(tmp_path: Path, paths: list[str], names: list[str]):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert names_of(tmp_path / path for path in paths) == names


def test_names_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for patient in "78":
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "CT.nii").touch()
    monkeypatch.chdir(tmp_path / "7")
    assert names_of([Path("CT.nii"), Path("../8/CT.nii")]) == ["7/CT", "8/CT"]


def test_a_path_given_twice_is_one_scan_and_two_links_are_two(tmp_path: Path):
    """Two patients' scans of the same bytes may be links to one file of DVC's cache."""
    (tmp_path / "cached").touch()
    for patient in "78":
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "CT.nii").symlink_to(tmp_path / "cached")
    first, second = (tmp_path / patient / "CT.nii" for patient in "78")
    found = find_scans([first, tmp_path / "8/../7/CT.nii", second, tmp_path])
    assert [source.path for source in found.scans] == [first, second]
    assert [scan.name for scan in name_scans(found.scans)] == ["7/CT", "8/CT"]


def test_below_a_folder_names_are_those_of_a_table_of_own_scans(tmp_path: Path):
    cells = ("a/one.nii.gz", "a/two", "b/Größe", "b/c/one.MHA", "b/series", "b/packed", "b/x.HDR")
    for path in ("a/one.nii.gz", "a/two.nii", "b/Größe.nii", "b/c/one.MHA", "b/x.HDR"):
        path = tmp_path / unicodedata.normalize("NFD", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_series(tmp_path / "b/series", name=lambda index: f"part {index % 2}/IM{index}", slices=4)
    write_zipped_series(tmp_path / "b/packed.zip", slices=4)
    scans = find_scans([tmp_path]).scans
    located = [locate(cell, tmp_path) for cell in cells]
    assert {scan.source.path: scan.name for scan in name_scans(scans, tmp_path)} == {
        path: name for name, path in located
    }
    with pytest.raises(
        InputError, match=r"one\.nii\.gz: is not below .*b, the folder of --names-below"
    ):
        name_scans(scans, tmp_path / "b")


def test_a_dicom_file_of_a_table_has_the_name_of_its_series(tmp_path: Path):
    """As predict has it, whichever of its files is named, also beside other series."""
    write_series(tmp_path / "alone/series", slices=4)
    for number in (2, 3, 4):

        def edit(dataset: Dataset, index: int, number: int = number) -> None:
            dataset.SeriesNumber = number
            dataset.SeriesInstanceUID = f"1.2.3.{number}"
            dataset.SOPInstanceUID = f"1.2.3.{number}.{index}"

        def name(index: int, number: int = number) -> str:
            return f"{index % 2}/IM{index}" if number == 2 else f"{number}_{index}.dcm"

        write_series(tmp_path / ("spread" if number == 2 else "Stüdy"), edit, name, slices=4)
    cells = ("alone/series/002.dcm", "spread/1/IM1", "Stüdy/3_1.dcm", "Stüdy/4_0.dcm")
    expected = ["alone/series", "spread", "Stüdy/3", "Stüdy/4"]
    located = [locate(cell, tmp_path) for cell in cells]
    assert [name for name, _ in located] == expected
    for given in ([tmp_path], [path for _, path in located]):
        scans = name_scans(find_scans(given).scans, tmp_path)
        assert sorted(scan.name for scan in scans) == sorted(expected)


def test_below_a_folder_no_name_stands_for_two_scans(tmp_path: Path):
    scans = [ScanSource(tmp_path / "a/CT.nii.gz"), ScanSource(tmp_path / "a/CT.mha")]
    with pytest.raises(InputError, match=r"a/CT: is the name of several scans: .*; predict"):
        name_scans(scans, tmp_path)


def test_bytes_that_are_not_utf_8_are_escaped_and_names_stay_different():
    files = [
        b"scan\xff.nii",
        b"scan\xfe.nii",
        rb"scan\xff.nii",
        rb"a\b.nii",
        "Gr\u00f6\u00dfe.nii".encode(),
    ]
    names = names_of(Path(os.fsdecode(file)) for file in files)
    assert names == [r"scan\xff", r"scan\xfe", r"scan\x5cxff", r"a\b", "Gr\u00f6\u00dfe"]


def test_no_name_leaves_the_output_folder():
    """With --explain, tags of a DICOM file are part of a path."""
    series = ScanSource(Path("in/study"), in_folder="../../../etc")
    series = replace(series, series=SimpleNamespace(uid="../../../etc"))
    assert names_of([Path("...nii"), Path(".nii.gz")]) == ["...nii", ".nii.gz"]
    assert name_scans([series])[0].name == "study/.._.._.._etc"
