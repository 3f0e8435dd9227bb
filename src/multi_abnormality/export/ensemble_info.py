"""Description of an ensemble: the content of its model_info.json."""

from typing import Any

from pydantic import Field

from multi_abnormality.export.model_info_schema import Evaluation, PretrainedWeights, StrictModel


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
