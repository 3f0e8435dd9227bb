"""Spacing and orientation of an affine, and detection of implausible geometries."""

import numpy as np

from multi_abnormality.utils.errors import UnusableScan

SPACING_LIMITS = (0.05, 50.0)  # mm: generous limits of clinical CT
MIN_EXTENT = 10.0  # mm along each axis; less cannot be a chest
MAX_FIELD_OF_VIEW = 900.0  # mm, the largest of any scanner; along the body a scan may be longer
# Voxels of exactly 1 mm along the axes are a program's default if the first or the middle voxel is
# at 0; if the scan would be smaller (mm, shortest and longest side) than a newborn's chest; or if
# it has a scanner's matrix, for which 1 mm is rare, and would be shorter than an adult's chest.
# Children's scans are resampled to 1 mm, and are smaller.
MIN_EXTENTS_AT_1_MM = (60, 100)
MIN_LENGTH_AT_1_MM = 100
MATRICES = (256, 320, 512, 768, 1024)
MAX_SHEAR = 1.0  # degrees between two axes that are taken to be orthogonal
MAX_TILT = 45.0  # degrees; gantries tilt up to 30


def is_default_geometry(affine: np.ndarray, shape: tuple[int, int, int]) -> bool:
    """Return whether an affine is a program's default: 1 mm along the axes."""
    if not np.array_equal(np.abs(affine[:3, :3]), np.eye(3)):
        return False
    first, middle = affine[:3, 3], affine[:3] @ [*((np.array(shape) - 1) / 2), 1]
    # Programs define the middle by different corners of the voxels.
    is_at_zero = not first.any() or np.abs(middle).max() <= 1
    is_too_small = min(shape) < MIN_EXTENTS_AT_1_MM[0] or max(shape) < MIN_EXTENTS_AT_1_MM[1]
    has_matrix = any(shape.count(side) > 1 for side in MATRICES)
    return is_at_zero or is_too_small or (has_matrix and min(shape) < MIN_LENGTH_AT_1_MM)


def spacing_and_tilt(
    columns: np.ndarray, shape: tuple[int, ...], slice_axis: int | None = None
) -> tuple[np.ndarray, float]:
    """Return the spacing along each axis, and the tilt of the gantry.

    A tilted gantry shifts each slice sideways, so the slice axis is not normal to the slices. The
    spacing is then the distance between planes.

    Args:
        columns: (3, 3) mm, the affine without its translation.
        shape: number of voxels along each axis.
        slice_axis: index of the slice axis; None selects the one that fits best.

    Returns:
        (3,) mm, and the tilt in degrees.

    Raises:
        UnusableScan: spacing or extent are impossible for chest CT, or axes are not orthogonal.
    """
    lengths = np.linalg.norm(columns, axis=0)
    _check_spacing(lengths, shape)
    directions = columns / lengths
    # For each axis, the deviation of the angle between the two others from 90 degrees.
    cosines = [float(directions[:, axis - 2] @ directions[:, axis - 1]) for axis in range(3)]
    shear = np.degrees(np.arcsin(np.clip(np.abs(cosines), 0, 1)))
    axis = _slice_axis(shear, lengths) if slice_axis is None else slice_axis
    normal = np.cross(directions[:, axis - 2], directions[:, axis - 1])
    normal /= max(float(np.linalg.norm(normal)), 1e-12)
    cosine = min(abs(float(normal @ directions[:, axis])), 1.0)
    tilt = float(np.degrees(np.arccos(cosine)))
    if shear[axis] > MAX_SHEAR or tilt > MAX_TILT:
        angles = ", ".join(f"{90 - angle:.1f}" for angle in shear)
        raise UnusableScan(
            f"its affine is sheared or singular: its axes meet at {angles} degrees where "
            "90 are expected; convert the scan again from its source",
            "geometry",
        )
    spacing = lengths.copy()
    if tilt > 0.1:  # less is rounding
        spacing[axis] *= cosine
    _check_spacing(spacing, shape)
    return spacing, tilt


def nearest_axes(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest world axis, and the sign along it, for each column (file axis).

    The largest components are assigned first, so that no world axis is used twice.
    """
    world_of, sign_of = np.full(3, -1), np.zeros(3)
    strength = np.abs(directions)
    for _ in range(3):
        world, axis = np.unravel_index(strength.argmax(), strength.shape)
        world_of[axis], sign_of[axis] = world, np.sign(directions[world, axis])
        strength[world, :] = strength[:, axis] = -1
    return world_of, sign_of


def canonical_axes(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """Return the file axis of each canonical axis, and whether the two run in one direction.

    Canonical axes are (z, y, x), to the head, the back and the left.

    Args:
        affine: (4, 4), from the file's voxel indices to RAS+ coordinates.
    """
    columns = affine[:3, :3]
    world_of, sign_of = nearest_axes(columns / np.linalg.norm(columns, axis=0))
    order = [int(np.flatnonzero(world_of == world)[0]) for world in (2, 1, 0)]
    return order, [bool(rises) for rises in sign_of[order] * (1, -1, -1) > 0]


def axis_codes(directions: np.ndarray) -> str:
    """Return where the file's axes point to, such as "LPS"."""
    names = (("L", "P", "I"), ("R", "A", "S"))
    world_of, sign_of = nearest_axes(directions)
    return "".join(
        names[int(sign > 0)][world] for world, sign in zip(world_of, sign_of, strict=True)
    )


def _check_spacing(spacing: np.ndarray, shape: tuple[int, ...]) -> None:
    low, high = SPACING_LIMITS
    if not np.all((spacing >= low) & (spacing <= high)):  # also if NaN
        raise UnusableScan(
            f"its spacing is {spacing.round(6).tolist()} mm, outside {low:g} to {high:g}; "
            "set the true one in its header or convert the scan again",
            "geometry",
        )
    extent = spacing * shape
    if extent.min() < MIN_EXTENT:
        raise UnusableScan(
            f"covers only {extent.round(1).tolist()} mm; give the whole scan", "geometry"
        )
    if sorted(extent)[1] > MAX_FIELD_OF_VIEW:
        raise UnusableScan(
            f"covers {extent.round(1).tolist()} mm, more than any scanner's field of view; "
            "set the true spacing in its header or convert the scan again",
            "geometry",
        )


def _slice_axis(shear: np.ndarray, lengths: np.ndarray) -> int:
    """Return the axis whose two others are orthogonal, and closest to each other in spacing."""
    fitting = [axis for axis in (2, 1, 0) if shear[axis] <= MAX_SHEAR]

    def in_plane_difference(axis: int) -> float:
        return round(abs(float(lengths[axis - 2] / lengths[axis - 1]) - 1), 3)

    return min(fitting or [2], key=in_plane_difference)
