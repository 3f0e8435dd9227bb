import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from multi_abnormality.tools.preview_augmentation import draw_sheet, preview_augmentation


def test_the_sheet_shows_each_scan_in_each_epoch(small_set, small_params):
    train = small_params.train.model_copy(update={"augmentation": "advanced", "mixup_prob": 1.0})
    params = small_params.model_copy(update={"train": train})
    sheet = draw_sheet(params, small_set, scans=3, epochs=2)
    assert sheet.dtype == np.uint8
    rows, columns = (np.array(sheet.shape) / (160 * 1, 160)).round(2)
    assert (rows, columns) == (3.0, 3.0)
    plain, first, second = np.split(sheet, 3, axis=1)
    assert (plain != first).mean() > 0.1
    assert (first != second).mean() > 0.1
    np.testing.assert_array_equal(sheet, draw_sheet(params, small_set, scans=3, epochs=2))


def test_a_sheet_has_rows_and_columns():
    program = [sys.executable, "-m", "multi_abnormality", "preview-augmentation", "--scans", "0"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'--scans': Input should be greater than or equal to 1" in done.stderr


def test_the_sheet_is_a_picture(small_set, small_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "processed").symlink_to(small_set.root)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params.model_dump(mode="json")))
    preview_augmentation(Path("new/sheet.png"), scans=2, epochs=1)
    with Image.open(tmp_path / "new/sheet.png") as sheet:
        assert sheet.size == (320, 320)
