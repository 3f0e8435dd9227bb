"""Choice of the series of a study, and reasons against the others."""

import logging
import zipfile
from pathlib import Path

import pytest

from dicom_files import chest, write_series
from multi_abnormality.data.io.dicom_image_type import derivation_of
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.inference.input_scans import find_scans
from multi_abnormality.utils.errors import UnusableScan

HU = chest()
ORIGINAL = ["ORIGINAL", "PRIMARY", "AXIAL"]


def write(folder: Path, number: int, image_type: list[str], description: str = "Chest") -> Path:
    def edit(data: object, _: int) -> None:
        data.SeriesNumber, data.ImageType, data.SeriesDescription = number, image_type, description

    return write_series(folder, HU, edit, f"{number}_{{}}".format, series=f"1.2.{number}")


def numbers(path: Path, *series: str) -> list[int]:
    found = find_scans([path], series)
    assert (found.faults, found.unused) == ([], [])
    return [source.series.number for source in found.scans]


@pytest.mark.parametrize(
    ("image_type", "description", "name"),
    [
        ("ORIGINAL\\PRIMARY\\AXIAL", "MIP", ""),
        ("ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI", "Thorax 1.0", ""),
        ("ORIGINAL\\SECONDARY\\AXIAL\\CT_SOM7 SPI DUAL", "", ""),
        ("DERIVED\\PRIMARY\\AXIAL", "Chest", ""),
        ("", "Chest", ""),
        ("DERIVED\\SECONDARY\\AXIAL", "Chest", "derived secondary images"),
        ("DERIVED\\SECONDARY", "MIP 10 mm", "maximum intensity projection"),
        ("DERIVED\\SECONDARY\\OTHER", "cor MPR", "reformat"),
        ("DERIVED\\SECONDARY\\MIP", "", "maximum intensity projection"),
        ("DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MIP", "", "maximum intensity projection"),
        ("DERIVED\\PRIMARY\\VOLUME\\MAX_IP", "", "maximum intensity projection"),
        ("DERIVED\\SECONDARY\\MIN_IP", "", "minimum intensity projection"),
        ("DERIVED\\SECONDARY\\PROJECTION IMAGE", "", "projection"),
        ("DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE", "", "reformat"),
        ("DERIVED\\PRIMARY\\AXIAL\\CT_SOM5 MPR", "", "reformat"),
        ("DERIVED\\SECONDARY\\VRT", "", "3D rendering"),
    ],
)
def test_kinds_of_images(image_type: str, description: str, name: str) -> None:
    assert derivation_of([image_type, image_type, "ORIGINAL"], description).name == name


@pytest.mark.parametrize(
    "image_type",
    [
        ["DERIVED", "SECONDARY", "MIP"],
        ["DERIVED", "SECONDARY", "MPR"],
        ["DERIVED", "SECONDARY", "PROJECTION IMAGE"],
        ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"],
        ["DERIVED", "SECONDARY", "AXIAL"],
    ],
)
def test_the_original_is_predicted_and_not_derived_series(
    tmp_path: Path, image_type: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 2, image_type)
    write(tmp_path, 7, ORIGINAL)
    assert numbers(tmp_path) == [7]
    assert numbers(tmp_path, "2") == [2]
    with caplog.at_level(logging.WARNING):
        assert resolve_scan(tmp_path).series.number == 7
    assert "left out" in caplog.text


def test_paths_may_be_strings(tmp_path: Path) -> None:
    folder = write(tmp_path / "study", 2, ORIGINAL)
    for given in (folder, str(folder), [str(folder)]):
        assert [source.path for source in find_scans(given, []).scans] == [folder]


def test_a_projection_is_never_predicted_unless_it_is_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "study", 2, ["DERIVED", "SECONDARY", "MIP"])
    found = find_scans([folder])
    assert found.scans == []
    (fault,) = found.faults
    assert "(maximum intensity projection); choose one by --series" in fault
    assert numbers(folder, "2") == [2]
    with pytest.raises(UnusableScan, match="its only series is a maximum intensity projection"):
        resolve_scan(folder)
    with caplog.at_level(logging.WARNING):
        read_volume(folder / "2_3")
    assert "is a maximum intensity projection" in caplog.text


def test_reformats_without_an_original_are_predicted(tmp_path: Path) -> None:
    write(tmp_path, 2, ["DERIVED", "SECONDARY", "MPR"])
    write(tmp_path, 3, ["DERIVED", "SECONDARY", "MIP"])
    assert numbers(tmp_path) == [2]


def test_a_reformat_is_predicted_where_the_original_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, 2, ["DERIVED", "SECONDARY", "MPR"])
    write(tmp_path, 3, ORIGINAL)
    for index in (4, 5):
        (tmp_path / f"3_{index}").unlink()
    found = find_scans([tmp_path])
    assert [source.series.number for source in found.scans] == [2, 3]


def test_an_unknown_series_is_an_error(tmp_path: Path) -> None:
    found = find_scans([write(tmp_path, 7, ORIGINAL)], ["7", "9"])
    assert len(found.scans) == 1
    assert found.faults == []
    assert found.unused[0].startswith("--series 9: there is no such series")


def test_a_folder_of_archives_alone_names_them(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("a.nii.gz", b"")
    (tmp_path / "scans.tar.gz").write_bytes(b"packed")
    (fault,) = find_scans([tmp_path]).faults
    assert "scan.zip: a .zip without a DICOM series" in fault
    assert "scans.tar.gz: no DICOM file" in fault


def test_archives_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_series(tmp_path / "series", HU)
    for name, member in (("scan.zip", "a.nii.gz"), ("series.zip", None)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in sorted((tmp_path / "series").iterdir()) if member is None else ():
                archive.write(file, file.name)
            if member:
                archive.writestr(member, b"")
    (tmp_path / "scans.tar.gz").touch()
    found = find_scans([tmp_path])
    assert (len(found.scans), found.faults) == (2, [])
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned.startswith(f"2 archives in {tmp_path} left out")
    assert f"{tmp_path}/scan.zip, {tmp_path}/scans.tar.gz." in warned
