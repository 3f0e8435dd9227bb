"""An exported ONNX model with the preprocessing that belongs to it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.console import printable
from multi_abnormality.data.codes import code_table
from multi_abnormality.data.composition import lung_share
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.resample import standardize
from multi_abnormality.errors import InputError
from multi_abnormality.predict.card import ModelCard, read_card
from multi_abnormality.seal import is_whole

if TYPE_CHECKING:
    import onnxruntime

    from multi_abnormality.data.io.scan_sources import ScanSource

MODEL_FOLDER = Path("model_weights")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Of one scan."""

    probabilities: dict[str, float]  # of each finding, in the model's order
    attention: np.ndarray  # (F, Z): how much each slice counts for each finding
    hu: np.ndarray  # (Z, Y, X) float32: the scan as the model sees it
    doubt: str | None  # why the scan is not like those that the model was trained on


class Predictor:
    """A model and its preprocessing. Several threads may use it at a time.

    Attributes:
        card: what the model says of itself.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", card: ModelCard) -> None:
        self.session = session
        self.card = card
        self._hu_of_code = code_table(card.preprocess)

    def __call__(self, scan: "Path | str | ScanSource") -> dict[str, float]:
        """Probability of each finding, in the model's order; a doubt is logged as a warning.

        Raises:
            InputError: the scan cannot be read, or is no CT in HU.
        """
        prediction = self.predict(Path(scan) if isinstance(scan, str) else scan)
        if prediction.doubt:
            log.warning("%s", prediction.doubt)
        return prediction.probabilities

    def predict(self, scan: "Path | ScanSource") -> Prediction:
        """Return the model's outputs for a scan, and the volume that it was given.

        Args:
            scan: path of a file, a DICOM file or a folder with one series; or what `find_scans`
                found.

        Raises:
            InputError: the scan cannot be read, or is no CT in HU.
        """
        path = scan if isinstance(scan, Path) else scan.path
        volume = read_volume(scan)
        codes = standardize(volume, self.card.preprocess)
        outputs = self.session.run(["probabilities", "attention"], {"volume": codes[None]})
        (probabilities,), (attention,) = outputs
        if not np.isfinite(probabilities).all():  # JSON has no word for it
            raise InputError(f"{path}: the model has no finite probability for it; export it again")
        by_finding = zip(self.card.findings, map(float, probabilities), strict=True)
        return Prediction(
            probabilities=dict(by_finding),
            attention=attention,
            hu=self._hu_of_code[codes],
            doubt=self._doubt(path, codes, len(volume.hu) * volume.spacing[0]),
        )

    def _doubt(self, path: Path, codes: np.ndarray, length: float) -> str | None:
        reason = self.card.familiar.doubt(lung_share(codes, self._hu_of_code), length)
        if reason is None:
            return None
        name = printable(str(path))
        return f"{name}: {reason}; it may be no chest, and its probabilities may mean nothing"


def load(path: Path | str) -> Predictor:
    """Load an exported ONNX model.

    Raises:
        InputError: not a model that this project exported, or not as it was exported.
    """
    import onnxruntime  # 0.2 s that `--help` need not wait for

    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the .onnx file in it")
    if not path.is_file():
        raise InputError(f"{path}: there is no such model; make it by `dvc repro` or `dvc pull`")
    whole = _is_whole(path)
    if whole is False:
        raise InputError(
            f"{path}: is not as it was exported: its checksum is of other content, so it was "
            "damaged or changed; copy it again, or make it anew by `dvc repro --force export`"
        )
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no other base class
        raise InputError(
            f"{path}: is no valid ONNX model, or was cut short ({error}); copy it again, or choose "
            "the model_<backbone>.onnx in model_weights/"
        ) from None
    card = read_card(session, path)
    if not whole:
        raise InputError(
            f"{path}: has no checksum at its end: another program changed it, or it was exported "
            "before models had one; export it again"
        )
    return Predictor(session, card)


def _is_whole(path: Path) -> bool | None:
    try:
        return is_whole(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    except ValueError:
        raise InputError(f"{path}: is empty; copy or export it again") from None


def find_model(folder: Path = MODEL_FOLDER) -> Path:
    """The one ONNX model in a folder.

    Raises:
        InputError: there is none, or several.
    """
    models = sorted(folder.glob("*.onnx"))
    if not models:
        raise InputError(
            f"{folder}: holds no .onnx model; make it by `dvc repro` or fetch it by `dvc pull`"
        )
    if len(models) > 1:
        names = ", ".join(str(model) for model in models)
        raise InputError(
            f"{folder}: holds several models: {names}; keep one there, or choose one by --model"
        )
    return models[0]
