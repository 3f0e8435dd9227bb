"""Schema of model_info.json: MONAI's bundle metadata, followed by this project's own keys.

`model_info.schema.json` beside this file is the same as JSON schema, for other programs.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from multi_abnormality.data.preprocessing.input_range import InputRange
from multi_abnormality.evaluation.metric_registry import metric_names
from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score
from multi_abnormality.utils.atomic_io import write_json

FILE = Path(__file__).with_name("model_info.schema.json")


class StrictModel(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


class Tensor(StrictModel):
    """Input or output of the network, without its batch axis."""

    type: str = "probabilities"
    format: str = "classes"
    modality: str = "n/a"
    num_channels: int
    spatial_shape: list[int] = []
    dtype: str = "float32"
    value_range: tuple[float, float] = (0, 1)
    is_patch_data: bool = False
    channel_def: dict[str, str]
    axes: str = Field(description="Meaning and direction of the tensor's axes.")


class Network(StrictModel):
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Interval(StrictModel):
    low: float
    high: float
    reliable: bool = Field(description="Whether enough patients have and lack each finding.")


class FindingScore(StrictModel):
    positives: int = Field(description="Test scans with the finding.")
    auroc: float | None
    interval: Interval | None = Field(description="Interval of AUROC.")


class LabelCount(StrictModel):
    positives: int
    negatives: int
    missing: int


class Evaluation(StrictModel):
    """Counts, intervals and per-finding scores behind eval_metrics."""

    scans: int
    patients: int
    manufacturers: dict[str, int] = Field(
        description="Scans by manufacturer, if there are several."
    )
    confidence: float = Field(description="Level of every interval.")
    intervals: dict[str, Interval | None] = Field(description="Interval of each of eval_metrics.")
    findings: dict[str, FindingScore]
    labels: dict[str, dict[str, LabelCount]] = Field(
        {},
        description="Scans by label in train, val and test, if one is missing or left out.",
    )
    untrained: list[str] = Field(
        [], description="Findings without a positive or a negative training scan: not scored."
    )


class PretrainedWeights(StrictModel):
    """Weights that training started from."""

    source: str | None = Field(description="Repository on the hub, address or file name.")
    revision: str | None = Field(description="Commit of the repository.")
    sha256: str = Field(description="SHA-256 of the file of weights.")
    license: str | None = Field(description="Licence that the source states.")
    datasets: list[str] = Field(description="Training data that the source states.")
    input_size: list[int] = Field(description="Channels, y and x that they were trained for.")
    mean: list[float] = Field(description="Per channel, subtracted from intensities in [0, 1].")
    std: list[float] = Field(description="Per channel; the difference is divided by it.")
    warnings: list[str]


class ModelInfo(StrictModel):
    """Content of model_info.json. Undefined scores are None."""

    schema_: str = Field(
        "https://project-monai.github.io/schema/meta_schema_20240725.json",
        alias="schema",
        description="Schema of the first keys.",
    )
    version: str = Field(description="Version of the package that trained and exported the model.")
    changelog: dict[str, str] = {
        "0.2.0": "calibrated probabilities with thresholds; renamed parameters",
        "0.1.0": "first version",
    }
    monai_version: str = "not needed"
    pytorch_version: str
    numpy_version: str
    required_packages_version: dict[str, str] = Field(
        description="Packages that run the ONNX file."
    )
    name: str
    task: str
    description: str = (
        "From a chest CT to a probability of each, calibrated on validation patients, with the "
        "threshold from which on it is positive."
    )
    synthetic: bool = Field(description="Trained on synthetic phantoms: no clinical meaning.")
    debug: str = Field(
        description="Value of train.debug; the scores of a debug run mean nothing. none: full run."
    )
    authors: str = Field(description="Owner, from the export section of params.yaml.")
    copyright: str
    license: str
    contact: str
    data_source: str
    data_type: str = "NIfTI, MetaImage or DICOM"
    image_classes: str = "one channel, 8-bit codes of HU"
    label_classes: str
    pred_classes: str
    eval_metrics: dict[str, float | None]
    intended_use: str
    references: list[str]
    network_data_format: Network

    model_name: str = Field(description="Name of the backbone.")
    architecture: str
    pretrained_weights: PretrainedWeights | None = Field(
        None, description="None for random initial weights."
    )
    parameters: int
    findings: list[str] = Field(description="Findings in the order of the output.")
    thresholds: dict[str, float] = Field(
        description="A finding is positive from this probability on."
    )
    threshold_metric: str = Field(description="Metric that the thresholds maximize on val scans.")
    uncalibrated: list[str] = Field(
        description="Findings without a positive, or a negative, val scan; they have no decision."
    )
    preprocess: dict[str, Any] = Field(description="Preprocessing from scan to volume.")
    adjacent_slices: int = Field(
        description="Neighbouring slices that the network sees as one, an odd number."
    )
    familiar: InputRange = Field(
        description="Range of the training scans, outside of which predictions are unreliable."
    )
    training_args: dict[str, Any] = Field(description="Seed, and params.yaml's model and train.")
    training_volumes: dict[str, int] = Field(
        description="Number of volumes for training, and for the choice of the epoch."
    )
    training_hashes: dict[str, int] = Field(
        description="Number of training and validation patients, and of their scans, of which the "
        "ONNX and PT2 files have hashes; empty without hashes."
    )
    evaluation: Evaluation
    files_sha256: dict[str, str] = Field(
        description="SHA-256 of the model's files beside this one."
    )
    data_sha256: str = Field(description="SHA-256 of the processed training volumes and labels.")
    source_sha256: dict[str, str] = Field(
        description="SHA-256 of the code that determines the result of training, by file."
    )

    def content(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        return self.model_dump(mode="json", by_alias=True)


def write_schema(path: Path = FILE) -> None:
    """Write the JSON schema."""
    write_json(ModelInfo.model_json_schema(mode="serialization"), path)


def described_scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Select the scores of model_info.json, with counts and intervals.

    Args:
        evaluation: content of metrics/evaluate.json.

    Raises:
        KeyError, TypeError, ValueError: `evaluation` has another format.
    """
    counts = evaluation["counts"]
    per_finding = evaluation["intervals"]["per_pathology"]
    details = Evaluation(
        scans=counts["scans"],
        patients=counts["patients"],
        manufacturers={
            maker: group["scans"]
            for maker, group in evaluation["groups"].get("Manufacturer", {}).items()
        },
        confidence=evaluation["intervals"]["confidence"],
        intervals=macro_intervals(evaluation),
        findings={
            finding: FindingScore(
                positives=positives,
                auroc=finding_score(evaluation, finding, "auroc"),
                interval=per_finding[finding]["auroc"],
            )
            for finding, positives in counts["positives"].items()
        },
        labels=counts.get("labels", {}),
        untrained=counts.get("untrained", []),
    )
    metrics = {name: macro_score(evaluation, name) for name in (*metric_names(), "crg")}
    return {"eval_metrics": metrics, "evaluation": details}


