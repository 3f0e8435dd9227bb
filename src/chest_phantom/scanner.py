"""Scanner: field of view, slices, noise, and orientation of the file."""

import math
from dataclasses import dataclass

import numpy as np

from chest_phantom.acquisition import BELLY, plan_acquisition
from chest_phantom.anatomy import Subject
from chest_phantom.random_streams import Stream
from chest_phantom.thorax import MUSCLE

# Where the file's first, second and third axes point (Left, Right, Posterior, ...).
ORIENTATIONS = ("LPS", "LPS", "LAS", "RAS", "RPI", "LPI", "RAI", "PIR", "ASL")
NOISE_STEP = 4  # HU: noise in steps of 4 compresses to two thirds of the size
AXES = {"L": (2, 1), "R": (2, -1), "P": (1, 1), "A": (1, -1), "S": (0, 1), "I": (0, -1)}


@dataclass(frozen=True)
class Protocol:
    """Protocol of one reconstruction. Lengths in mm, triples in (z, y, x) order."""

    size: int  # pixels across
    slices: int
    pixel: float
    thickness: float
    centre: tuple[float, float, float]  # centre of the volume, in the body frame times the scale
    kernel: str  # smooth | medium | sharp
    noise: int  # HU, approximately the standard deviation
    orientation: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.thickness, self.pixel, self.pixel

    @property
    def corner(self) -> tuple[float, float, float]:
        """Return the centre of the rightmost, foremost, lowest voxel: (z, y, x), mm."""
        shape = self.slices, self.size, self.size
        spans = zip(self.centre, shape, self.spacing, strict=True)
        z, y, x = (middle - (count - 1) / 2 * step for middle, count, step in spans)
        return z, y, x


def draw_protocol(subject: Subject, reconstruction: int, size: int, slices: int) -> Protocol:
    """Sample a protocol with a field of view around the body, from neck to liver."""
    stream = subject.scan_stream("protocol")
    across, deep, high = subject.patient.scale
    body = 2 * (max(row[1] for row in MUSCLE) + subject.patient.fat) * across
    pixel = round(max(body * stream.uniform(1.03, 1.18), 325.0) / size, 4)
    bottom, top = -stream.uniform(170, 190) * high, stream.uniform(108, 122) * high
    shift = stream.uniform(-6, 6), stream.uniform(-6, 10) * deep
    count = max(24, round(slices * stream.uniform(0.84, 1.16)))
    orientation = stream.pick(ORIENTATIONS)
    noise, kernel = stream.integer(8, 22), stream.pick(("smooth", "medium", "sharp"))
    if reconstruction > 1:
        again = subject.scan_stream(f"protocol {reconstruction}")
        kernel = {"smooth": "sharp", "medium": "smooth", "sharp": "smooth"}[kernel]
        noise = again.integer(8, 22)
        count = max(24, round(count * again.pick((0.75, 0.8, 1.25, 1.3))))
    acquisition = plan_acquisition(subject.scan, reconstruction)
    middle = (top + bottom) / 2 + (0 if acquisition.chest else BELLY)
    return Protocol(
        size=size,
        slices=count,
        pixel=pixel,
        thickness=round((top - bottom) / count, 4),
        centre=(round(middle, 3), round(shift[1] + 6, 3), round(shift[0], 3)),
        kernel=kernel,
        noise=noise if kernel != "sharp" else noise * 2,
        orientation="LPS" if acquisition.release == "v1" else orientation,  # as DICOM has it
    )


def axis_coordinates(count: int, step: float, centre: float) -> np.ndarray:
    """Return the centres of `count` voxels around `centre`, mm, ascending."""
    return (np.arange(count) - (count - 1) / 2) * step + centre


def add_noise(hu: np.ndarray, protocol: Protocol, stream: Stream) -> np.ndarray:
    """Add noise to (Z, Y, X) float64 HU and round to int16.

    Noise is a sum of random bytes with the kernel's integer weights.
    """
    depth, height, width = hu.shape
    slices = [stream.bytes((height + 2, width + 2)) for _ in range(depth)]
    grain = np.stack(slices).astype(np.int32) - 128
    if protocol.kernel == "sharp":
        grain = 4 * grain[:, 1:-1, 1:-1] - grain[:, :-2, 1:-1] - grain[:, 2:, 1:-1]
        deviation = 313.0
    else:
        side = 1 if protocol.kernel == "medium" else 2
        grain = side * grain[:, :-2] + 2 * grain[:, 1:-1] + side * grain[:, 2:]
        grain = side * grain[:, :, :-2] + 2 * grain[:, :, 1:-1] + side * grain[:, :, 2:]
        deviation = 443.0 if protocol.kernel == "medium" else 887.0
    # Fixed-point multiplication: integers from here on.
    factor = math.floor(protocol.noise / deviation / NOISE_STEP * 65536)
    grain = ((grain * factor + 32768) >> 16) * NOISE_STEP
    # Air is less noisy.
    grain = np.where(hu < -990.0, grain >> 1, grain)
    noisy = np.rint(hu).astype(np.int32) + grain
    clipped: np.ndarray = np.clip(noisy, -1024, 3071)
    return clipped.astype(np.int16)


def store(volume: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Reorient (Z, Y, X) voxels to the file's axes.

    Returns:
        The voxels, first axis first, and the (4, 4) affine to RAS+, mm.
    """
    order = [AXES[code] for code in protocol.orientation]
    spacing, size = protocol.spacing, volume.shape
    stored = volume.transpose([axis for axis, _ in order])
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    # The body frame's x and y point to the left and the back, RAS+'s to the right and the front.
    world = {2: (0, -1.0), 1: (1, -1.0), 0: (2, 1.0)}
    corner = protocol.corner
    for column, (axis, sign) in enumerate(order):
        row, direction = world[axis]
        start = corner[axis] if sign > 0 else corner[axis] + (size[axis] - 1) * spacing[axis]
        affine[row, column] = sign * direction * spacing[axis]
        affine[row, 3] = round(direction * start, 4)
        if sign < 0:
            stored = np.flip(stored, column)
    return stored, affine
