"""Index of an export: from files as a hospital exports them to a table that trains."""

import csv
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from dicom_files import chest, ct_slice, write_bare, write_enhanced
from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.custom import read_custom
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import preprocess
from multi_abnormality.tools.index import export_walk
from multi_abnormality.utils.errors import InputError
from pacs_export import MR_IMAGE, SALT, SECRETS, SPACING, Export

Log = Callable[[], str]


def a_study(export: Export) -> None:
    """A study as it leaves an archive: of seven series one is to be chosen."""
    export.add("ST1/SE1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], slices=2)
    export.add("ST1/SE2", ConvolutionKernel="Br64", SeriesNumber=2)
    export.add("ST1/SE3", ConvolutionKernel="Br36", SeriesNumber=3)
    export.add("ST1/SE4", ImageType=["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"])
    export.add("ST1/SE5", BodyPartExamined="HEAD")
    export.add("ST1/SE6", Modality="MR", SOPClassUID=MR_IMAGE)
    export.add("ST1/SE7", slices=5)
    export.add_other("ST1/SE8/IM0")
    export.add_other("DICOMDIR", "1.2.840.10008.1.3.10", "")
    (export.folder / "ST1/readme.txt").write_text("viewer")


def fill(export: Export, **changes: str) -> None:
    """Fill the labels as a person would, in the order of the rows: 1, 0, 1, 0 ..."""
    rows = export.rows()
    for number, row in enumerate(rows):
        row |= {"Erguss": str(number % 2), "Emphysem": str((number + 1) % 2), **changes}
    with export.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_one_series_of_a_study_is_chosen_and_all_have_a_reason(export: Export, logged: Log):
    a_study(export)
    summary = export.index()
    (row,) = export.rows()
    assert row | {"patient": "", "study": ""} == {
        "scan": "export/ST1/SE3", "patient": "", "study": "", "study_date": "2024-01-31",
        "manufacturer": "SIEMENS", "model": "Force", "kernel": "Br36", "thickness": "15",
        "spacing": "15", "slices": "12", "sex": "F", "age": "59", "Erguss": "", "Emphysem": "",
    }  # fmt: skip
    assert export.reasons() == {
        "export/ST1/SE1": "localizer",
        "export/ST1/SE2": "sharp kernel; chosen: export/ST1/SE3",
        "export/ST1/SE3": "soft kernel",
        "export/ST1/SE4": "maximum intensity projection",
        "export/ST1/SE5": "body part HEAD",
        "export/ST1/SE6": "not CT but MR",
        "export/ST1/SE7": "covers 75 mm, less than 150 mm",
    }
    assert [row["chosen"] for row in export.rows(export.series_table)].count("yes") == 1
    assert summary["files"] == 2 + 4 * 12 + 12 + 5 + 3
    assert (summary["chosen"], summary["studies"], summary["patients"]) == (1, 1, 1)
    assert summary["other_files"] == {
        "Media Storage Directory, no image": 1,
        "X-Ray Radiation Dose SR, no image": 1,
        "no DICOM file": 1,
    }
    assert "maximum intensity projection (1)" in logged()


def test_the_filled_table_is_one_of_own_scans(export: Export, small_params: Params):
    """The result goes into `data:` as it is, and its scans through preprocess."""
    for number in range(6):
        export.add(
            f"{number}/A", study=f"1.{number}", number=f"P{number // 2}", series=f"2.{number}"
        )
        export.add(f"{number}/B", study=f"1.{number}", number=f"P{number // 2}",
                   series=f"3.{number}", ConvolutionKernel="Br64")  # fmt: skip
    mixed = export.folder / "0"  # two series in one folder: the table names a file
    for letter in "AB":
        for path in (mixed / letter).iterdir():
            path.rename(mixed / f"{letter}{path.name}")
        (mixed / letter).rmdir()
    export.index()
    fill(export)
    columns = small_params.data.columns.model_copy(
        update={"split": None, "age": "age", "sex": "sex", "kernel": "kernel"}
    )
    data = small_params.data.model_copy(
        update={"table": "labels.csv", "findings": ("Erguss", "Emphysem"), "columns": columns,
                "test_fraction": 0.4}
    )  # fmt: skip
    params = small_params.model_copy(update={"data": data})
    root, out = export.out.parent, export.out.parent.parent / "processed"
    catalog = read_custom(root, "labels.csv", data)
    assert len(catalog.volumes) == 6
    assert catalog.volumes["patient_id"].nunique() == 3
    summary = preprocess.run(params, root, out, out.parent / "metrics.json")
    assert sum(summary["volumes"].values()) == 6
    stored = ProcessedDataset(out)
    assert set(stored.volumes("train")["ConvolutionKernel"]) == {"Br40"}
    assert resolve_scan(root / export.rows()[0]["scan"]).series.uid == "2.0"


def test_nothing_names_the_patient(export: Export, logged: Log, tmp_path: Path):
    """Not the tables, the log, the cache or an error, whatever file is damaged."""
    export.add("ST1/SE1", SeriesDescription="Thorax Erika MUSTERMANN *12.08.1964", ProtocolName="x")
    export.add("ST2/SE1", study="1.10", ConvolutionKernel="=HOSP-4711")
    broken = export.add("ST3/SE1", study="1.11")
    content = (broken / "IM0003").read_bytes()
    (broken / "IM0003").write_bytes(content[: content.index(b"Mustermann") + 5])
    other = export.add("ST4/SE1", study="1.12")
    content = (other / "IM0003").read_bytes()
    (other / "IM0003").write_bytes(content.replace(b"LO\x0a\x00HOSP-4711", b"ZZ\xff\xffHOSP-4711"))
    export.index()
    reason = export.reasons()["export/ST3/SE1"]
    assert "IM0003" in reason
    texts = [export.out.read_text(), export.series_table.read_text(), logged()]
    texts += [
        path.read_bytes().decode("latin-1") for path in (tmp_path / "cache").rglob("*.sqlite")
    ]
    assert len(texts) == 4
    for text in texts:
        assert [secret for secret in SECRETS if secret in text.casefold()] == []
    shown = {row["scan"]: row for row in export.rows(export.series_table)}
    assert shown["export/ST1/SE1"]["description"] == "Thorax [removed] *[removed]"
    assert shown["export/ST2/SE1"]["kernel"] == "[removed]"


def test_no_tag_of_any_slice_names_the_patient(export: Export):
    """Identifiers of other tags, and those that only a later slice has."""
    folder = export.add(
        "a", SeriesDescription="Thorax ALT 999 ACC123 Geborene Alias Geheim",
        OtherPatientIDs=["x", "ALT-999"], AccessionNumber="ACC123", PatientBirthName="Geborene",
        OtherPatientNames=["Some^One", "Two^A^B^C^Alias"],
    )  # fmt: skip
    data = pydicom.dcmread(folder / "IM0007")
    data.PatientBirthName = "Geheim"
    data.save_as(folder / "IM0007")
    export.index()
    (row,) = export.rows(export.series_table)
    assert row["description"] == "Thorax" + 5 * " [removed]"


def test_paths_that_name_a_patient_are_reported_and_links_do_not(
    export: Export, logged: Log, tmp_path: Path
):
    export.add("Mustermann, Erika/CT")
    export.add("hosp_4711 2024/CT", study="1.10")
    export.add("plain/CT", study="1.11")
    export.index()
    assert "date of birth of their patient: 2; use --link" in logged()
    first = {row["study"]: row for row in export.rows()}
    export.out.unlink()
    link = tmp_path / "data/scans"
    export.index(link=link)
    rows = export.rows()
    assert [secret for secret in SECRETS if secret in export.out.read_text().casefold()] == []
    assert {row["study"]: row | {"scan": ""} for row in rows} == {
        study: row | {"scan": ""} for study, row in first.items()
    }
    for row in rows:
        assert row["scan"].startswith(f"scans/{row['patient']}/R")
        linked, given = (
            resolve_scan(tmp_path / "data" / one["scan"]) for one in (row, first[row["study"]])
        )
        assert linked.series.uid == given.series.uid
    before = {path: path.lstat().st_mtime_ns for path in link.rglob("*")}
    export.index(link=link)
    assert {path: path.lstat().st_mtime_ns for path in link.rglob("*")} == before
    linked = link.parent / rows[0]["scan"]
    for path in linked.iterdir():  # as `dvc add` does
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    export.index(link=link)
    assert not any(path.is_symlink() for path in linked.iterdir())
    (linked / "0001").write_bytes(b"something else")
    with pytest.raises(InputError, match="has other files than the export"):
        export.index(link=link)
    assert (linked / "0001").read_bytes() == b"something else"


def test_labels_are_kept_and_new_studies_are_appended(export: Export, logged: Log):
    export.add("b/SE1", study="1.2", ConvolutionKernel="Br64")
    export.index()
    fill(export, Emphysem="1")
    with export.out.open(encoding="utf-8") as file:
        text = (
            file.read().replace(",Emphysem", ",Emphysem,Note").replace(",0,1", ',0,1,"seen\nby A"')
        )
    export.out.write_text(text, encoding="utf-8-sig")
    export.add("a/SE1", study="1.1")
    export.add("b/SE2", study="1.2", ConvolutionKernel="Br36")  # would be preferred now
    export.index(findings=["Erguss", "Emphysem", "Cyst"])
    rows = export.rows()
    assert [row["\ufeffscan"] for row in rows] == ["export/b/SE1", "export/a/SE1"]
    assert [row["Note"] for row in rows] == ["seen\nby A", ""]
    assert [(row["Erguss"], row["Emphysem"], row["Cyst"]) for row in rows] == [
        ("0", "1", ""),
        ("", "", ""),
    ]
    assert "1 study keeps its row" in logged()
    before = export.out.read_bytes()
    export.index()
    assert export.out.read_bytes() == before


def test_another_salt_gives_other_pseudonyms_and_is_refused_for_the_same_table(export: Export):
    export.add("a/SE1")
    export.index()
    before = export.out.read_bytes()
    with pytest.raises(InputError, match="written with another salt"):
        export.index(salt=b"f" * 32)
    assert export.out.read_bytes() == before
    export.out.unlink()
    export.index(salt=b"f" * 32)
    assert export.out.read_bytes() != before
    export.out.unlink()
    export.index()
    assert export.out.read_bytes() == before


def test_a_table_of_something_else_is_not_changed(export: Export):
    export.add("a/SE1")
    export.out.write_text("name,value\nx,1\n")
    with pytest.raises(InputError, match="no column 'scan'"):
        export.index()
    assert export.out.read_text() == "name,value\nx,1\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from multi_abnormality.tools.index import export_walk, header_cache, index_run
read, header_cache.SAVE_SECONDS = export_walk.read_contents, 0.0
def stop(root, names, pseudonyms):
    if names[0].startswith("7/"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(root, names, pseudonyms)
export_walk.read_contents = stop
export, out = Path(sys.argv[1]), Path("other.csv")
index_run.index_export(export, out, None, sys.argv[2].encode(), [], "day", 1)
"""


def test_a_killed_run_continues(export: Export, logged: Log, tmp_path: Path):
    for number in range(10):
        export.add(f"{number}/SE1", study=f"1.{number}", series=f"2.{number}")
    command = [sys.executable, "-c", KILLED, str(export.folder), SALT.decode()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "other.csv").exists()
    export.index()
    assert "read headers: 7 of 10 parts already read" in logged()
    first = export.out.read_bytes()
    shutil.rmtree(tmp_path / "cache")
    export.out.unlink()
    export.index()
    assert export.out.read_bytes() == first


def test_a_changed_file_is_read_again(export: Export, logged: Log):
    folder = export.add("a/SE1")
    export.add("b/SE1", study="1.10")
    export.index()
    (folder / "IM0005").write_bytes((folder / "IM0005").read_bytes()[:700])
    export.index()
    assert export.reasons()["export/a/SE1"].startswith("IM0005")
    assert len(export.rows()) == 2  # a row that may have labels stays
    assert "1 row names a scan that is not chosen now" in logged()


@pytest.mark.parametrize("layout", ["one folder", "a folder for each slice", "mixed by slice"])
def test_series_are_joined_from_the_parts_that_are_read(
    export: Export, monkeypatch: pytest.MonkeyPatch, layout: str
):
    """However an export is laid out, and whatever one task reads, the series are the same."""
    for study in range(3):
        for series in range(2):
            name = f"{study}/{series}"
            export.add(name, study=f"1.{study}", series=f"2.{study}.{series}",
                       ConvolutionKernel=("Br64", "Br36")[series])  # fmt: skip
    for path in sorted(export.folder.glob("*/*/*")):
        study, series, name = path.parts[-3:]
        target = {
            "one folder": f"{name}_{study}_{series}",
            "a folder for each slice": f"{study}/{series}/{name}/0",
            "mixed by slice": f"{int(name[2:]) % 3}/{name}_{study}_{series}",
        }[layout]
        moved = export.folder.with_name("moved") / target
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    shutil.rmtree(export.folder)
    export.folder.with_name("moved").rename(export.folder)
    monkeypatch.setattr(export_walk, "UNIT_FILES", 5)
    if layout == "mixed by slice":
        with pytest.raises(InputError, match=r"path \(6\)"):
            export.index()
        assert set(export.reasons().values()) == {
            "spread over folders with other scans; use --link"
        }
    link = export.out.with_name("scans")
    export.index(link=link)
    assert [row["kernel"] for row in export.rows()] == ["Br36"] * 3
    found = {resolve_scan(path).series.uid for path in link.glob("*/*")}
    assert found == {"2.0.1", "2.1.1", "2.2.1"}


def odd_enhanced(export: Export) -> None:
    def edit(data, _index):
        data.StudyInstanceUID, data.PatientID, data.SeriesInstanceUID = "1.7", "E", "8.1"
        for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 15.0 * index]

    (export.folder / "e").mkdir()
    write_enhanced(export.folder / "e/one", chest(12, 16), edit)


def odd_copies(export: Export) -> None:
    folder = export.add("c", study="1.7")
    shutil.copy(folder / "IM0004", folder / "IM0004 (1)")


def odd_unnumbered(export: Export) -> None:
    export.add("u", study="1.7", InstanceNumber=None, SeriesNumber=None)


def odd_names(export: Export) -> None:
    export.add("Größe (neu), Müller/画像", study="1.7", PatientName="Müller^Jürgen",
               SpecificCharacterSet="ISO_IR 192")  # fmt: skip


def odd_empty_files(export: Export) -> None:
    folder = export.add("z", study="1.7")
    (folder / "IM9999").touch()


def odd_loop(export: Export) -> None:
    folder = export.add("l/SE", study="1.7")
    (folder.parent / "again").symlink_to(export.folder)
    (folder.parent / "broken").symlink_to("nowhere")


def odd_bare(export: Export) -> None:
    (export.folder / "b").mkdir()
    for index, plane in enumerate(chest(12, 16)):
        data = ct_slice(plane, index, SPACING, "8.2")
        data.StudyInstanceUID = "1.7"
        write_bare(export.folder / f"b/{index}", data)


def odd_zip(export: Export) -> None:
    folder = export.add("y", study="1.7")
    with zipfile.ZipFile(export.folder / "study.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    shutil.rmtree(folder)


ODD = [odd_enhanced, odd_copies, odd_unnumbered, odd_names, odd_empty_files, odd_loop, odd_bare,
       odd_zip]  # fmt: skip


@pytest.mark.parametrize("write", ODD)
def test_odd_exports_that_are_usable(export: Export, write: Callable[[Export], None]):
    export.add("ordinary", study="1.1")
    write(export)
    export.index()
    rows = export.rows()
    assert len(rows) == 2
    for row in rows:
        source = resolve_scan(export.out.parent / row["scan"])
        assert source.series.problem is None
        assert len(source.series.slices) == int(row["slices"]) == 12


def bad_acquisitions(export: Export) -> str:
    folder = export.add("SE", AcquisitionNumber=1)
    export.add("2", series=f"1.5.{sum(b'SE')}", AcquisitionNumber=2)
    for path in (export.folder / "2").iterdir():
        path.rename(folder / f"{path.name}b")
    return "different images at one position"


def bad_gap(export: Export) -> str:
    (export.add("SE") / "IM0004").unlink()
    return "slices are missing"


def bad_header(export: Export) -> str:
    path = export.add("SE") / "IM0004"
    path.write_bytes(path.read_bytes()[:300])
    return "IM0004: is truncated"


def bad_pixels(export: Export) -> str:
    path = export.add("SE") / "IM0004"
    path.write_bytes(path.read_bytes()[:-10])
    return "IM0004 is truncated"


def bad_patients(export: Export) -> str:
    export.add("SE")
    export.add("other", number="HOSP-1")
    return "its study has several patients"


def bad_coronal(export: Export) -> str:
    folder = export.add("SE", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for index, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = [0, 15.0 * index, 0]
        data.save_as(path)
    return "not axial"


def bad_length(export: Export) -> str:
    export.add("SE", slices=40)
    return "covers 600 mm, more than a chest (500 mm)"


BAD = [bad_acquisitions, bad_gap, bad_header, bad_pixels, bad_patients, bad_coronal, bad_length]


@pytest.mark.parametrize("write", BAD)
def test_exports_without_a_usable_series_say_why(export: Export, write: Callable[[Export], str]):
    expected = write(export)
    with pytest.raises(InputError, match="no series of chest CT that can be used") as caught:
        export.index()
    assert str(export.series_table) in str(caught.value)
    assert expected in " ".join(export.reasons().values())
    assert not export.out.exists()


def test_an_export_of_something_else_is_named(export: Export):
    with pytest.raises(InputError, match="holds no files"):
        export.index()
    export.add("SE", Modality="MR", SOPClassUID=MR_IMAGE)
    export.add_other("report")
    (export.folder / "scan.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        export.index()
    for words in ("not CT (MR) (1)", "X-Ray Radiation Dose SR, no image (1)", "NIfTI file (1)"):
        assert words in str(caught.value)


def test_damaged_files_are_counted_and_listed(export: Export):
    export.add("good")
    path = export.add("bad", study="1.10") / "IM0004"
    path.write_bytes(path.read_bytes()[:300])
    (export.folder / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    summary = export.index()
    assert summary["damaged_files"] == 2
    reasons = export.reasons()
    assert reasons["export/bad/IM0004"].startswith("damaged file: is truncated")
    assert reasons["export/broken.zip"].startswith("damaged file: is a damaged .zip")
    assert [row["scan"] for row in export.rows()] == ["export/good"]


def test_patients_that_may_be_others_are_reported(export: Export, logged: Log):
    export.add("a", study="1.1", number="ANON")
    export.add("b", study="1.2", number="ANON", PatientBirthDate="19700101")
    export.add("c", study="1.3", number="", PatientName="", PatientBirthDate="")
    export.add("d", study="1.4", number="17", IssuerOfPatientID="North")
    export.add("e", study="1.5", number="17")
    export.add("f", study="1.6", number="")
    export.add("g", study="1.7", number="")
    export.index()
    patients = [row["patient"] for row in export.rows()]
    assert patients[0] == patients[1]
    assert patients[5] == patients[6]  # by name and date of birth
    assert len(set(patients)) == 5
    for words in ("1 study names no patient", "1 patient id has several dates of birth",
                  "1 patient id has several issuers"):  # fmt: skip
        assert words in logged()


def test_ids_that_are_similar_or_placeholders_are_reported(export: Export, logged: Log):
    for number, (patient_id, name) in enumerate(
        [("0077123", "Müller^Eva"), ("77123", "MUELLER^EVA"), ("abc 1", "Doe^Jane"),
         ("ABC1", "Doe^Jane"), ("ANONYM", "One^A"), ("ANONYM", "Two^B"), ("", "Three^C"),
         ("", "Four^D"), ("17", "Same^Name"), ("17", "SAME^NAME")]
    ):  # fmt: skip
        export.add(
            f"s{number}/a", study=f"1.{number}", number=patient_id, PatientName=name,
            PatientBirthDate="19640812" if not patient_id else "",
        )  # fmt: skip
    export.add("Doe/a", study="1.99", number="abc1", PatientName="Doe^Jane", PatientBirthDate="")
    export.index()
    shown = {row["scan"]: row["patient"] for row in export.rows()}
    first = {
        name: f"{shown[f'export/{name}/a']} ({name}/a/IM0000"
        for name in map("s{}".format, range(10))
    }
    (several,) = [line for line in logged().splitlines() if "several names" in line]
    assert "1 patient id has several names" in several
    assert f"{first['s4']}, s5/a/IM0000)" in several
    (empty,) = [line for line in logged().splitlines() if "patients have no id" in line]
    assert empty.endswith(
        f"2 patients have no id: they are distinguished by name and date of "
        f"birth; see {first['s6']}), {first['s7']})"
    )
    (similar,) = [line for line in logged().splitlines() if "written in several ways" in line]
    assert "2 patient ids are written" in similar
    for name in ("s0", "s1", "s2", "s3"):
        assert f"{first[name]})" in similar
    for secret in ("77123", "abc", "Doe", "ANONYM"):
        assert secret not in logged()


@pytest.mark.parametrize(
    ("dates", "shown"), [("day", "2024-01-31"), ("year", "2024"), ("none", "")]
)
def test_dates_show_no_more_than_wanted(export: Export, dates: str, shown: str):
    export.add("a")
    export.index(dates=dates)
    assert export.rows()[0]["study_date"] == shown
    assert export.rows(export.series_table)[0]["study_date"] == shown


def test_paths_start_where_the_table_or_the_option_has_it(export: Export, tmp_path: Path):
    export.add("a")
    elsewhere = tmp_path / "tables/labels.csv"
    export.out = elsewhere
    export.index()
    assert export.rows()[0]["scan"] == "a"
    elsewhere.unlink()
    export.index(root=tmp_path)
    assert export.rows()[0]["scan"] == "data/export/a"
    with pytest.raises(InputError, match="--root"):
        export.index(root=tmp_path / "tables")


def test_a_copy_of_a_series_is_named(export: Export):
    export.add("a")
    shutil.copytree(export.folder / "a", export.folder / "b")
    export.index()
    assert export.reasons() == {
        "export/a": "copy of one series",
        "export/b": "copy of one series; chosen: export/a",
    }


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(9000)])
def test_a_damaged_cache_is_made_again(export: Export, logged: Log, tmp_path: Path, content: bytes):
    export.add("a")
    export.index()
    before = export.out.read_bytes()
    export.out.unlink()
    (cache,) = (tmp_path / "cache").rglob("*.sqlite")
    cache.write_bytes(content)
    export.index()
    assert export.out.read_bytes() == before
    assert "all headers are read again" in logged()
    assert "already read" not in logged()


def test_links_do_not_lie_in_the_export(export: Export):
    export.add("a")
    for link in (export.folder / "links", export.folder.parent):
        with pytest.raises(InputError, match="--link"):
            export.index(link=link)
