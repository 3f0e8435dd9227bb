"""An exported ONNX model with its preprocessing, and its predictions."""

import functools
import hashlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.preprocessing.input_range import lung_share
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.inference.onnx_metadata import ModelCard, read_card
from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import is_whole
from multi_abnormality.utils.onnx_graph import UnsupportedModel, check_graph

if TYPE_CHECKING:
    import onnxruntime

    from multi_abnormality.data.io.read import Volume
    from multi_abnormality.data.io.scan_sources import ScanSource

OUTPUTS = ("probability", "threshold", "attention")
SLICE_LOGIT = "slice_logit"  # an output as well, but of models since it was added
MODEL_FOLDER = Path("model_weights")
MEMORY = 3.0  # GB per scan, without the weights
COPIES = 3  # of the weights: in the file's and in the kernels' layouts
SECONDS = 900  # time limit per scan
# Limit of constant folding while a model loads; constants of exported models are folded already.
MAX_FOLDED = 1 << 16  # bytes
TOLERANCE = 1e-6  # between a threshold's float32 in the model and float64 in its metadata
SYNTHETIC = (
    "%s was trained on synthetic phantoms: its probabilities have no clinical meaning for any scan"
)
MAX_SHOWN = 300  # characters of ONNX Runtime's error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """A finding of one scan.

    Attributes:
        name: name of the finding, such as "Pleural effusion".
        probability: calibrated probability, 0 to 1.
        threshold: probability from which on the finding is positive.
        positive: whether it is; None if the finding could not be calibrated, so has no decision.
    """

    name: str
    probability: float
    threshold: float
    positive: bool | None


@dataclass(frozen=True)
class Prediction:
    """Findings of one scan.

    `prediction["Pleural effusion"]` is the finding of that name.

    Attributes:
        scan: path of the scan.
        findings: all findings of the model, in its order.
        warnings: why the scan is unlike the training scans; empty if it is like them.
        attention: (F, Z) float32, weight of each slice for each finding.
        volume: (Z, Y, X) float32, the model's input in HU, of `Model.spacing`. Slices run from
            feet to head.
        input_sha256: SHA-256 of the model's input in 8-bit codes, as preprocess stores it.
        slice_distance: distance of the scan's own slices, in mm.
        slice_logits: (F, Z) float32, logit of each slice alone, before calibration; None if the
            model does not have this output.
        codes: (Z, Y, X) uint8, the model's input.
    """

    scan: Path
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    attention: np.ndarray = field(repr=False, compare=False)
    volume: np.ndarray = field(repr=False, compare=False)
    input_sha256: str = field(default="", repr=False, compare=False)
    slice_distance: float = field(default=0.0, repr=False, compare=False)
    slice_logits: np.ndarray | None = field(default=None, repr=False, compare=False)
    codes: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    @property
    def probabilities(self) -> dict[str, float]:
        """Calibrated probability by finding, in the model's order."""
        return {finding.name: finding.probability for finding in self.findings}


