"""What training sees, as a sheet to look at."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from multi_abnormality.data.codes import code_table
from multi_abnormality.data.drawn import DrawnVolumes
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import generator
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Params

WINDOW = (-350.0, 1500.0)  # HU, centre and width: lung and soft tissue at once
PIXELS = 160  # of a slice's width


def draw_sheet(params: Params, processed: ProcessedSet, scans: int, epochs: int) -> np.ndarray:
    """(Y, X) uint8: a row a scan, first as it is, then its middle slice in each epoch."""
    names = processed.volumes("train")["name"].tolist()
    chosen = names[:: max(len(names) // scans, 1)][:scans]
    table = torch.from_numpy(code_table(params.preprocess))
    plain = params.train.model_copy(update={"augmentation": "none", "mixup": 0.0, "cutmix": 0.0})
    columns = []
    for epoch in range(-1, epochs):
        settings = params.train if epoch >= 0 else plain
        volumes = DrawnVolumes(processed, chosen, settings, params.seed)
        batch = default_collate([volumes[epoch, index] for index in range(len(volumes))])
        hu = table[batch["volume"].long()]
        mixed, _ = augmented(hu, batch, settings, generator(params.seed, "mix", epoch, 0, 0))
        middle = mixed[:, mixed.shape[1] // 2].numpy()
        columns.append(np.concatenate([_picture(one, processed.recipe) for one in middle]))
    return np.concatenate(columns, axis=1)


def _picture(hu: np.ndarray, recipe: dict[str, Any]) -> np.ndarray:
    centre, width = WINDOW
    shown = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
    _, y_mm, x_mm = recipe["spacing"]
    size = PIXELS, round(PIXELS * hu.shape[0] * y_mm / (hu.shape[1] * x_mm))
    picture = Image.fromarray(np.rint(shown).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
