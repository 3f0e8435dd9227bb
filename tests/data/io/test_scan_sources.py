"""Finding the scans at a path: files, series, folders and .zip files."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import chest, ct_slice, write_bare, write_enhanced, write_other, write_series
from multi_abnormality.data.catalog.custom_files import unlisted_scans
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.scan_sources import find_scans, natural_key, resolve_scan
from multi_abnormality.utils.errors import UnusableScan

HU = chest()


def names(path: Path) -> list[str]:
    return [source.name for source in find_scans(path)]


def sizes(path: Path) -> dict[str, int]:
    return {source.name: len(source.files) for source in find_scans(path)}


def nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(HU.T, np.diag([2.0, 3.0, 4.0, 1.0])), path)
    return path


def test_a_folder_contains_all_scans_below(tmp_path: Path) -> None:
    write_series(tmp_path / "b/series", HU, series="1.1")
    write_series(tmp_path / "a10", HU, series="1.2")
    write_series(tmp_path / "a9", HU, series="1.3")
    nifti(tmp_path / "b/scan.nii.gz")
    (tmp_path / "b/SCAN2.NII.GZ").write_bytes((tmp_path / "b/scan.nii.gz").read_bytes())
    (tmp_path / "b/._scan.nii.gz").touch()
    (tmp_path / ".cache").mkdir()
    nifti(tmp_path / ".cache/scan.nii.gz")
    (tmp_path / "labels.csv").write_text("a,b\n")

    assert names(tmp_path) == ["a9", "a10", "SCAN2", "scan", "series"]


def test_a_file_is_one_scan(tmp_path: Path) -> None:
    source = resolve_scan(nifti(tmp_path / "a.nii.gz"))

    assert (source.path, source.name, source.series) == (tmp_path / "a.nii.gz", "a", None)
    assert source.files == (tmp_path / "a.nii.gz",)


def test_the_separate_voxel_file_is_one_of_the_scans_files(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(HU.T, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.hdr")

    (source,) = find_scans(tmp_path)

    assert source.files == (tmp_path / "a.hdr", tmp_path / "a.img")


@pytest.mark.parametrize("name", ["IM{}", "{}.dcm", "{}.DCM", "{}.1.2.840", "{}.jpg"])
@pytest.mark.parametrize("implicit", [True, False])
def test_a_series_is_known_by_its_content(tmp_path: Path, name: str, implicit: bool) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for index, plane in enumerate(HU):
        write_bare(tmp_path / "a/b" / name.format(index), ct_slice(plane, index), implicit)

    for path in (tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b" / name.format(3)):
        (source,) = find_scans(path)
        assert source.path == tmp_path / "a/b"
        assert source.name == "b"
        np.testing.assert_array_equal(read_volume(source).hu, HU)


def test_a_series_over_several_subfolders_is_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "study", HU, name=lambda index: f"{index // 5}/{index}")

    (source,) = find_scans(tmp_path)

    assert source.path == tmp_path / "study"
    np.testing.assert_array_equal(read_volume(tmp_path / "study").hu, HU)


def test_two_exports_of_a_series_are_two_scans(tmp_path: Path) -> None:
    write_series(tmp_path / "first", HU)
    shutil.copytree(tmp_path / "first", tmp_path / "second")

    assert sizes(tmp_path) == {"first": 12, "second": 12}


def test_without_series_uids_each_folder_is_a_series(tmp_path: Path) -> None:
    for name in "ab":
        write_series(tmp_path / name, HU, lambda data, _: setattr(data, "SeriesInstanceUID", ""))

    assert sizes(tmp_path) == {"a": 12, "b": 12}


def study(folder: Path, numbers: tuple[int, int] = (4, 5)) -> Path:
    """Two CT series, a localizer and a report in one folder."""
    for index, number in enumerate(numbers):
        write_series(
            folder,
            HU,
            lambda data, _, n=number: setattr(data, "SeriesNumber", n),
            name=f"{index}-{{:03d}}".format,
            series=f"1.2.{index}",
        )
    scout = ct_slice(HU[0], 0, series="1.2.9")
    scout.ImageType, scout.SeriesNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 1
    scout.SeriesDescription = "Topogram"
    scout.save_as(folder / "scout", enforce_file_format=True)
    write_other(folder / "SR", "1.2.840.10008.5.1.4.1.1.88.67", "SR")
    return folder


def test_the_series_of_a_study_are_listed(tmp_path: Path) -> None:
    folder = study(tmp_path / "study")

    assert names(folder) == ["study/1", "study/4", "study/5"]
    with pytest.raises(UnusableScan) as caught:
        resolve_scan(folder)
    message = str(caught.value)
    assert "holds 3 scans; name one of them" in message
    assert "study/4: Chest 1.0 number 4, 12 slices, 4 x 3 x 2 mm, kernel B70f" in message
    assert "study/1: Topogram" in message
    assert "localizer" in message


def test_series_of_one_number_have_their_uid_for_a_name(tmp_path: Path) -> None:
    assert names(study(tmp_path / "a", (4, 4))) == ["a/1.2.0", "a/1.2.1", "a/1.2.9"]


def test_one_file_names_its_series(tmp_path: Path) -> None:
    folder = study(tmp_path / "study")

    source = resolve_scan(folder / "1-003")

    assert source.name == "study/5"
    assert len(source.files) == 12


def test_of_several_series_the_only_usable_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path, HU)
    scout = ct_slice(HU[0], 0, series="1.2.9")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(tmp_path / "scout", enforce_file_format=True)

    with caplog.at_level(logging.WARNING):
        source = resolve_scan(tmp_path)

    assert len(source.files) == 12
    assert "localizer" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"some text" * 99, "no DICOM file"), (b"\x08\0\x05\0" * 99, "no DICOM")],
)
def test_an_unknown_file_is_described(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "scan.dcm").write_bytes(content)

    assert find_scans(tmp_path) == []
    for path in (tmp_path / "scan.dcm", tmp_path):
        with pytest.raises(UnusableScan, match=reason):
            resolve_scan(path)


def test_a_file_that_only_begins_like_dicom_is_ignored(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    write_series(tmp_path, HU)
    for number in range(20):
        junk = b"\x08\x00\x16\x00SQ\0\0" + generator.bytes(400)
        (tmp_path / f"junk{number}").write_bytes(junk)

    np.testing.assert_array_equal(read_volume(tmp_path).hu, HU)


def test_a_report_is_described(tmp_path: Path) -> None:
    write_other(tmp_path / "SR.dcm", "1.2.840.10008.5.1.4.1.1.88.67", "SR")

    for path in (tmp_path / "SR.dcm", tmp_path):
        with pytest.raises(UnusableScan, match="X-Ray Radiation Dose SR"):
            resolve_scan(path)


def test_a_zip_below_a_folder_is_a_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "in/a", HU)
    (tmp_path / "out").mkdir()
    shutil.make_archive(str(tmp_path / "out/scan"), "zip", tmp_path / "in")
    (tmp_path / "out/broken.zip").write_bytes(b"PK")

    broken, sound = find_scans(tmp_path / "out")

    assert (broken.path.name, sound.name) == ("broken.zip", "scan")
    assert sound.files == (tmp_path / "out/scan.zip",)
    np.testing.assert_array_equal(read_volume(sound).hu, HU)
    with pytest.raises(UnusableScan, match="is a damaged"):
        read_volume(broken)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write_series(tmp_path / "a", HU)
    (tmp_path / "a/circle").symlink_to(tmp_path)

    assert names(tmp_path) == ["a"]


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("d" * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)
    (deep / "a.nii").touch()
    try:
        assert [source.path for source in find_scans(tmp_path)] == [deep / "a.nii"]
        assert list(unlisted_scans(tmp_path, [])) == [deep / "a.nii"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil recurses


def test_hidden_folders_hold_no_scans(tmp_path: Path) -> None:
    """Such as the snapshots that a file server keeps in each folder."""
    write_series(tmp_path / "a", HU)
    write_series(tmp_path / ".snapshot/a", HU)

    assert names(tmp_path) == ["a"]
    assert list(unlisted_scans(tmp_path, [])) == [tmp_path / "a"]


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert find_scans(tmp_path) == []


def test_an_enhanced_file_is_a_scan_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_enhanced(
            tmp_path / f"{name}.dcm",
            HU,
            lambda data, _, uid=f"1.2.{name}": setattr(data, "SeriesInstanceUID", uid),
        )

    assert len(find_scans(tmp_path)) == 2
    assert len(find_scans(tmp_path / "a.dcm")) == 1


def test_numbers_in_names_are_sorted_by_value() -> None:
    assert sorted(map(Path, ("a10", "a9", "a", "b/2", "b/10")), key=natural_key) == [
        Path(name) for name in ("a", "a9", "a10", "b/2", "b/10")
    ]


def test_a_missing_path_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resolve_scan(tmp_path / "none")


def in_two_folders(folder: Path) -> Path:
    """A series with one half each in S0 and S1."""
    write_series(folder, HU, name=lambda index: f"S{index // 6}/{index:03d}.dcm")
    return folder


def test_a_copy_in_the_other_half_does_not_split_a_series(tmp_path: Path) -> None:
    folder = in_two_folders(tmp_path)
    shutil.copy(folder / "S0/003.dcm", folder / "S1/003.dcm")
    shutil.copy(folder / "S1/006.dcm", folder / "S0/006.dcm")

    (source,) = find_scans(folder)

    np.testing.assert_array_equal(read_volume(source).hu, HU)


def test_one_file_of_a_series_over_folders_names_all_of_it(tmp_path: Path) -> None:
    folder = in_two_folders(tmp_path)
    write_series(tmp_path / "another", HU, series="1.9")

    (source,) = find_scans(folder / "S1/008.dcm")

    assert len(source.files) == len(HU)
    np.testing.assert_array_equal(read_volume(folder / "S1/008.dcm").hu, HU)


def test_one_file_of_an_exported_copy_names_that_copy(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_series(tmp_path / name, HU)
    (source,) = find_scans(tmp_path / "B/002.dcm")
    assert {file.parent.name for file in source.files} == {"B"}


@pytest.mark.parametrize("suffix", [".img", ".IMG", ".hdr"])
def test_dicom_files_may_have_the_suffix_of_another_format(tmp_path: Path, suffix: str) -> None:
    write_series(tmp_path / "series", HU, name=lambda index: f"IM{index}{suffix}")
    assert names(tmp_path) == ["series"]
    for path in (tmp_path / "series", tmp_path / f"series/IM3{suffix}"):
        np.testing.assert_array_equal(read_volume(path).hu, HU)


def test_a_broken_link_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path, HU)
    (tmp_path / "099.dcm").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_volume(tmp_path).hu, HU)
    assert "099.dcm: broken link" in caplog.text