class EnsembleMember(StrictModel):
    file: str = Field(description="ONNX file, relative to model_info.json.")
    sha256: str
    weight: float = Field(description="Of its calibrated logits; all have the sum 1.")
    revision: str = Field(description="Name of the Git revision or DVC experiment.")
    commit: str | None
    architecture: str
    parameters: int
    spacing: list[float] = Field(description="Voxel size z, y, x of its input, in mm.")
    seed: int
    auroc: float | None = Field(description="Macro AUROC of the test scans.")
    pretrained_weights: PretrainedWeights | None


class BestMember(StrictModel):
    """Comparison with the member that has the best scores on the test scans."""

    revision: str
    auroc: float | None = Field(description="Macro AUROC.")
    gain: float | None = Field(description="Macro AUROC of the ensemble, less the member's.")
    low: float | None
    high: float | None
    p: float | None = Field(description="Paired permutation test.")


class EnsembleInfo(StrictModel):
    """Content of an ensemble's model_info.json. `slope` and `intercept` are of the fused logits."""

    version: str
    name: str
    task: str
    synthetic: bool
    debug: str
    weighting: str = Field(description="mean, or val: weights fitted on the val scans.")
    findings: list[str]
    members: list[EnsembleMember]
    slope: dict[str, float]
    intercept: dict[str, float]
    thresholds: dict[str, float]
    threshold_metric: str
    uncalibrated: list[str]
    val_scans: int = Field(description="Scans that no member was trained on, for all that is fit.")
    eval_metrics: dict[str, float | None]
    evaluation: Evaluation
    best_member: BestMember
    authors: str
    license: str
    contact: str
    data_source: str
    intended_use: str
    references: list[str]

    @property
    def warnings(self) -> list[str]:
        """What users must know about the members' pretrained weights."""
        weights = [member.pretrained_weights for member in self.members]
        return list(dict.fromkeys(line for one in weights if one for line in one.warnings))

    def content(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        return self.model_dump(mode="json")
