"""An exported ONNX model with its preprocessing, and its predictions."""

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.io.read import Volume, read_volume
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

    from multi_abnormality.data.io.scan_sources import ScanSource

OUTPUTS = ("probability", "threshold", "attention")
SLICE_LOGIT = "slice_logit"  # an output as well, but of models since it was added
MEMORY = 3.0  # GB per scan, without the weights
COPIES = 3  # of the weights: in the file's and in the kernels' layouts
SECONDS = 900  # time limit per scan
# Limit of constant folding while a model loads; constants of exported models are folded already.
MAX_FOLDED = 1 << 16  # bytes
TOLERANCE = 1e-6  # between a threshold's float32 in the model and float64 in its metadata
UNLIKE = "this may not be a chest CT, and predictions are unreliable"
MAX_SHOWN = 300  # characters of ONNX Runtime's error


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

    def predict_volume(self, path: Path, volume: Volume) -> Prediction:
        """Predict the findings of a volume that was read from `path`."""
        codes = resample_and_quantize(volume, self.card.preprocess)
        outputs = self.run(path, codes)
        reason = self.explain_outlier(codes, volume)
        digest = hashlib.sha256(codes.tobytes()).hexdigest()
        return self.prediction(path, volume, codes, outputs, reason, digest)

    def prediction(
        self,
        path: Path,
        volume: Volume,
        codes: np.ndarray,
        outputs: dict[str, np.ndarray],
        outlier: str | None,
        input_sha256: str,
    ) -> Prediction:
        """Decide by the thresholds, and describe the prediction of a scan.

        Args:
            path: path of the scan.
            volume: its voxels.
            codes: (Z, Y, X) uint8, the model's input.
            outputs: `probability` (F,), `attention` (F, Z) and, if there is one, `slice_logit`
                (F, Z).
            outlier: why the scan is unlike the training scans, if it is.
            input_sha256: see Prediction.
        """
        probabilities = dict(
            zip(self.card.findings, map(float, outputs["probability"]), strict=True)
        )
        thresholds = self.card.thresholds
        decisions = decide(probabilities, thresholds, self.card.uncalibrated)
        doubt = f"{printable(str(path))}: {outlier}; {UNLIKE}"
        return Prediction(
            scan=path,
            findings=tuple(
                Finding(name, probability, thresholds[name], decisions[name])
                for name, probability in probabilities.items()
            ),
            warnings=(doubt,) if outlier else (),
            attention=outputs["attention"],
            volume=self._hu_of_code[codes],
            input_sha256=input_sha256,
            slice_distance=volume.spacing[0],
            slice_logits=outputs.get(SLICE_LOGIT),
            codes=codes,
        )

    @property
    def has_training_hashes(self) -> bool:
        """Whether training patients and scans can be recognized."""
        return self.card.training is not None

    def find_training_patients(self, patients: Sequence[str]) -> list[str]:
        """Return those of the ids that a training or validation patient has."""
        return self.card.training.find_patients(patients) if self.card.training else []

    def find_training_scans(self, inputs: Sequence[str]) -> list[int]:
        """Return the indices of the scans that the model was trained or validated on.

        Args:
            inputs: `Prediction.input_sha256` of each.
        """
        return self.card.training.find_scans(inputs) if self.card.training else []

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

    def explain_outlier(self, codes: np.ndarray, volume: Volume) -> str | None:
        """Return why a scan is unlike the training scans, or None."""
        length = len(volume.hu) * volume.spacing[0]
        return self.card.familiar.explain_outlier(lung_share(codes, self._hu_of_code), length)


def load_onnx(path: Path, memory: float = MEMORY, size: int | None = None) -> Model:
    """Load an exported ONNX file, which is untrusted: see `predictor.load_model`.

    Args:
        path: ONNX file.
        memory: memory limit in GB, for all scans predicted in parallel, without the weights.
        size: bytes of all models that are loaded together; None: of this file.
    """
    import onnxruntime  # 0.2 s that `--help` need not wait for

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
        _limit_memory(int(memory * 1e9) + COPIES * (size or path.stat().st_size))
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
