"""`multi-abnormality preview-augmentation`: contact sheet of augmented training samples."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import plural

if TYPE_CHECKING:
    import numpy as np

    from multi_abnormality.config.schema import Params
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset

WINDOW = (-350.0, 1500.0)  # HU, centre and width: lung and soft tissue at once
PIXELS = 160  # width of a slice


def preview_augmentation(
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("augmentation.png"),
    scans: Annotated[int, typer.Option(min=1, help="Rows.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Augmented columns, after the original.")] = 6,
) -> None:
    """Show augmented training scans as a picture.

    Writes a contact sheet of training samples, augmented as in several epochs.
    """
    from PIL import Image

    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
    from multi_abnormality.utils.atomic_io import atomic_write

    params = load_params()
    processed = ProcessedDataset(Path("processed"), params.data.fold)
    sheet = draw_sheet(params, processed, scans, epochs)
    picture = io.BytesIO()
    Image.fromarray(sheet).save(picture, "PNG", optimize=True)
    atomic_write(picture.getvalue(), out)
    console.log.info("%s: one row per scan, the original and %s", out,
                     plural(epochs, "augmented epoch", "augmented epochs"))  # fmt: skip


def draw_sheet(
    params: "Params", processed: "ProcessedDataset", scans: int, epochs: int
) -> "np.ndarray":
    """Draw a (Y, X) uint8 sheet: a row per scan, its original and augmented middle slices."""
    import numpy as np
    import torch

    from multi_abnormality.data.loading.collate import collate
    from multi_abnormality.data.loading.train_dataset import TrainDataset
    from multi_abnormality.data.preprocessing.quantization import code_table
    from multi_abnormality.data.transforms.batch import move_batch
    from multi_abnormality.data.transforms.mixup import augment_batch
    from multi_abnormality.utils.rng import generator

    names = processed.volumes("train")["name"].tolist()
    chosen = names[:: max(len(names) // scans, 1)][:scans]
    table = torch.from_numpy(code_table(params.preprocess))
    original = params.train.model_copy(
        update={"augmentation": "none", "mixup_prob": 0.0, "cutmix_prob": 0.0}
    )
    columns = []
    for epoch in range(-1, epochs):
        settings = params.train if epoch >= 0 else original
        volumes = TrainDataset(processed, chosen, settings, params.seed)
        examples = [volumes[epoch, index] for index in range(len(volumes))]
        batch = move_batch(collate(examples), torch.device("cpu"))
        hu = table[batch["volume"].long()]
        mixed, _ = augment_batch(hu, batch, settings, generator(params.seed, "mix", epoch, 0, 0))
        middle = mixed[:, mixed.shape[1] // 2].numpy()
        columns.append(np.concatenate([_picture(one, processed.recipe) for one in middle]))
    return np.concatenate(columns, axis=1)


def _picture(hu: "np.ndarray", recipe: dict[str, Any]) -> "np.ndarray":
    import numpy as np
    from PIL import Image

    centre, width = WINDOW
    shown = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
    _, y_mm, x_mm = recipe["spacing"]
    size = PIXELS, round(PIXELS * hu.shape[0] * y_mm / (hu.shape[1] * x_mm))
    picture = Image.fromarray(np.rint(shown).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
