"""An exported ONNX model with the preprocessing that belongs to it."""

import functools
import logging
import threading
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
from multi_abnormality.onnx_graph import UnsupportedModel, check_graph
from multi_abnormality.predict.card import ModelCard, read_card
from multi_abnormality.seal import is_whole

if TYPE_CHECKING:
    import onnxruntime

    from multi_abnormality.data.io.scan_sources import ScanSource

OUTPUTS = ("probability", "threshold", "attention")
MODEL_FOLDER = Path("model_weights")
MEMORY = 3.0  # GB that a model may take for a scan, beside its weights
COPIES = 3  # of the weights, as they are in the file and as kernels want them
SECONDS = 900  # that it may take for one
# A constant that ONNX Runtime computes as it loads a model. Exported models have them computed.
MAX_FOLDED = 1 << 16  # bytes
TOLERANCE = 1e-6  # of a threshold, which the model has in float32 and its metadata in float64
SYNTHETIC = (
    "%s was trained on synthetic phantoms: its probabilities have no clinical meaning, whatever "
    "scan it is given"
)
MAX_SHOWN = 300  # characters of ONNX Runtime's error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Of one scan."""

    probabilities: dict[str, float]  # calibrated, of each finding, in the model's order
    thresholds: dict[str, float]  # of each finding: it is positive from this probability on
    attention: np.ndarray  # (F, Z): how much each slice counts for each finding
    hu: np.ndarray  # (Z, Y, X) float32: the scan as the model sees it
    doubt: str | None  # why the scan is not like those that the model was trained on


class Predictor:
    """A model and its preprocessing. Several threads may use it at a time.

    Attributes:
        card: what the model says of itself.
        memory: GB that the model may take for all scans at a time.
    """

    def __init__(
        self, session: "onnxruntime.InferenceSession", card: ModelCard, memory: float = MEMORY
    ) -> None:
        self.session = session
        self.card = card
        self.memory = memory
        self._hu_of_code = code_table(card.preprocess)

    def __call__(self, scan: "Path | str | ScanSource") -> dict[str, float]:
        """Return the calibrated probability of each finding, in the model's order.

        `card.thresholds` has the thresholds from which they are positive. A doubt is logged as a
        warning.

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
        probabilities, attention = self._run(path, codes)
        by_finding = zip(self.card.findings, map(float, probabilities), strict=True)
        return Prediction(
            probabilities=dict(by_finding),
            thresholds=self.card.thresholds,
            attention=attention,
            hu=self._hu_of_code[codes],
            doubt=self._doubt(path, codes, len(volume.hu) * volume.spacing[0]),
        )

    def _run(self, path: Path, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (F,) and attention (F, Z), of which nothing is taken on trust."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        watch = threading.Timer(SECONDS, _terminate, [options])
        watch.daemon = True
        watch.start()
        try:
            outputs = self.session.run(list(OUTPUTS), {"volume": codes[None]}, options)
        except Exception as error:  # onnxruntime's own errors share no other base class
            if options.terminate:
                raise InputError(
                    f"{path}: the model took more than {SECONDS / 60:g} minutes for it, and was "
                    "stopped; use a faster machine or a smaller model"
                ) from None
            raise InputError(
                f"{path}: the model cannot be run on it ({_shown(error)}). If it is too large for "
                f"{self.memory:g} GB, allow more by --memory; otherwise export it again"
            ) from None
        finally:
            watch.cancel()
        findings = len(self.card.findings)
        shapes = [(1, findings), (findings,), (1, findings, len(codes))]
        if [getattr(output, "shape", None) for output in outputs] != shapes:
            raise InputError(f"{path}: the model's outputs have other shapes; export it again")
        probabilities, thresholds, attention = outputs[0][0], outputs[1], outputs[2][0]
        # Comparisons with NaN are false. JSON has no word for it, and a bar no length.
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InputError(
                f"{path}: the model has no finite probability between 0 and 1 for it; export it "
                "again"
            )
        stated = [self.card.thresholds[finding] for finding in self.card.findings]
        if not np.allclose(thresholds, stated, rtol=0, atol=TOLERANCE):
            raise InputError(
                f"{path}: the model's thresholds are not those of its metadata; export it again"
            )
        if not np.isfinite(attention).all():
            raise InputError(f"{path}: the model's attention is not finite; export it again")
        return probabilities, attention

    def _doubt(self, path: Path, codes: np.ndarray, length: float) -> str | None:
        reason = self.card.familiar.doubt(lung_share(codes, self._hu_of_code), length)
        if reason is None:
            return None
        name = printable(str(path))
        return f"{name}: {reason}; it may be no chest, and its probabilities may mean nothing"


def load(path: Path | str, memory: float = MEMORY) -> Predictor:
    """Load an exported ONNX model; one that was trained on synthetic phantoms logs a warning.

    Args:
        path: of the file. It may be of anybody's: what this project's exports have not is refused.
        memory: GB that the model may take for all scans at a time, beside its weights.

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
        check_graph(path)
        _limit_memory(int(memory * 1e9) + COPIES * path.stat().st_size)
        session = onnxruntime.InferenceSession(
            path, _session_options(), providers=["CPUExecutionProvider"]
        )
    except UnsupportedModel as error:
        raise InputError(
            f"{path}: {error}, which no model exported by this project does; choose the "
            "model_<backbone>.onnx in model_weights/"
        ) from None
    except Exception as error:  # onnxruntime's own errors share no other base class
        raise InputError(
            f"{path}: is no valid ONNX model, or was cut short ({_shown(error)}); copy it again, "
            "or choose the model_<backbone>.onnx in model_weights/"
        ) from None
    card = read_card(session, path)
    if not whole:
        raise InputError(
            f"{path}: has no checksum at its end: another program changed it, or it was exported "
            "before models had one; export it again"
        )
    if card.synthetic:
        log.warning(SYNTHETIC, printable(str(path)))
    return Predictor(session, card, memory)


def _session_options() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    for key, value in (
        ("session.use_env_allocators", "1"),  # of which _limit_memory's is one
        ("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED)),
    ):
        options.add_session_config_entry(key, value)
    return options


@functools.lru_cache(maxsize=1)
def _limit_memory(size: int) -> None:
    """Limit the memory of all models of this process; the latest call counts."""
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({"max_mem": size})
    onnxruntime.create_and_register_allocator(place, arena)


def _terminate(options: "onnxruntime.RunOptions") -> None:
    options.terminate = True


def _shown(error: Exception) -> str:
    """ONNX Runtime's error in a line, without paths of its own source."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


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
