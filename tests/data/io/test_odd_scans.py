"""Oddly stored scans are read as their well-formed twins, or refused for the true reason."""

import re
from pathlib import Path

import numpy as np
import pytest

from chest_files import SLICES, save_dataset, slice_dataset, write_nifti, write_series
from multi_abnormality.data.io.read import Volume, read_volume
from multi_abnormality.data.io.scan_sources import find_scans, resolve_scan
from multi_abnormality.utils.errors import InputError
from odd_scans import CASES, Case

EQUAL = [name for name, case in CASES.items() if not case.reason]
EITHER = [name for name, case in CASES.items() if case.either]
REFUSED = [name for name, case in CASES.items() if case.reason and not case.either]


def read(path: Path) -> Volume:
    (source,) = find_scans(path)
    return read_volume(source)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return read(write_series(tmp_path_factory.mktemp("plain")))


def check_equal(volume: Volume, right: Volume) -> None:
    np.testing.assert_array_equal(volume.hu, right.hu)
    assert volume.spacing == pytest.approx(right.spacing, rel=0.01)


def twin(case: Case, folder: Path, plain: Volume) -> Volume:
    if case.twin is None:
        return plain
    (folder / "twin").mkdir()
    return read(case.twin(folder / "twin"))


def write_odd(case: Case, folder: Path) -> Path:
    (folder / "odd").mkdir()
    return case.odd(folder / "odd")


@pytest.mark.parametrize("name", EQUAL)
def test_is_read_as_its_twin(tmp_path: Path, plain: Volume, name: str) -> None:
    volume = read(write_odd(CASES[name], tmp_path))

    check_equal(volume, twin(CASES[name], tmp_path, plain))
    assert re.search(CASES[name].notes, "; ".join(volume.notes))


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_for_the_true_reason(tmp_path: Path, name: str) -> None:
    odd = write_odd(CASES[name], tmp_path)

    with pytest.raises(InputError, match=CASES[name].reason) as caught:
        read(odd)

    assert odd.name in str(caught.value)
    assert not re.search("truncated|damaged", str(caught.value))


@pytest.mark.parametrize("name", EITHER)
def test_is_right_or_refused(tmp_path: Path, plain: Volume, name: str) -> None:
    odd = write_odd(CASES[name], tmp_path)

    try:
        volume = read(odd)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        check_equal(volume, twin(CASES[name], tmp_path, plain))

    assert not message or re.search(CASES[name].reason, message)


def test_a_study_lists_its_series_and_leaves_the_choice(tmp_path: Path, plain: Volume) -> None:
    write_series(tmp_path / "study", name=lambda k: f"a{k:03d}")
    for index in range(SLICES):
        dataset = slice_dataset(index)
        dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3.90", 4
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.90.{index}"
        dataset.SeriesDescription = "Chest 12.0 B70f"
        save_dataset(dataset, tmp_path / "study" / f"b{index:03d}")

    sources = find_scans(tmp_path / "study")

    assert [source.series.description for source in sources] == [
        "Chest 12.0 B30f",
        "Chest 12.0 B70f",
    ]
    for source in sources:
        check_equal(read_volume(source), plain)
    with pytest.raises(InputError, match=r"Chest 12\.0 B30f") as caught:
        resolve_scan(tmp_path / "study")
    assert "Chest 12.0 B70f" in str(caught.value)
    check_equal(read_volume(resolve_scan(tmp_path / "study" / "b003")), plain)


def test_a_folder_of_scans_is_found_by_one_rule(tmp_path: Path) -> None:
    """What is read when it is named is found when its parent is named."""
    write_series(tmp_path / "series", name=lambda k: f"IM{k}")
    write_nifti(tmp_path / "scan.NII.GZ".lower()).rename(tmp_path / "scan.NII.GZ")
    write_nifti(tmp_path / "pair.hdr")

    names = [source.path.name for source in find_scans(tmp_path)]

    assert sorted(names) == ["pair.hdr", "scan.NII.GZ", "series"]
