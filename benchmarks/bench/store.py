"""Reading speed and size of the processed dataset at full size, beside raw uint8 files."""

from functools import partial

import numpy as np

from bench.rows import Row, Settings, compared, in_turns
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.storage.shards import encode
from multi_abnormality.stages import preprocess
from speed.folder import ct_rate_names, write_ct_rate
from speed.phantom import draw_phantom
from speed.processes import measure
from speed.recipes import full_size


def run(settings: Settings) -> list[Row]:
    """Compare the preprocess stage's dataset with the same volumes as raw files.

    A phantom compresses better than a real chest, since its noise is simpler than a scanner's.
    """
    params = load_params()
    params = params.model_copy(update={"preprocess": full_size(params.preprocess)})
    phantom = draw_phantom(*settings.size((512, 300), (128, 80)))
    volumes, folder = settings.size(60, 40), settings.folder
    data = write_ct_rate(folder / "data", dict.fromkeys(ct_rate_names(volumes), phantom))
    preprocess.run(params, data, folder / "set", folder / "metrics.json")
    processed = ProcessedDataset(folder / "set")
    (folder / "raw").mkdir()
    for name in processed.names:
        np.save(folder / "raw" / f"{name}.npy", processed.read(name))
    found = in_turns(
        settings.rounds,
        {kind: partial(measure, "speed.reading", (kind, folder / kind), folder)
         for kind in ("set", "raw")},
    )  # fmt: skip
    shape = "x".join(map(str, params.preprocess.shape))
    rows = [
        compared(
            f"{volumes} volumes of {shape}, read at random", "volumes/s", found["set"],
            "raw .npy files", found["raw"],
        )
    ]  # fmt: skip
    for scan in filter(None, (phantom, settings.scan)):
        codes = resample_and_quantize(read_volume(scan), params.preprocess.recipe)
        name = f"bytes of {scan.name}, stored"
        stored = [len(encode(codes)) / 1e6]
        rows.append(compared(name, "MB", stored, "raw uint8", [codes.nbytes / 1e6], "at most 0.67"))
    return rows
