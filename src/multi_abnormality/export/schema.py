"""The form of model_info.json: MONAI's bundle metadata, and this project's own keys after it.

`model_info.schema.json` beside this file is the same as a JSON schema, for other programs.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from multi_abnormality.data.composition import Familiar
from multi_abnormality.files import write_json

FILE = Path(__file__).with_name("model_info.schema.json")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(Part):
    """An input or an output, without its batch axis."""

    type: str
    format: str
    modality: str
    num_channels: int
    spatial_shape: list[int]
    dtype: str
    value_range: tuple[float, float]
    is_patch_data: bool
    channel_def: dict[str, str]
    axes: str = Field(description="What the tensor's axes are, and where they point.")


class Network(Part):
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Interval(Part):
    low: float
    high: float
    reliable: bool = Field(description="Whether enough patients have and lack each finding.")


class FindingScore(Part):
    positives: int = Field(description="Test scans with the finding.")
    auroc: float | None
    interval: Interval | None = Field(description="Of AUROC.")


class Evaluation(Part):
    """What stands behind eval_metrics."""

    scans: int
    patients: int
    manufacturers: dict[str, int] = Field(description="Scans by scanner, where there are several.")
    confidence: float = Field(description="Of every interval.")
    intervals: dict[str, Interval | None] = Field(description="Of each of eval_metrics.")
    findings: dict[str, FindingScore]


class ModelInfo(Part):
    """What model_info.json says. None stands where a score is undefined."""

    schema_: str = Field(alias="schema", description="The form that the first keys follow.")
    version: str = Field(description="Of the package that trained and exported the model.")
    changelog: dict[str, str]
    monai_version: str
    pytorch_version: str
    numpy_version: str
    required_packages_version: dict[str, str] = Field(description="To run the ONNX file.")
    name: str
    task: str
    description: str
    synthetic: bool = Field(description="Trained on synthetic phantoms: no clinical meaning.")
    authors: str = Field(description="The owner, as params.yaml's export section states it.")
    copyright: str
    license: str
    contact: str
    data_source: str
    data_type: str
    image_classes: str
    label_classes: str
    pred_classes: str
    eval_metrics: dict[str, float | None]
    intended_use: str
    references: list[str]
    network_data_format: Network

    model_name: str = Field(description="The backbone.")
    architecture: str
    parameters: int
    findings: list[str] = Field(description="In the order of the output.")
    thresholds: dict[str, float] = Field(
        description="A finding is positive from this probability on."
    )
    threshold_metric: str = Field(description="What the thresholds are best for, on val scans.")
    uncalibrated: list[str] = Field(
        description="Findings that had no positive, or no negative, scan to be calibrated on."
    )
    preprocess: dict[str, Any] = Field(description="How a volume is made of a scan.")
    familiar: Familiar = Field(description="From and to: the scans that it may be asked about.")
    training_args: dict[str, Any] = Field(description="Seed, and params.yaml's model and train.")
    training_volumes: dict[str, int] = Field(
        description="How many it learned from and was chosen by."
    )
    evaluation: Evaluation
    files_sha256: dict[str, str] = Field(description="Of the model's files beside this one.")
    data_sha256: str = Field(description="Of the processed volumes and labels trained on.")
    source_sha256: dict[str, str] = Field(description="Of the source files that training uses.")

    def content(self) -> dict[str, Any]:
        """As it stands in the file."""
        return self.model_dump(mode="json", by_alias=True)


def write_schema(path: Path = FILE) -> None:
    """Write the JSON schema anew."""
    write_json(ModelInfo.model_json_schema(), path)