class Model:
    """Exported model with its preprocessing; `load_model` returns it. Thread-safe.

    Attributes:
        path: ONNX file.
        card: metadata of the file.
        memory: memory limit in GB, for all scans predicted in parallel.
    """

    def __init__(
        self,
        path: Path,
        session: "onnxruntime.InferenceSession",
        card: ModelCard,
        memory: float = MEMORY,
    ) -> None:
        self.path = path
        self.session = session
        self.card = card
        self.memory = memory
        self._hu_of_code = code_table(card.preprocess)
        names = [output.name for output in session.get_outputs()]
        self._outputs = [*OUTPUTS, *([SLICE_LOGIT] if SLICE_LOGIT in names else [])]

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings, in the order of all outputs."""
        return self.card.findings

    @property
    def thresholds(self) -> dict[str, float]:
        """Probability from which on each finding is positive, in the order of `findings`."""
        return {finding: self.card.thresholds[finding] for finding in self.card.findings}

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (Z, Y, X) of the model's input, in mm."""
        return self.card.preprocess.spacing

    @property
    def is_synthetic(self) -> bool:
        """Whether it was trained on synthetic phantoms: then it says nothing about patients."""
        return self.card.synthetic

    @property
    def has_slice_logits(self) -> bool:
        """Whether it has logits of slices, from which heat maps are computed."""
        return SLICE_LOGIT in self._outputs

    def predict(self, scan: "Path | str | ScanSource") -> Prediction:
        """Predict the findings of a scan.

        Args:
            scan: path of a NIfTI, MetaImage or NRRD file, of a DICOM file (for its whole series),
                or of a folder or .zip with one DICOM series.

        Raises:
            InputError: the scan cannot be read, or is not CT in HU.
        """
        if isinstance(scan, str):
            scan = Path(scan)
        path = scan if isinstance(scan, Path) else scan.path
        return self.predict_volume(path, read_volume(scan))

    def predict_volume(self, path: Path, volume: "Volume") -> Prediction:
        """Predict the findings of a volume that was read from `path`."""
        codes = resample_and_quantize(volume, self.card.preprocess)
        outputs = self.run(path, codes)
        values = map(float, outputs["probability"])
        probabilities = dict(zip(self.card.findings, values, strict=True))
        thresholds = self.card.thresholds
        decisions = decide(probabilities, thresholds, self.card.uncalibrated)
        doubt = self._explain_outlier(path, codes, len(volume.hu) * volume.spacing[0])
        return Prediction(
            scan=path,
            findings=tuple(
                Finding(name, probability, thresholds[name], decisions[name])
                for name, probability in probabilities.items()
            ),
            warnings=(doubt,) if doubt else (),
            attention=outputs["attention"],
            volume=self._hu_of_code[codes],
            input_sha256=hashlib.sha256(codes.tobytes()).hexdigest(),
            slice_distance=volume.spacing[0],
            slice_logits=outputs.get(SLICE_LOGIT),
            codes=codes,
        )

    def run(self, path: Path, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Run the untrusted model and validate its outputs.

        Args:
            path: of the scan, for errors.
            codes: (Z, Y, X) uint8, of the shape that the model takes.

        Returns:
            `probability` (F,), `threshold` (F,), `attention` (F, Z) and, if the model has it,
            `slice_logit` (F, Z).

        Raises:
            InputError: the model fails, takes too long, or has impossible outputs.
        """
        import onnxruntime

        options = onnxruntime.RunOptions()
        watch = threading.Timer(SECONDS, setattr, [options, "terminate", True])
        watch.daemon = True
        watch.start()
        try:
            outputs = self.session.run(self._outputs, {"volume": codes[None]}, options)
        except Exception as error:  # onnxruntime's errors have no other common base class
            if options.terminate:
                raise InputError(
                    f"{path}: the model was stopped after {SECONDS / 60:g} minutes; use a faster "
                    "machine or a smaller model"
                ) from None
            raise InputError(
                f"{path}: the model cannot be run on it ({_shown(error)}). If it needs more than "
                f"{self.memory:g} GB, raise --memory; otherwise export it again"
            ) from None
        finally:
            watch.cancel()
        return self._validated(path, outputs, len(codes))

    def _validated(
        self, path: Path, outputs: list[np.ndarray], slices: int
    ) -> dict[str, np.ndarray]:
        findings = len(self.card.findings)
        by_slice = (1, findings, slices)
        shapes = [(1, findings), (findings,), by_slice, by_slice][: len(self._outputs)]
        if [getattr(output, "shape", None) for output in outputs] != shapes:
            raise InputError(f"{path}: the model's outputs have wrong shapes; export it again")
        probabilities, thresholds, attention = outputs[0][0], outputs[1], outputs[2][0]
        # Comparisons with NaN are false.
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InputError(
                f"{path}: the model has no finite probability between 0 and 1 for it; export it "
                "again"
            )
        expected = [self.card.thresholds[finding] for finding in self.card.findings]
        if not np.allclose(thresholds, expected, rtol=0, atol=TOLERANCE):
            raise InputError(
                f"{path}: the model's thresholds are not those of its metadata; export it again"
            )
        named = {"probability": probabilities, "threshold": thresholds, "attention": attention}
        if self.has_slice_logits:
            named[SLICE_LOGIT] = outputs[3][0]
        for name, values in named.items():
            if not np.isfinite(values).all():
                raise InputError(f"{path}: the model's {name} is not finite; export it again")
        return named

    def _explain_outlier(self, path: Path, codes: np.ndarray, length: float) -> str | None:
        reason = self.card.familiar.explain_outlier(lung_share(codes, self._hu_of_code), length)
        if reason is None:
            return None
        name = printable(str(path))
        return f"{name}: {reason}; this may not be a chest CT, and predictions are unreliable"


def load_model(path: Path | str = MODEL_FOLDER, memory: float = MEMORY) -> Model:
    """Load an exported model; log a warning if it was trained on synthetic phantoms.

    Args:
        path: ONNX file, or the folder with it, as the export stage writes it. The file is
            untrusted: operators that exports do not use are rejected.
        memory: memory limit in GB, for all scans predicted in parallel, without the weights.

    Raises:
        InputError: there is no such file, or several in the folder; or it was not exported by this
            project, or was changed since.
    """
    import onnxruntime  # 0.2 s that `--help` need not wait for

    path = Path(path)
    if path.is_dir() or path == MODEL_FOLDER:
        path = _find_model(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such model; create it by `dvc repro` or fetch it by `dvc pull`"
        )
    whole = _is_whole(path)
    if whole is False:
        raise InputError(
            f"{path}: is not as it was exported: the checksum does not match, so it was damaged "
            "or changed; copy it again, or export it again by `dvc repro --force export`"
        )
    try:
        check_graph(path)
        _limit_memory(int(memory * 1e9) + COPIES * path.stat().st_size)
        session = onnxruntime.InferenceSession(
            path, _session_options(), providers=["CPUExecutionProvider"]
        )
    except UnsupportedModel as error:
        raise InputError(
            f"{path}: {error}, which no model exported by this project does; choose "
            "model_<backbone>.onnx in model_weights/"
        ) from None
    except Exception as error:  # onnxruntime's errors have no other common base class
        raise InputError(
            f"{path}: is not a valid ONNX model, or was truncated ({_shown(error)}); copy it "
            "again, or choose model_<backbone>.onnx in model_weights/"
        ) from None
    card = read_card(session, path)
    if not whole:
        raise InputError(
            f"{path}: has no checksum at its end: it was changed by another program, or exported "
            "before models had one; export it again"
        )
    if card.synthetic:
        log.warning(SYNTHETIC, printable(str(path)))
    return Model(path, session, card, memory)


def _session_options() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    for key, value in (
        ("session.use_env_allocators", "1"),  # including that of _limit_memory
        ("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED)),
    ):
        options.add_session_config_entry(key, value)
    return options


@functools.lru_cache(maxsize=1)
def _limit_memory(size: int) -> None:
    """Limit the memory of all models in this process; the latest call wins."""
    import onnxruntime

    memory_info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({"max_mem": size})
    onnxruntime.create_and_register_allocator(memory_info, arena)


def _shown(error: Exception) -> str:
    """Shorten an error of ONNX Runtime to one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _is_whole(path: Path) -> bool | None:
    try:
        return is_whole(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except ValueError:
        raise InputError(f"{path}: is empty; copy or export it again") from None


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
            f"{folder}: holds several models: {names}; keep one there, or give the path "
            "of one (--model)"
        )
    return models[0]
