"""Registry of the functions that draw findings, with their layers."""

from collections.abc import Callable

from chest_phantom.anatomy import Subject
from chest_phantom.lesions import airspace, airways, interstitium, mediastinum, pleura, vessels
from chest_phantom.lesions.devices import medical_material
from chest_phantom.strokes import Stroke

LAYERS = ("parenchyma", "lung", "mediastinum", "device")

# Cardiomegaly and pericardial effusion are the heart's own shape: heart.py draws them.
DRAWN: dict[str, tuple[str, Callable[[Subject], list[Stroke]]]] = {
    "Mosaic attenuation pattern": ("parenchyma", airspace.mosaic),
    "Emphysema": ("parenchyma", airspace.emphysema),
    "Lung opacity": ("parenchyma", airspace.opacity),
    "Interlobular septal thickening": ("parenchyma", interstitium.septal_lines),
    "Peribronchial thickening": ("lung", airways.thick_walls),
    "Bronchiectasis": ("lung", airways.bronchiectasis),
    "Pulmonary fibrotic sequela": ("lung", interstitium.scars),
    "Lung nodule": ("lung", airspace.nodules),
    "Consolidation": ("lung", airspace.consolidation),
    "Atelectasis": ("lung", pleura.atelectasis),
    "Pleural effusion": ("lung", pleura.effusion),
    "Hiatal hernia": ("mediastinum", mediastinum.hernia),
    "Lymphadenopathy": ("mediastinum", mediastinum.nodes),
    "Arterial wall calcification": ("mediastinum", vessels.aortic_plaques),
    "Coronary artery wall calcification": ("mediastinum", vessels.coronary_plaques),
    "Medical material": ("device", medical_material),
}


def lesion_strokes(subject: Subject) -> dict[str, list[Stroke]]:
    """Return the strokes of a scan's findings by layer, in painting order."""
    layers: dict[str, list[Stroke]] = {layer: [] for layer in LAYERS}
    for finding, (layer, draw) in DRAWN.items():
        if subject.has(finding):
            layers[layer] += draw(subject)
    return layers
