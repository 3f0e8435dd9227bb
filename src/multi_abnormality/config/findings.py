"""The 18 findings of CT-RATE, in the official order, and names of findings."""

FINDINGS: tuple[str, ...] = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)


def names_a_picture(finding: str) -> bool:
    """Whether a picture named after the finding stays in its directory."""
    return finding.isprintable() and {"", ".", ".."}.isdisjoint(finding.split("/"))
