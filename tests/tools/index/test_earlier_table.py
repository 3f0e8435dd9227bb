"""Index of an export whose table exists: paths that change, and the salt."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multi_abnormality.tools.index import index_run
from multi_abnormality.utils.errors import InputError
from pacs_export import SECRETS, Export

Log = Callable[[], str]
OTHER_SALT = b"f" * 32
NAMING = "paths that contain the name, an id or the date of birth of their patient:"


def label(export: Export, **changes: str) -> None:
    """Set cells of all rows, as a person would."""
    rows = [row | changes for row in export.rows()]
    write(export.out, rows)


def write(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def moved_lines(log: Log) -> list[str]:
    return [line for line in log().splitlines() if "the present path of the series" in line]


@pytest.mark.parametrize("is_old", [False, True])
def test_links_replace_paths_that_name_patients(export: Export, logged: Log, is_old: bool):
    export.add("Mustermann_Erika/1", study="1.1")
    export.add("b/2", study="1.2", number="77002")
    export.index()
    assert f"{NAMING} 1; use --link before" in logged()
    label(export, Erguss="1")
    if is_old:  # its table of all series had fewer columns
        rows = export.rows(export.series_table)
        write(
            export.series_table,
            [{k: v for k, v in row.items() if k not in ("series", "salt")} for row in rows],
        )
    link = export.out.with_name("scans")
    before = logged()
    summary = export.index(link=link)
    assert (summary["added"], summary["kept"]) == (0, 2)
    rows = export.rows()
    assert [row["Erguss"] for row in rows] == ["1", "1"]
    assert {len(list((link.parent / row["scan"]).iterdir())) for row in rows} == {12}
    assert [secret for secret in SECRETS if secret in export.out.read_text().casefold()] == []
    log = logged()[len(before) :]
    assert "2 rows get the present path of the series; other cells are kept" in log
    assert "another series is preferred" not in log
    assert NAMING not in log
    table = export.out.read_bytes()
    export.index(link=link)
    assert export.out.read_bytes() == table
    export.index()  # links that exist are good paths
    assert export.out.read_bytes() == table


def test_paths_that_name_patients_are_reported_of_all_rows(export: Export, logged: Log):
    """Also of studies that are not in this export, and of rows that are kept."""
    folder = export.folder
    export.folder = folder.with_name("first")
    export.add("Mustermann/1", study="1.1")
    export.index()
    export.folder = folder
    export.add("b/2", study="1.2", number="77002")
    for link in (None, export.out.with_name("scans")):
        before = logged()
        export.index(link=link)
        log = logged()[len(before) :]
        assert f"{NAMING} 1; " in log
        assert ("data/export does not have their series: use --link" in log) == bool(link)
    export.folder = folder.with_name("first")
    before = logged()
    export.index(link=export.out.with_name("scans"))
    assert NAMING not in logged()[len(before) :]
    assert all(row["scan"].startswith("scans/P") for row in export.rows())


def test_a_series_that_a_person_chose_is_linked(export: Export, logged: Log):
    export.add("a/SE1", ConvolutionKernel="Br36")
    export.add("a/SE2", ConvolutionKernel="Br64")
    export.index()
    assert export.rows()[0]["scan"] == "export/a/SE1"
    label(export, scan="export/a/SE2")
    export.index(link=export.out.with_name("scans"))
    (row,) = export.rows()
    linked = export.out.parent / row["scan"]
    assert (linked / "0001").resolve() == export.folder / "a/SE2/IM0000"
    assert "1 study keeps its row, although another series is preferred" in logged()


@pytest.mark.parametrize("is_linked", [False, True])
def test_rows_of_another_export_stay_among_all_series(export: Export, is_linked: bool):
    """As their paths may be the same, studies tell them apart."""
    link = export.out.with_name("scans") if is_linked else None
    export.add("a/1", study="1.1")
    export.index(link=link)
    (first,) = export.rows(export.series_table)
    export.folder = export.folder.with_name("later")
    export.add("a/1", study="1.2", number="77002", ConvolutionKernel="Br64")
    for _ in range(2):
        export.index(link=link)
        second, kept = export.rows(export.series_table)
        assert kept == first | {"reason": "in the table from an earlier run"}
        assert (second["kernel"], second["reason"]) == ("Br64", "the only candidate")
    assert [row["kernel"] for row in export.rows()] == ["Br40", "Br64"]


def test_only_scans_that_are_not_linked_are_slow(
    export: Export, logged: Log, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index_run, "MAX_FILES_BESIDE", 20)
    for number in range(2):
        export.add(str(number), study=f"1.{number}")
        for path in (export.folder / str(number)).iterdir():
            path.rename(export.folder / f"{number}_{path.name}")
        (export.folder / str(number)).rmdir()
    export.index()
    assert "2 scans are in folders of more than 20 files" in logged()
    export.index(link=export.out.with_name("scans"))
    before = logged()
    export.index()
    assert "of more than 20 files" not in logged()[len(before) :]


@pytest.mark.parametrize("change", ["moved", "renamed", "root", "moved after another"])
def test_rows_follow_their_series(export: Export, logged: Log, change: str, tmp_path: Path):
    export.add("a/SE1", ConvolutionKernel="Br64")
    export.index()
    export.add("a/SE2", ConvolutionKernel="Br36")  # would be preferred
    label(export, Erguss="1")
    expected, options = "export/a/SE1", {}
    if change == "root":
        options = {"root": tmp_path}
        expected = "data/export/a/SE1"
    elif change == "renamed":
        (export.folder / "a").rename(export.folder / "b")
        expected = "export/b/SE1"
    else:
        moved = export.folder.with_name("moved")
        export.folder.rename(moved)
        if change == "moved after another":
            export.add("x", study="1.7", number="77")
            export.index()
        export.folder, expected = moved, "moved/a/SE1"
    export.index(**options)
    row = export.rows()[0]
    assert (row["scan"], row["Erguss"]) == (expected, "1")
    assert len(moved_lines(logged)) == 1
    assert "1 study keeps its row" in logged()
    is_whole = change != "moved after another"  # otherwise the table has a study of that one
    assert ("not chosen now" in logged().split("1 row gets")[-1]) != is_whole


def test_another_salt_is_refused_although_no_path_is_known(export: Export):
    """Also after a spreadsheet has saved the tables."""
    folder = export.folder
    export.add("a", study="1.1")
    export.index()
    write(export.series_table, export.rows(export.series_table), ";")
    before = export.out.read_bytes(), export.series_table.read_bytes()
    export.folder = folder.with_name("later")
    export.add("b", study="1.2")
    with pytest.raises(InputError, match=r"labels\.csv: was written with another salt.*--salt"):
        export.index(salt=OTHER_SALT)
    assert (export.out.read_bytes(), export.series_table.read_bytes()) == before
    export.index()
    patients = [row["patient"] for row in export.rows()]
    assert len(patients) == 2
    assert len(set(patients)) == 1


def test_tables_without_a_fingerprint_are_checked_by_their_paths(export: Export):
    export.add("a")
    export.index()
    export.series_table.unlink()
    with pytest.raises(InputError, match="written with another salt"):
        export.index(salt=OTHER_SALT)
    export.index()
    assert export.rows(export.series_table)[0]["salt"]


def test_a_corrected_patient_is_kept(export: Export, logged: Log):
    """Such as two ids of one patient, once the salt is known to be the same."""
    export.add("a/1", study="1.1", number="77001")
    export.add("b/2", study="1.2", number="0077001")
    export.index()
    first, second = export.rows()
    write(export.out, [first, second | {"patient": first["patient"]}])
    export.index()
    assert {row["patient"] for row in export.rows()} == {first["patient"]}
    assert "1 row has another pseudonym of the patient than the export gives now" in logged()


def test_labels_that_are_entered_meanwhile_are_not_overwritten(
    export: Export, monkeypatch: pytest.MonkeyPatch
):
    export.add("a/1", study="1.1")
    export.index()
    export.add("b/2", study="1.2", number="77002")
    read = index_run.read_export

    def read_slowly(*args: Any) -> Any:
        label(export, Erguss="1")
        return read(*args)

    monkeypatch.setattr(index_run, "read_export", read_slowly)
    with pytest.raises(InputError, match="was changed while the export was read"):
        export.index()
    assert [row["Erguss"] for row in export.rows()] == ["1"]
