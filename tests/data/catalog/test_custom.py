"""Custom datasets: errors and warnings about the table and its scans."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dicom_files import chest, write_series
from multi_abnormality.data.catalog.catalog import GROUPS
from multi_abnormality.data.catalog.custom_files import unlisted_scans
from multi_abnormality.data.catalog.identifier_spelling import canonical, quote
from multi_abnormality.data.catalog.read_catalog import read_catalog
from own_folder import FINDINGS, GERMAN, GERMAN_ROWS, HEADER, ROWS, OwnFolder, settings

FIX = "use one of them, or add it to a list of data.values in params.yaml"


@pytest.fixture
def own(tmp_path: Path) -> OwnFolder:
    return OwnFolder(tmp_path / "data")


def test_each_row_is_a_scan_under_its_own_name(own: OwnFolder):
    volumes = own.read()
    assert volumes["name"].tolist() == ["a/one", "a/two", "b/nine", "b/series", "b/ten"]
    assert volumes["split"].tolist() == ["train", "train", "test", "train", "test"]
    assert volumes["patient_id"].tolist() == ["P 1", "P 1", "P 9", "P 2", "P10"]
    assert volumes["scan_id"].tolist() == volumes["name"].tolist()
    assert volumes[list(FINDINGS)].to_numpy().tolist() == [
        *([1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0])
    ]
    paths = [Path(path).relative_to(own.root).as_posix() for path in volumes["path"]]
    assert paths == ["a/one.nii.gz", "a/two.nii.gz", "b/nine.nii", "b/series", "b/ten.mha"]


def test_columns_have_the_names_that_params_give_them(own: OwnFolder):
    own.write(
        "Datei;Kennung;Teil;Cyst;Effusion;Mass/nodule;Hersteller;Filter;w/m;Jahre;Bemerkung",
        (
            "one.nii.gz;1;train;1;0;1;Phantom;B30f;w;45;",
            "two.nii.gz;2;train;0;1;0;Phantom;;m;7.5;sieh, hier",
            "three;3;test;0;1;0;;;;045Y;",
            ";;;;;;;;;;",
        ),
    )
    (own.root / "a/two.nii.gz").touch()
    (own.root / "a/three.nii").touch()
    columns = {"scan": "Datei", "patient": "Kennung", "split": "Teil", "manufacturer": "Hersteller"}
    columns |= {"kernel": "Filter", "sex": "w/m", "age": "Jahre"}
    volumes = own.read(columns, scans="a").set_index("name")
    assert volumes.index.tolist() == ["one", "three", "two"]
    assert volumes.loc["two", list(FINDINGS)].tolist() == [0, 0, 1]
    assert volumes.loc["one", list(GROUPS)].tolist() == ["Phantom", "", "B30f", "W", "45Y"]
    assert volumes["PatientAge"].tolist() == ["45Y", "045Y", "7Y"]


def test_a_path_that_may_mean_two_scans_is_refused(own: OwnFolder):
    (own.root / "a/two").mkdir()
    two = own.root / "a/two"
    (own.root / "a/two.nii.gz").touch()
    assert f"line 3: may mean {two} or {two}.nii.gz; write its whole name" in own.error()


def test_all_errors_are_reported_at_once(own: OwnFolder):
    own.write(
        "scan,patient,split,cyst,Effusion,Effusion",
        (
            "a/one.nii.gz,P 1,train,1,yes,1",
            "a/one,P 1,test,0,1,0",
            "a/lost.nii.gz,,train,0,1,1",
            "../labels.csv,P 4,tests,0,1,0",
            "n,P 5,train,0,1,0",
            "labels.csv,P 6,train,0,1,0",
            ",P 7,train,0,1,0",
            "too,few",
        ),
    )
    (own.root / "n/series").mkdir(parents=True)
    message = own.error()
    for expected in (
        "line 1: column 'Cyst' (data.findings in params.yaml) is missing; is it 'cyst'?",
        "line 1: column 'Mass/nodule' (data.findings in params.yaml) is missing; there are 'scan'",
        "line 1: column 'Effusion' comes more than once; keep one",
        "line 2, column 'Effusion': 'yes' is neither 0 nor 1; use one of them",
        f"line 4: {own.root}/a/lost.nii.gz does not exist; copy it there",
        "line 4, column 'patient': is empty; enter the patient",
        f"line 5: must be a path below {own.root}/",
        "line 5, column 'split': 'tests' is in no list of data.split_values in params.yaml",
        f"line 6: {own.root}/n/ holds no files",
        f"line 7: {own.root}/labels.csv is not a DICOM file",
        "line 8, column 'scan': is empty; name the scan, or delete the row",
        "line 9: has 2 cells and the header 6; add the missing ones",
        "line 3: a/one is in line 2 already; keep one row",
        "lines 2, 3: patient P 1 is in train and test; put all of a patient's scans into one",
    ):
        assert expected in message, message
    assert message.count("\n") == 14


def test_cells_with_the_same_wrong_value_are_grouped(own: OwnFolder):
    """A table of yes and no gives one error per word, and no error for missing classes."""
    own.write(
        HEADER,
        (
            "a/one,1,Train,yes,0,1",
            "a/two,1,train,no,1,0",
            "b/series,2,train,no,0,",
            "b/ten,3,test,no,1,0",
            "b/nine,4,test,yes,0,1",
        ),
    )
    table = own.root / "labels.csv"
    assert own.error().splitlines()[1:] == [
        f"  - {table}, line 2, column 'split': 'Train' is in no list of data.split_values in "
        "params.yaml (train: train; val: val; test: test); correct it, or add it to one of them",
        f"  - {table}, lines 2, 6, column 'Cyst': 'yes' is neither 0 nor 1; {FIX}",
        f"  - {table}, lines 3, 4, 5, column 'Cyst': 'no' is neither 0 nor 1; {FIX}",
        f"  - {table}, line 4, column 'Effusion': is empty, neither 0 nor 1; {FIX}",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("007", "7"), ("A-17", "a-17"), ("P 03", "P  3"), ("x01-2", "X1-2")],
        *[("1", "1.0"), ("1000", "1e3"), ("17", "17.00"), ("P17", "P17.0"), ("0.5", "5e-1")],
        *[("17", "\uff11\uff17"), ("17", "\u0661\u0667"), ("17", "\U0001d7cf\U0001d7d5")],
        *[("A-17", "A\u201017"), ("A-17", "A\u201317"), ("A-17", "A\u221217")],
        *[("A-17", "\uff21-17"), ("A-17", "\u0410-17"), ("P 1", "P\u00a01"), ("fi", "\ufb01")],
        *[("A 1", "A1"), ("12 345", "12345"), ("'17", "17"), ("12'345", "12345")],
        *[("O'Hara", "O\u2019Hara"), ("Stra\u00dfe", "STRASSE"), ("A17", "A\ufe0f17")],
        ("123456789012345678901234567890", "123456789012345678901234567890.0"),
    ],
)
@pytest.mark.parametrize("split", ["split", None])
def test_patients_that_may_be_one_are_refused(own: OwnFolder, split: str, one: str, other: str):
    """Otherwise the model would be scored on a patient it was trained on."""
    rows = [row.replace("P 1,", f"{one},").replace("P10,", f"{other},") for row in ROWS]
    own.write(rows=tuple(rows))
    message = own.error({"split": split})
    assert f"lines 2, 5: the patients {quote(one)} and {quote(other)} differ in case" in message
    assert ascii(other)[1:-1] in message


@pytest.mark.parametrize("hidden", ["\u200b", "\ufeff", "\u00ad", "\u200e", "\u2060", "\x07"])
@pytest.mark.parametrize("column", ["a/one.nii.gz", "P 1", "train", "1"])
def test_invisible_characters_are_shown(own: OwnFolder, hidden: str, column: str):
    cells = ROWS[0].split(",")
    cells[cells.index(column)] += hidden
    own.write(rows=(",".join(cells), *ROWS[1:]))
    message = own.error()
    assert f"line 2, column {HEADER.split(',')[ROWS[0].split(',').index(column)]!r}: " in message
    assert f"{column}{ascii(hidden)[1:-1]}" in message


@pytest.mark.parametrize("name", ["Cyst\u200b", "\u0421yst", "C\u00ady\u200cst"])
def test_a_misspelled_column_is_shown_escaped(own: OwnFolder, name: str):
    own.write(HEADER.replace("Cyst", name))
    assert f"column 'Cyst' (data.findings in params.yaml) is missing; is it {name!r}" in own.error()
    assert ascii(name) in own.error()


@pytest.mark.parametrize("title", ["Befundliste 2024", "# Befunde, 2024", "# Befunde"])
@pytest.mark.parametrize("filler", ["", ",,,,,"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_title_above_the_header_is_one_error(
    own: OwnFolder, title: str, filler: str, delimiter: str
):
    if filler and "," in title:
        title = f'"{title}"'
    header, *rows = [line.replace(",", delimiter) for line in (HEADER, *ROWS)]
    own.write(f"{title}{filler.replace(',', delimiter)}", (header, *rows))
    assert own.error().splitlines()[1:] == [
        f"  - {own.root}/labels.csv, line 1: looks like a title or comment; delete the lines above "
        "that of the names of the columns"
    ]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_one_column_beside_empty_ones_is_no_title(own: OwnFolder, delimiter: str):
    own.write(f"scan{delimiter}", tuple(f"{row.split(',')[0]}{delimiter}" for row in ROWS))
    message = own.error()
    assert "column 'patient' (data.columns.patient in params.yaml) is missing" in message
    assert "title" not in message


@pytest.mark.parametrize("age", ["999", "300Y", "131", "\u0664\u0665"])
def test_impossible_ages_are_refused(own: OwnFolder, age: str):
    own.write(f"{HEADER},age", (f"{ROWS[0]},{age}", *(f"{row},130" for row in ROWS[1:])))
    message = own.error({"age": "age"})
    assert message.count("\n") == 1
    assert f"labels.csv, line 2, column 'age': {quote(age)} is " in message


@pytest.mark.parametrize("patient", ["nan", "None", "#N/A", "1.23457E+11"])
def test_patients_rounded_by_a_spreadsheet_are_refused(own: OwnFolder, patient: str):
    own.write(rows=tuple(row.replace("P 1,", f"{patient},") for row in ROWS))
    assert f"lines 2, 3, column 'patient': {patient!r} " in own.error()


def test_two_spellings_of_one_path_are_found(own: OwnFolder):
    (own.root / "linked").symlink_to(own.root / "a")
    other = (
        *("./a//one.nii.gz", "a\\\\one", "a/./one.nii.gz", "linked/one.nii.gz"),
        unicodedata.normalize("NFD", "\u00e9.nii"),
    )
    (own.root / "\u00e9.nii").touch()
    rows = (*ROWS, "\u00e9.nii,P 8,test,0,0,1")
    for number, path in enumerate(other):
        own.write(rows=(*rows, f"{path},P 7,test,0,0,1"))
        line, name = (7, "\u00e9") if number == 4 else (2, "a/one")
        expected = f"line 8: {name if number != 3 else 'linked/one'} is in line {line} already"
        assert expected in own.error()


@pytest.mark.parametrize("forms", ["CC", "CD", "DC", "DD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", ["", ".nii"])
def test_each_part_of_a_path_may_have_its_own_form(
    own: OwnFolder, forms: str, written: str, suffix: str
):
    """A folder from a Mac, with a file from elsewhere."""
    folder, file = (
        unicodedata.normalize(f"NF{form}", name)
        for form, name in zip(forms, ("M\u00fcller", "gr\u00f6\u00dfe.nii"), strict=True)
    )
    (own.root / folder).mkdir()
    (own.root / folder / file).touch()
    cell = unicodedata.normalize(written, f"M\u00fcller/gr\u00f6\u00dfe{suffix}")
    own.write(rows=(*ROWS, f"{cell},P7,train,0,0,0"))
    volumes = own.read().set_index("name")
    assert volumes.loc["M\u00fcller/gr\u00f6\u00dfe", "path"] == str(own.root / folder / file)


def test_two_files_that_differ_in_the_form_of_a_letter_are_refused(own: OwnFolder):
    for form in ("NFC", "NFD"):
        (own.root / unicodedata.normalize(form, "\u00e9.nii")).touch()
    own.write(rows=(*ROWS, "\u00e9.nii,P7,train,0,0,0"))
    message = own.error()
    assert "line 7: may mean " in message
    assert "\\xe9.nii" in message
    assert "e\\u0301.nii" in message


def test_a_series_in_two_rows_is_found(own: OwnFolder):
    """A folder and a file in it, or two of its files, are one scan with two labels."""
    write_series(own.root / "b/series", chest())
    for first, second in (("b/series", "b/series/003.dcm"), ("b/series/001.dcm", "b/series/2.dcm")):
        if second.endswith("2.dcm"):
            (own.root / "b/series/002.dcm").rename(own.root / "b/series/2.dcm")
        own.write(
            rows=(*ROWS[:2], f"{first},P 2,train,0,0,0", *ROWS[3:], f"{second},P7,test,1,1,1")
        )
        assert "lines 4, 7:" in (message := own.error())
        assert "are one DICOM series" in message


def test_a_path_with_a_no_break_space_is_a_path(own: OwnFolder):
    (own.root / "a/one.nii.gz").rename(own.root / "a/one\u00a0b.nii.gz")
    own.write(rows=(ROWS[0].replace("one", "one\u00a0b"), *ROWS[1:]))
    assert "a/one\u00a0b" in own.read()["name"].tolist()


def test_an_invalid_path_is_refused_with_its_line(own: OwnFolder):
    own.write(rows=(*ROWS, f"{'x' * 300},P7,train,0,0,0"))
    assert "line 7:" in (message := own.error())
    assert "File name too long" in message


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.000", "1000"), ("1,000", "1"), ("1.234", "1,234"), ("1.234.567", "1234567")],
)
def test_patients_that_may_be_one_number_are_refused(own: OwnFolder, one: str, other: str):
    """1.000 is one by decimals, and a thousand as Germans write it."""
    own.write(
        HEADER.replace(",", ";"),
        rows=tuple(
            row.replace(",", ";").replace("P 1;", f"{one};").replace("P10;", f"{other};")
            for row in ROWS
        ),
    )
    message = own.error()
    assert f"lines 2, 5: the patients {one!r} and {other!r} may be one number" in message


def test_one_and_a_thousand_are_two_patients_unless_a_third_is_ambiguous(own: OwnFolder):
    rows = [row.replace("P 1,", "1,").replace("P10,", "1000,") for row in ROWS]
    own.write(rows=tuple(rows))
    assert set(own.read()["patient_id"]) == {"1", "1000", "P 2", "P 9"}
    own.write(rows=tuple(row.replace("P 9,", "1.000,") for row in rows))
    assert "and '1.000' " in own.error()


def test_patients_whose_numbers_differ_are_two(own: OwnFolder):
    others = ["7", "70", "7e5", "1.2.3", "1.2.30", "1-2", "A7", "A-7", "P10", "P1", "0.7"]
    others += ["123456789012345678901234567890", "123456789012345678901234567891"]
    for other in others:
        rows = [row.replace("P 1,", "700,").replace("P10,", f"{other},") for row in ROWS]
        own.write(rows=tuple(rows))
        assert set(own.read()["patient_id"]) == {"700", other, "P 2", "P 9"}
    assert len({canonical(other) for other in others}) == len(others)


def test_letters_with_accents_may_be_written_either_way(own: OwnFolder):
    """File names on macOS are decomposed (NFD); tables and params.yaml may be composed (NFC)."""
    apart, joined = (unicodedata.normalize(form, "Emphysème") for form in ("NFD", "NFC"))
    (own.root / f"{apart}.nii").touch()
    rows = (*ROWS[:4], f"{joined},P 8,test,0,0,1")
    own.write(HEADER.replace("Cyst", apart), rows)
    volumes = own.read(findings=(joined, "Effusion")).set_index("name")
    assert Path(volumes.loc[joined, "path"]).name == f"{apart}.nii"
    own.write(HEADER.replace("Cyst", joined), rows)
    assert joined in own.read(findings=(apart, "Effusion"))


def test_separators_in_quotes_separate_nothing(own: OwnFolder):
    names = ("Fibrose, links, rechts, beide", "Cyst,1")
    rows = [";".join([*row.split(",")[:3], *row.split(",")[4:]]) for row in ROWS]
    own.write(";".join(["scan;patient;split", *(f'"{name}"' for name in names)]), tuple(rows))
    assert own.read(findings=names)[names[0]].tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("role", "out"),
    [
        ("scan", "name another one there"),
        ("patient", "set it to null if each scan is of another patient"),
        ("split", "set it to null to have the test split drawn"),
    ],
)
def test_a_missing_column_is_reported_with_its_fix(own: OwnFolder, role: str, out: str):
    own.write(HEADER.replace(role, "renamed"))
    message = own.error()
    assert f"column '{role}' (data.columns.{role} in params.yaml) is missing" in message
    assert out in message


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_finding_with_one_class_in_train_is_named(own: OwnFolder, value: str, caplog):
    rows = [row.split(",") for row in ROWS]
    own.write(rows=tuple(",".join([*row[:3], value, *row[4:]]) for row in rows))
    own.read()
    lacking = 1 - int(value)
    assert (
        f"column 'Cyst': no scan of the train split has {lacking}: neither trained nor scored"
        in caplog.text
    )
    own.write(rows=tuple(",".join([*row[:3], value, value, value]) for row in rows))
    assert "no finding has both a positive and a negative scan in the train split" in own.error()


def test_a_split_without_scans_is_refused(own: OwnFolder):
    own.write(rows=ROWS[:3])
    assert "has no scan of the test split, and so nothing to score the model on" in own.error()


def test_invalid_tables_are_refused(own: OwnFolder):
    table = own.root / "labels.csv"
    assert "nothing.csv" in own.error(table="nothing.csv")
    table.write_text(HEADER + "\n")
    assert "has no rows below its header" in own.error()
    table.write_bytes(HEADER.encode() + b"\nM\xfcller.nii,1,train,0,0,0\n")
    assert "line 2: is not in UTF-8: has the byte 0xFC ('\u00fc' in Windows-1252" in own.error()
    own.write(f"sep=,\n{HEADER}")
    assert "line 1: 'sep=' is for Excel alone; delete that line" in own.error()
    own.write(f"{HEADER},note", (*(f"{row},x" for row in ROWS[:3]), f'{ROWS[3]},"x', ROWS[4]))
    assert "line 5: a quote opens and is never closed; close it" in own.error()
    assert "Scans: is not a folder; copy it there" in own.error(scans="Scans")
    table.write_text("")
    assert "labels.csv: is empty" in own.error()


def many(own: OwnFolder, patients: int = 50) -> None:
    """Two scans of each of many patients, without a split."""
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(patients):
        labels = (rng.random(3) < (0.5, 0.1, 0.3)).astype(int)
        for name in (f"m/{patient}_1.nii", f"m/{patient}_2.nii"):
            (own.root / name).parent.mkdir(exist_ok=True)
            (own.root / name).touch()
            rows.append(",".join([name, f"P{patient}", *map(str, labels)]))
    own.write("scan,patient,Cyst,Mass/nodule,Effusion", tuple(rows))


def test_a_split_is_sampled_by_patient_and_seed(own: OwnFolder, caplog):
    many(own)
    with caplog.at_level(logging.INFO, logger="multi_abnormality"):
        volumes = own.read({"split": None}, test_fraction=0.2)
    assert "the test split has 10 of 50 patients (data.test_fraction 0.2" in caplog.text
    of_patient = volumes.groupby("patient_id")["split"].agg(["nunique", "first"])
    assert set(of_patient["nunique"]) == {1}
    assert (of_patient["first"] == "test").sum() == 10
    for finding in FINDINGS:
        prevalence = volumes.groupby("split")[finding].mean()
        assert abs(prevalence["train"] - prevalence["test"]) < 0.1
    pd.testing.assert_frame_equal(own.read({"split": None}, test_fraction=0.2), volumes)
    lines = (own.root / "labels.csv").read_text().splitlines()
    own.write(lines[0], tuple(lines[:0:-1]))
    pd.testing.assert_frame_equal(own.read({"split": None}, test_fraction=0.2), volumes)
    other = own.read({"split": None}, test_fraction=0.2, split_seed=1)
    assert (other["split"] != volumes["split"]).any()


def test_suspicious_tables_are_warned_about(own: OwnFolder, caplog):
    own.write(HEADER.replace("patient", "person"), ROWS[:2] + ROWS[3:])
    volumes = own.read({"patient": None})
    assert volumes["patient_id"].tolist() == volumes["name"].tolist()
    assert "each of 4 scans counts as a patient of its own" in caplog.text
    assert "labels.csv: these columns are not read: 'person'" in caplog.text
    caplog.clear()
    own.write(rows=(*ROWS[:3], ROWS[3]))
    own.read()
    assert f"1 scan without a row in {own.root}/labels.csv, left out: {own.root}/b/nine.nii" in (
        caplog.text
    )
    assert (
        "column 'Effusion': every labelled scan of the test split has 0, so its AUROC and average "
        "precision are undefined and left out of the means, while its F1, precision and recall "
        "count as 0" in caplog.text
    )


def test_findings_of_few_patients_are_warned_about(own: OwnFolder, caplog):
    """Patients are counted, not scans."""
    own.write(rows=(ROWS[0], ROWS[1].replace(",0,1,0", ",1,1,0"), *ROWS[2:]))
    own.read()
    assert "fewer than 10 patients of the train split have 'Cyst' (1), 'Mass/nodule' (1), " in (
        caplog.text
    )
    caplog.clear()
    many(own)
    own.read({"split": None}, findings=("Cyst", "Effusion"))
    assert "fewer than" not in caplog.text


def test_a_dicom_folder_without_a_row_is_warned_about(own: OwnFolder, caplog):
    for name in ("b/series/IM0001", "b/other/IM0001", "b/notes/IM0001", "a/DICOMDIR"):
        (own.root / name).parent.mkdir(exist_ok=True)
        (own.root / name).write_bytes(bytes(128) + (b"note" if "notes" in name else b"DICM"))
    own.read()
    assert f"1 scan without a row in {own.root}/labels.csv, left out: {own.root}/b/other" in (
        caplog.text
    )


def test_unlisted_scans_are_found_once_despite_links_to_parent_folders(own: OwnFolder):
    (own.root / "a/three.nii").touch()
    (own.root / "c").symlink_to("a")
    (own.root / "a/parent").symlink_to("..")
    found = unlisted_scans(own.root, [own.root / "a/one.nii.gz", own.root / "a/two.nii.gz"])
    names = [path.relative_to(own.root).as_posix() for path in found]
    assert [name for name in names if "three" in name] == ["a/three.nii", "c/three.nii"]


def test_old_dicom_files_are_known_by_their_first_elements(own: OwnFolder, caplog):
    """They lack the preamble, and may lack the suffix."""
    (own.root / "b/old").mkdir()
    (own.root / "b/old/0001").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200))
    own.read()
    assert f"left out: {own.root}/b/old" in caplog.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"findings": ()}, "must name one finding or more"),
        ({"findings": ("Cyst", "Mass", "cyst")}, "must name each finding once: 'Cyst', 'cyst'"),
        ({"findings": ("Cyst", "split")}, "'split' is empty, begins or ends with a space, has"),
        ({"findings": ("path",)}, "or is a word of this project's tables; rename the table's"),
        ({"findings": (" Cyst",)}, "' Cyst' is empty, begins or ends with a space"),
        ({"findings": (1, "Cyst", False)}, "YAML takes 1, false for something else: put the name"),
        ({"findings": "Cyst"}, r"must be ct_rate, or a list of names, such as \[Emphysema, Cyst\]"),
        ({"findings": ("Cyst", "patient")}, "must not name a finding's column: 'patient'"),
        ({"table": "/labels.csv"}, "must be a path in data/"),
        ({"scans": "../scans"}, "must be a path in data/"),
        ({"table": None}, "must be among CT-RATE's 18"),
        ({"test_fraction": 1.0}, "less than 1"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, object], expected: str):
    with pytest.raises(ValueError, match=expected):
        settings(**changes)


def test_ct_rates_18_may_be_fewer(ct_rate):
    for split in ("train", "valid"):
        ct_rate.add(f"{split}_1_a_1", ("Emphysema",))
    ct_rate.write_tables()
    some = settings(table=None, findings=("Lung nodule", "Emphysema"))
    catalogue = read_catalog(ct_rate.root, some)
    assert catalogue.findings == ("Lung nodule", "Emphysema")
    assert catalogue.volumes[["Lung nodule", "Emphysema"]].to_numpy().tolist() == [[0, 1]] * 2
    assert "Cardiomegaly" not in catalogue.volumes


@pytest.mark.parametrize("name", ["valid", "Test", ""])
def test_other_names_of_a_split_are_errors(own: OwnFolder, name: str):
    own.write(rows=tuple(row.replace(",test,", f",{name},") for row in ROWS))
    shown = f"{name!r} is" if name else "is empty,"
    assert f"lines 5, 6, column 'split': {shown} in no list of data.split_values" in own.error()


def test_words_of_a_table_are_splits(own: OwnFolder):
    words = {"train": ("1", "dev"), "val": ("2",), "test": ("3",), "missing": ()}
    splits = ("dev", "dev", "2.0", "3", "1")
    own.write(rows=tuple(",".join([*row.split(",")[:2], split, *row.split(",")[3:]])
                         for row, split in zip(ROWS, splits, strict=True)))  # fmt: skip
    volumes = own.read(split_values=words).set_index("name")["split"]
    assert volumes.to_dict() == {
        "a/one": "train", "a/two": "train", "b/series": "val", "b/nine": "train", "b/ten": "test",
    }  # fmt: skip


def test_patients_without_a_split_are_drawn_and_a_patient_stays_whole(own: OwnFolder, caplog):
    """Patients 0 to 9 are in the split of their first scan, which alone names one."""
    many(own)
    header, *lines = (own.root / "labels.csv").read_text().splitlines()
    given = dict.fromkeys(range(0, 20, 2), "test") | {4: "val", 6: "train"}
    own.write(
        f"{header},split", tuple(f"{line},{given.get(row, '')}" for row, line in enumerate(lines))
    )
    words = {"train": ("train",), "val": ("val",), "test": ("test",), "missing": ("",)}
    with caplog.at_level(logging.INFO, logger="multi_abnormality"):
        volumes = own.read(split_values=words, test_fraction=0.2)
    assert "column 'split' has missing ones: the test split has 8 of 40 patients" in caplog.text
    split_of = volumes.groupby("patient_id")["split"].unique()
    assert split_of.map(len).max() == 1
    assert (split_of["P2"][0], split_of["P3"][0], split_of["P4"][0]) == ("val", "train", "test")
    assert split_of.str[0].value_counts().to_dict() == {"train": 33, "test": 16, "val": 1}


def test_folds_hold_out_each_patient_once(own: OwnFolder):
    """As a function of patients, labels and seed alone, each finding about as frequent in each."""
    many(own, 53)
    volumes = own.read({"split": None}, folds=5, fold=0)
    assert set(volumes["split"]) == {"train"}
    folds = volumes.groupby("patient_id")["fold"].unique()
    assert folds.map(len).max() == 1
    assert sorted(folds.str[0].value_counts().tolist()) == [10, 10, 11, 11, 11]
    for finding in FINDINGS:
        positives = volumes[volumes[finding] == 1].groupby("fold")["patient_id"].nunique()
        assert positives.max() - positives.min() <= 2
    header, *lines = (own.root / "labels.csv").read_text().splitlines()
    own.write(header, tuple(lines[::-1]))
    again = own.read({"split": None}, folds=5, fold=3, test_fraction=0.5)
    pd.testing.assert_frame_equal(again, volumes)
    other = own.read({"split": None}, folds=5, fold=0, split_seed=1)
    assert (other["fold"] != volumes["fold"]).any()


def test_folds_leave_the_test_split_alone_and_refuse_what_contradicts_them(own: OwnFolder):
    volumes = own.read(folds=2, fold=0).set_index("name")
    assert volumes["fold"][volumes["split"] == "test"].tolist() == ["", ""]
    assert sorted(volumes["fold"][volumes["split"] == "train"].unique()) == ["0", "1"]
    assert "data.folds: 3 folds are more than the 2 patients of the train split" in own.error(
        folds=3, fold=0
    )
    own.write(rows=tuple(row.replace("P 2,train", "P 2,val") for row in ROWS))
    assert "line 4, column 'split': names val scans, but with data.folds" in own.error(
        folds=2, fold=0
    )


@pytest.mark.parametrize(
    ("uncertain", "label"), [("missing", np.nan), ("positive", 1), ("negative", 0)]
)
def test_values_of_the_table_are_labels(own: OwnFolder, uncertain: str, label: float, caplog):
    own.write(rows=GERMAN_ROWS)
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        volumes = own.read(values=GERMAN, uncertain=uncertain).set_index("name")
    expected = {
        "a/one": [1, np.nan, 1],
        "a/two": [0, np.nan, label],
        "b/nine": [0, 0, 1],
        "b/series": [np.nan, np.nan, 0],
        "b/ten": [1, 1, label],
    }
    for name, labels in expected.items():
        np.testing.assert_array_equal(volumes.loc[name, list(FINDINGS)].astype(float), labels)
    count = 4 + 2 * (uncertain == "missing")
    assert f"missing labels are left out of the loss and the scores: {count} of 15" in caplog.text
    assert "no scan of the train split has a label of 'Mass/nodule': neither" in caplog.text


def test_values_that_no_list_names_are_reported_at_once(own: OwnFolder):
    own.write(rows=(*GERMAN_ROWS[:3], "b/ten.mha,P10,test,Ja,,2", "b/nine.nii,P 9,test,x,ja,1.00"))
    message = own.error(values=GERMAN | {"missing": ("na",)})
    listed = "(positive: 1, ja; negative: 0, nein; uncertain: -1, u; missing: na)"
    for place in (
        "line 4, column 'Cyst': is empty, in",
        "line 5, column 'Cyst': 'Ja' is in",
        "line 6, column 'Cyst': 'x' is in",
        "line 5, column 'Mass/nodule': is empty, in",
        "line 5, column 'Effusion': '2' is in",
        "line 6, column 'Effusion': '1.00' is in",
    ):
        assert f"{place} no list of data.values in params.yaml {listed}; correct it" in message
    assert message.count("\n") == 6


def test_a_split_without_any_label_is_refused(own: OwnFolder):
    own.write(rows=(*GERMAN_ROWS[:3], "b/ten.mha,P10,test,,,", "b/nine.nii,P 9,test,na,na,u"))
    message = own.error(values=GERMAN)
    assert "no scan of the test split has a label of any finding" in message
    assert message.count("\n") == 1


def test_a_finding_of_one_class_among_its_labels_is_named(own: OwnFolder, caplog):
    own.write(rows=tuple(row.replace("nein", "na") for row in GERMAN_ROWS))
    own.read(values=GERMAN)
    assert "column 'Cyst': no scan of the train split has 0: neither trained" in caplog.text
