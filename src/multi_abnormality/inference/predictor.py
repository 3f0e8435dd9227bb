"""Loading of an exported model, or of an ensemble of several, with its preprocessing."""

import logging
from pathlib import Path

from multi_abnormality.inference.ensemble_model import FILE, is_ensemble, load_ensemble
from multi_abnormality.inference.onnx_model import MEMORY, Finding, Model, Prediction, load_onnx
from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError

__all__ = ["MEMORY", "MODEL_FOLDER", "Finding", "Model", "Prediction", "load_model"]

MODEL_FOLDER = Path("model_weights")
SYNTHETIC = (
    "%s was trained on synthetic phantoms: its probabilities have no clinical meaning for any scan"
)

log = logging.getLogger(__name__)


def load_model(path: Path | str = MODEL_FOLDER, memory: float = MEMORY) -> Model:
    """Load an exported model or an ensemble; log a warning if it was trained on synthetic phantoms.

    Args:
        path: ONNX file, or the folder with it, as the export stage writes it; or the folder of an
            ensemble, as `multi-abnormality ensemble` writes it. Files are untrusted: operators that
            exports do not use are rejected.
        memory: memory limit in GB, for all scans predicted in parallel, without the weights.

    Raises:
        InputError: there is no such file, or several in the folder; or it was not exported by this
            project, or was changed since.
    """
    path = Path(path)
    if path.name == FILE:
        path = path.parent
    if is_ensemble(path):
        model: Model = load_ensemble(path, memory)
    else:
        is_folder = path.is_dir() or path == MODEL_FOLDER
        model = load_onnx(_find_model(path) if is_folder else path, memory)
    if model.is_synthetic:
        log.warning(SYNTHETIC, printable(str(model.path)))
    return model


def _find_model(folder: Path) -> Path:
    """Return the only ONNX model in a folder.

    Raises:
        InputError: there is no model, or several.
    """
    models = sorted(folder.glob("*.onnx"))
    if not models:
        raise InputError(
            f"{folder}: holds no .onnx model; create it by `dvc repro` or fetch it by `dvc pull`"
        )
    if len(models) > 1:
        names = ", ".join(str(model) for model in models)
        raise InputError(
            f"{folder}: holds several models: {names}; keep one there, or give the path of one"
        )
    return models[0]
