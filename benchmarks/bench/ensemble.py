"""Cost of an ensemble's prediction: beside one read and the inference of each member."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.rows import Row, Settings, compared, in_turns
from multi_abnormality import Model, load_model
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.inference.onnx_model import OUTPUTS
from speed.phantom import draw_phantom

MEMBERS = 3


def run(settings: Settings) -> list[Row]:
    model = load_model(make_ensemble(load_model(), settings.folder / "ensemble"))
    scan = draw_phantom(*settings.size((512, 300), (128, 80)))
    codes = np.zeros((1, *model.card.preprocess.shape), np.uint8)

    def parts() -> None:
        read_volume(scan)
        for member in model.members:
            member.session.run(list(OUTPUTS), {"volume": codes})

    calls = {"whole": lambda: seconds(lambda: model.predict(scan)), "parts": lambda: seconds(parts)}
    taken = in_turns(settings.rounds, calls, warm_up=True)
    name = f"predict by an ensemble of {MEMBERS}, {scan.name}"
    peer = f"one read and {MEMBERS} inferences"
    return [compared(name, "s", taken["whole"], peer, taken["parts"], "at most 1.6")]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def make_ensemble(model: Model, folder: Path) -> Path:
    """Write an ensemble whose members are copies of one model."""
    info = json.loads(model.path.with_name("model_info.json").read_text())
    files = [f"members/{number}/{model.path.name}" for number in range(1, MEMBERS + 1)]
    for file in files:
        (folder / file).parent.mkdir(parents=True)
        shutil.copy(model.path, folder / file)
    sha256 = info["files_sha256"][model.path.name]
    keys = ("version", "findings", "synthetic", "thresholds", "uncalibrated")
    content = {key: info[key] for key in keys} | {
        "slope": dict.fromkeys(info["findings"], 1.0),
        "intercept": dict.fromkeys(info["findings"], 0.0),
        "members": [{"file": file, "sha256": sha256, "weight": 1 / MEMBERS} for file in files],
    }
    (folder / "model_info.json").write_text(json.dumps(content))
    return folder
