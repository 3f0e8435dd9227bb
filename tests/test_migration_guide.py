"""The guide for users of the seed project names settings and files that exist."""

import re
from pathlib import Path

import pytest

from multi_abnormality.config.schema import Params, load_params, parse_params
from multi_abnormality.tools.recipe import merge_recipe
from test_pipeline import ROOT

GUIDE = ROOT / "docs/how-to/migrate-from-run-task2.md"
FLAGS = """\
--mode --gpu-device --model --epochs --batch-size --learning-rate --loss-type --use-attention
--use-advanced-aug --use-multiscale --progressive-unfreeze --unfreeze-epoch --freeze-backbone
--cutmix-prob --early-stopping-patience --save-every-n-epochs --resume --force-restart --checkpoint
--predict-input --backup-dir"""
ACTIONS = [f"--action {action}" for action in ("setup", "backup", "restore")]

# "`train.epochs: 100`" or "`train.epochs`"
KEY = re.compile(rf"`({'|'.join(Params.model_fields)})\.(\w+)(?:: ([^`]+))?`")


@pytest.mark.parametrize("flag", [*FLAGS.split(), *ACTIONS])
def test_every_old_flag_has_a_row(flag: str):
    assert f"\n| `{flag}` | " in GUIDE.read_text()


def test_every_key_it_names_exists_and_takes_the_value(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = merge_recipe("seed").text
    named = KEY.findall(GUIDE.read_text())
    assert len(named) > 20
    known = parse_params(text, Path("params.yaml")).model_dump()
    for section, key, value in named:
        assert key in known[section], f"{section}.{key}"
        if value:
            changed, count = re.subn(rf"(?m)^  {key}: [^#\n]+", f"  {key}: {value} ", text)
            assert count == 1
            (tmp_path / "params.yaml").write_text(changed)
            load_params(tmp_path / "params.yaml")
