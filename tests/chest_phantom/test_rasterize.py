import numpy as np
import pytest

from chest_phantom.anatomy import Subject, draw_subject
from chest_phantom.cohort import Scan
from chest_phantom.rasterize import draw_scan
from chest_phantom.scanner import Protocol, axis_coordinates
from multi_abnormality.config.findings import FINDINGS

CHANGED = 40  # HU, well above what rounding does


def scan_with(*findings: str, patient: int = 1) -> Scan:
    labels = tuple(int(finding in findings) for finding in FINDINGS)
    return Scan(5, "train", patient, "a", labels, 1)


def drawn_difference(finding: str, patient: int = 1) -> tuple[np.ndarray, Protocol, Subject]:
    """HU added by one finding, with the protocol and the subject."""
    scan = scan_with(finding, patient=patient)
    present, protocol = draw_scan(scan)
    absent, _ = draw_scan(scan_with(patient=patient))
    return present.astype(int) - absent, protocol, draw_subject(scan)


def centre_of(changed: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Mean position of the changed voxels, mm (z, y, x): up, back, left."""
    axes = [
        axis_coordinates(count, step, middle)
        for count, step, middle in zip(
            changed.shape, protocol.spacing, protocol.centre, strict=True
        )
    ]
    return np.array([axis[index].mean() for axis, index in zip(axes, changed.nonzero())])  # noqa: B905


def test_a_chest_has_air_around_it_lungs_and_bone():
    volume, protocol = draw_scan(scan_with())
    assert volume.dtype == np.int16
    assert volume.shape == (protocol.slices, 128, 128)
    assert protocol.slices >= 24
    corners = volume[:, :6, :6]
    assert abs(np.median(corners) + 1000) < 10
    assert volume.min() >= -1024
    middle = volume[protocol.slices // 2]
    inside = middle[40:90, 20:110]
    lung = inside[(inside > -980) & (inside < -600)]
    assert lung.size > 0.2 * inside.size
    assert -920 < np.median(lung) < -700
    assert volume.max() > 250


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("patient", [1, 2])
def test_every_finding_changes_the_scan_locally(finding, patient):
    added, _, _ = drawn_difference(finding, patient)
    changed = np.abs(added) > CHANGED
    assert changed.sum() > 20
    assert changed.mean() < 0.15


@pytest.mark.parametrize("patient", [1, 2, 3])
def test_effusion_lies_at_the_back_and_low(patient):
    added, protocol, _ = drawn_difference("Pleural effusion", patient)
    up, back, _ = centre_of(added > 400, protocol)
    assert back > 35
    assert up < -20


@pytest.mark.parametrize("patient", [1, 2, 3])
def test_hernia_lies_behind_the_heart(patient):
    added, protocol, subject = drawn_difference("Hiatal hernia", patient)
    up, back, left = centre_of(np.abs(added) > CHANGED, protocol)
    assert back > subject.state.heart.centre[1] + 30
    assert abs(left) < 40
    assert up > subject.state.thorax.left_dome * subject.patient.scale[2] - 40


@pytest.mark.parametrize("patient", [1, 2, 3])
def test_coronary_calcium_lies_on_the_heart(patient):
    added, protocol, subject = drawn_difference("Coronary artery wall calcification", patient)
    z, y, x = (
        axis_coordinates(count, step, middle)
        for count, step, middle in zip(added.shape, protocol.spacing, protocol.centre, strict=True)
    )
    across, deep, high = subject.patient.scale
    heart = subject.state.heart
    depth = heart.distance(
        (x / across)[None, None], (y / deep)[None, :, None], (z / high)[:, None, None]
    )
    on_surface = np.abs(depth[added > 200])
    assert on_surface.size > 5
    assert np.percentile(on_surface, 90) < 9


def test_emphysema_darkens_the_upper_lung():
    added, protocol, _ = drawn_difference("Emphysema")
    up, _, _ = centre_of(added < -CHANGED, protocol)
    assert up > 10


def test_septal_lines_reach_the_pleura():
    scan = scan_with("Interlobular septal thickening")
    added, protocol, subject = drawn_difference("Interlobular septal thickening")
    z, y, x = (
        axis_coordinates(count, step, middle) / scale
        for count, step, middle, scale in zip(
            added.shape,
            protocol.spacing,
            protocol.centre,
            reversed(subject.patient.scale),
            strict=True,
        )
    )
    wall = subject.state.thorax.cavity(x[None, None], y[None, :, None], z[:, None, None])
    lines = wall[added > CHANGED]
    assert scan.labels.count(1) == 1
    assert np.percentile(lines, 95) > -12  # a good part within 12 mm of the chest wall
    assert lines.min() > -70


def test_mosaic_keeps_the_mean_density():
    added, _, _ = drawn_difference("Mosaic attenuation pattern")
    changed = np.abs(added) > 20
    assert abs(added[changed].mean()) < 25


def test_reconstructions_have_the_same_patient_but_other_noise():
    first, one = draw_scan(scan_with())
    second, two = draw_scan(scan_with(), reconstruction=2)
    assert one.kernel != two.kernel
    assert one.thickness != two.thickness
    assert one.pixel == two.pixel
    assert abs(first.mean() - second.mean()) < 25


def test_it_scales_to_other_sizes():
    small, _ = draw_scan(scan_with("Pleural effusion"), size=64, slices=24)
    large, protocol = draw_scan(scan_with("Pleural effusion"), size=256, slices=80)
    assert small.shape[1:] == (64, 64)
    assert large.shape == (protocol.slices, 256, 256)
    assert abs(small.mean() - large.mean()) < 15


def test_slabs_leave_no_seam(monkeypatch):
    whole, _ = draw_scan(scan_with(*FINDINGS))
    monkeypatch.setattr("chest_phantom.rasterize.SLAB_VOXELS", 128 * 128 * 5)
    slabs, _ = draw_scan(scan_with(*FINDINGS))
    assert np.array_equal(whole, slabs)
