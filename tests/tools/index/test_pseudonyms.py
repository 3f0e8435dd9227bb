"""Salt and pseudonyms, and the command around them."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import ROOT
from multi_abnormality.cli import app
from multi_abnormality.tools.index.identifiers import Identifiers
from multi_abnormality.tools.index.pseudonyms import Pseudonyms, load_salt
from multi_abnormality.utils.errors import InputError
from pacs_export import Export


def test_a_salt_is_created_once_and_only_its_owner_reads_it(
    tmp_path: Path, logged: Callable[[], str]
):
    path = tmp_path / "new/salt"
    old = os.umask(0)
    try:
        salt = load_salt(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(salt) == 64
    assert load_salt(path) == salt
    assert [one.name for one in path.parent.iterdir()] == ["salt"]
    assert logged().count("salt: created") == 1
    assert "other users" not in logged()
    path.chmod(0o644)
    assert load_salt(path) == salt
    assert "other users can read the salt" in logged()
    assert salt.decode() not in logged()


def test_unusable_salts_are_refused(tmp_path: Path):
    short = tmp_path / "short"
    short.write_text("password\n")
    with pytest.raises(InputError, match="fewer than 32 characters"):
        load_salt(short)
    with pytest.raises(InputError, match="is not a file"):
        load_salt(tmp_path)
    with pytest.raises(InputError, match="cannot be used as salt"):
        load_salt(short / "below a file")


def test_pseudonyms_depend_on_salt_and_all_parts():
    first, second = Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    found = {first.of("P", "1", "x"), first.of("P", "1x", ""), first.of("P", "1", ""),
             second.of("P", "1", "x"), first.of("S", "1", "x")}  # fmt: skip
    assert len(found) == 5
    assert first.of("P", "1", "x") == Pseudonyms(b"a" * 32).of("P", "1", "x")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("export/Li_Wei/CT", True),
        ("export/LIVER/CT", False),
        ("export/0047 11/CT", True),
        ("export/1947/CT", False),
        ("export/CT-004711-a", True),
    ],
)
def test_paths_that_name_a_patient(path: str, expected: bool):
    assert Identifiers(["00-4711"], ["Li^Wei"], []).are_in(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thorax Mueller 12.8.1964", "Thorax # #"),
        ("THORAX Mu\u0308ller, JOERG *640812", "THORAX # *#"),
        ("Thx Muller/Jorg 12/08/64 Groß-Gross", "Thx #/# # #-#"),
        ("HOSP4711 HOSP 4711 hosp_0004711 4711", "# # # #"),
        ("1964-8-12 19640812 8.12.64", "# # #"),
        ("LiWu WuLi LIVER Li", "# # LIVER #"),
        ("Thorax 1.25 Br40 1264 4.7 Mull", "Thorax 1.25 Br40 1264 4.7 Mull"),
    ],
)
def test_identifiers_are_removed_however_they_are_spelled(text: str, expected: str):
    known = Identifiers(["HOSP-0004711"], ["Müller-Groß^Jörg^^Dr", "Li^Wu"], ["19640812"])
    assert known.remove_from(text).replace("[removed]", "#") == expected
    assert known.are_in(text) == ("#" in expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("王伟", "胸部王伟CT 王 伟", "胸部#CT #"),
        ("Wang^Wei=王^伟", "胸部平扫王伟 伟王1mm 王者", "胸部平扫# #1mm 王者"),
        ("Wang^Xiaoming=王^小明", "王小明胸部 王 小明, 小明", "#胸部 #, #"),
        ("Ouyang^Xiu=歐陽^修", "胸部歐陽修 欧", "胸部# 欧"),
        (
            "YAMADA^TAROU=山田^太郎=やまだ^たろう",
            "胸部山田太郎様 やまだ・たろう Yamada",
            "胸部#様 # #",
        ),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ヤマダ タロウ 単純", "# 単純"),
        ("Kim^Cheolsu=김^철수", "흉부김철수님 김 철수님 철수", "흉부#님 # #님 #"),
    ],
)
def test_names_are_found_in_text_without_spaces(name: str, text: str, expected: str):
    assert Identifiers([], [name], []).remove_from(text).replace("[removed]", "#") == expected


@pytest.mark.parametrize("number", ["P-12", "A-1", "1-23", "S#5", "K 07"])
def test_short_ids_with_a_separator_are_removed(number: str):
    known = Identifiers([number], [], [])
    assert known.remove_from(f"{number} Thorax 2 mm") == "[removed] Thorax 2 mm"
    assert known.are_in(f"export/{number}/CT")


def test_the_command_writes_the_table_and_refuses_wrong_findings(export: Export):
    export.add("a/SE1")
    run = CliRunner().invoke
    arguments = ["index", str(export.folder), "--out", str(export.out)]
    done = run(app, [*arguments, "--findings", "Erguss, Emphysem", "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chosen"] == 1
    assert list(export.rows()[0])[-2:] == ["Erguss", "Emphysem"]
    salt = Path(os.environ["XDG_CONFIG_HOME"]) / "multi-abnormality/patient-salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    text = (ROOT / "params.yaml").read_text().replace("table: null", "table: labels.csv")
    Path("params.yaml").write_text(text.replace("findings: ct_rate", "findings: [Cyst]"))
    assert run(app, arguments).exit_code == 0
    assert list(export.rows()[0])[-3:] == ["Erguss", "Emphysem", "Cyst"]
    for wrong in ("age,x", "Cyst,Cyst", "a|b"):
        done = run(app, [*arguments, "--findings", wrong])
        assert done.exit_code == 1
        assert "--findings: " in done.stderr
    assert run(app, ["index", str(export.folder / "none"), "--out", "x.csv"]).exit_code == 1
    assert run(app, ["index", str(export.folder), "--out", "x.txt"]).exit_code == 2
