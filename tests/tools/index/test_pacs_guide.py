"""docs/how-to/pacs-export.md, typed in a project with an export."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from documents import ROOT, commands
from multi_abnormality.cli import app
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.catalog.custom import read_custom
from multi_abnormality.tools.index.series_choice import LENGTHS, THIN
from pacs_export import Export

GUIDE = ROOT / "docs/how-to/pacs-export.md"


def test_the_guides_commands_lead_to_a_table_that_data_reads(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(4):
        export.add(f"{number}/SE", study=f"1.{number}", number=str(number), series=f"2.{number}")
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    for place in (project / "data/export", tmp_path / "export"):
        place.symlink_to(export.folder)
    monkeypatch.chdir(project)
    (block,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= yaml.safe_load(block)["data"]
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    table, settings = Path("data/labels.csv"), load_params().data
    starts = []
    for command in commands(GUIDE):
        table.unlink(missing_ok=True)
        done = CliRunner().invoke(app, shlex.split(command.text)[1:])
        assert done.exit_code == 0, done.output
        text = table.read_text().replace(",,\n", ",0,1\n", 2).replace(",,\n", ",1,0\n")
        table.write_text(text)
        catalog = read_custom(Path("data"), "labels.csv", settings)
        starts.append([name.split("/")[0] for name in catalog.volumes["name"]])
    assert starts == [["export"] * 4, ["scans"] * 4]


def test_the_guide_states_the_rules_numbers():
    text = GUIDE.read_text()
    assert f"covers {LENGTHS[0]:.0f} to {LENGTHS[1]:.0f} mm" in text
    assert f"at most {THIN:.0f} mm between slices" in text
