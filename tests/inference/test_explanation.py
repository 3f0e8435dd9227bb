"""`predict --explain`: heat maps, positions in the scan, and the page."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom.dataset import Dataset

from chest_files import put_pixels, save_dataset, slice_dataset, write_enhanced, write_series
from chest_phantom.cohort import plan_cohort
from chest_phantom.finding_names import FINDINGS
from chest_phantom.rasterize import draw_scan
from chest_phantom.settings import DEFAULT_PATIENTS
from multi_abnormality import load_model
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.scan_sources import ScanSource, resolve_scan
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.inference.batch_prediction import predict_all
from multi_abnormality.inference.explanation import _in_plane, _own_slices
from multi_abnormality.inference.explanation_files import encode_heat_map
from multi_abnormality.inference.occlusion import heat_maps
from multi_abnormality.inference.scan_grid import ScanGrid
from multi_abnormality.inference.scan_id import NamedScan
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY
from tiny_model import CARD, save, write_model
from tiny_model import SHAPE as TINY_SHAPE

RECIPE = SimpleNamespace(
    spacing=(9.0, 5.0, 5.0), shape=(28, 56, 72), hu_to_uint8=((-1024, 0), (1024, 255))
)
SHAPE = (60, 64, 40)  # x, y, z
SPACING = (5.0, 4.0, 6.0)
ORIGIN = (-140.0, -120.0, -310.0)  # mm to the left, the back and the head
MARK = (45, 20, 29)  # voxel of a dense object, at the left, in front and high up
LESION = "Consolidation"
MARK_LPS = [o + s * i for o, s, i in zip(ORIGIN, SPACING, MARK, strict=True)]


def marked() -> np.ndarray:
    """Return (X, Y, Z) int16 HU that rise to the left, the back and the head."""
    hu = np.random.default_rng(0).integers(-1000, -990, SHAPE).astype(np.int16)
    hu[8:-8, 8:-8] += 1030
    hu[MARK] = 3000
    return hu


def lps_affine() -> np.ndarray:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write_oriented(path: Path, axes: str, image: nib.Nifti1Image | None = None) -> Path:
    """Write the scan, or an image, as NIfTI whose axes point to `axes`, such as "RPI"."""
    image = image or nib.Nifti1Image(marked(), lps_affine())
    now = nib.orientations.io_orientation(image.affine)
    wanted = nib.orientations.axcodes2ornt(axes)
    image.as_reoriented(nib.orientations.ornt_transform(now, wanted)).to_filename(path)
    return path


def write_dicom(folder: Path, plane: str, reverse: bool) -> Path:
    """Write the scan as axial or sagittal slices; InstanceNumber may run against the position."""
    folder.mkdir()
    hu = marked()
    axis = 2 if plane == "axial" else 0
    for index in range(SHAPE[axis]):
        dataset = slice_dataset(0)
        number = SHAPE[axis] - index if reverse else index + 1
        dataset.InstanceNumber, dataset.SOPInstanceUID = number, f"1.2.3.{number}"
        if plane == "axial":
            values = hu[:, :, index].T
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing = [str(SPACING[1]), str(SPACING[0])]
            at = (*ORIGIN[:2], ORIGIN[2] + SPACING[2] * index)
        else:  # rows to the feet, columns to the back
            values = hu[index, :, ::-1].T
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            dataset.PixelSpacing = [str(SPACING[2]), str(SPACING[1])]
            top = ORIGIN[2] + SPACING[2] * (SHAPE[2] - 1)
            at = (ORIGIN[0] + SPACING[0] * index, ORIGIN[1], top)
        dataset.ImagePositionPatient = [str(value) for value in at]
        dataset.Rows, dataset.Columns = values.shape
        put_pixels(dataset, values.astype(np.int32) + 1024)
        save_dataset(dataset, folder / f"{number:03d}.dcm")
    return folder


def mark_in(source: ScanSource) -> tuple[ScanGrid, list[int]]:
    volume = read_volume(source)
    z, y, x = np.unravel_index(volume.hu.argmax(), volume.hu.shape)
    assert x > volume.hu.shape[2] / 2  # left of the patient, at the right of the picture
    assert y < volume.hu.shape[1] / 2  # in front, at the top
    return ScanGrid(volume, source.series), [int(z), int(y), int(x)]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI", "LAI", "PIR", "ASL", "SRP"])
def test_positions_and_heat_maps_fit_a_file_of_any_orientation(tmp_path: Path, axes: str) -> None:
    path = write_oriented(tmp_path / "scan.nii.gz", axes)
    image = nib.load(path)
    grid, (z, y, x) = mark_in(ScanSource(path))
    index = grid.file_index(z, y, x)
    assert image.get_fdata()[index] == 3000
    assert grid.position(index) == pytest.approx(MARK_LPS, abs=0.01)
    at = grid.slice(z)
    assert at.z == pytest.approx(MARK_LPS[2])
    assert at.number == MARK[2] + 1
    assert index["ijk".index(at.file_axis)] == at.file_index
    assert at.instance_number is None

    heat = np.zeros(grid.shape, np.uint8)
    heat[z, y, x] = 255
    (tmp_path / "heat.nii.gz").write_bytes(encode_heat_map(grid.to_file(heat), grid.affine))
    read = nib.load(tmp_path / "heat.nii.gz")
    assert read.shape == image.shape
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-4)
    assert np.argwhere(read.get_fdata() > 0.5).tolist() == [list(index)]
    assert read.get_fdata().max() == pytest.approx(1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_dicom_slices_have_their_instance_number(tmp_path: Path, plane: str, reverse: bool) -> None:
    """A scan feet first numbers its slices from the head; in a sagittal one none is axial."""
    grid, (z, y, x) = mark_in(resolve_scan(write_dicom(tmp_path / "series", plane, reverse)))
    index = grid.file_index(z, y, x)
    axis = 2 if plane == "axial" else 0
    number = SHAPE[axis] - MARK[axis] if reverse else MARK[axis] + 1
    assert grid.instance_number(index[2]) == number
    assert grid.position(index) == pytest.approx(MARK_LPS, abs=0.01)
    at = grid.slice(z)
    assert at.z == pytest.approx(MARK_LPS[2])
    assert at.instance_number == (number if plane == "axial" else None)
    assert at.file_axis == ("k" if plane == "axial" else "j")


def test_frames_and_missing_instance_numbers(tmp_path: Path) -> None:
    enhanced = resolve_scan(write_enhanced(tmp_path / "enhanced.dcm"))
    grid = ScanGrid(read_volume(enhanced), enhanced.series)
    assert [grid.slice(z).instance_number for z in (0, 4)] == [1, 5]

    def drop(dataset: Dataset, _: int) -> None:
        del dataset.InstanceNumber

    series = resolve_scan(write_series(tmp_path / "series", drop))
    grid = ScanGrid(read_volume(series), series.series)
    assert grid.slice(3).instance_number is None
    assert grid.slice(3).name == "k = 3 in the file"


def test_a_heat_map_returns_to_the_voxels_that_it_was_made_of(tmp_path: Path) -> None:
    """The model's grid is coarser, and cropped or padded around the same centre."""
    volume = read_volume(write_oriented(tmp_path / "scan.nii.gz", "RPI"))
    codes = resample_and_quantize(volume, RECIPE)
    z, y, x = np.unravel_index(codes.argmax(), codes.shape)
    own = _own_slices(int(z), len(codes), volume, RECIPE.spacing)
    assert own["first"] <= MARK[2] <= own["last"]
    assert own["first"] <= own["slice"] <= own["last"]
    heat = np.zeros(codes.shape[1:], np.float32)
    heat[y, x] = 1
    own_heat = _in_plane(heat, volume, RECIPE.spacing)
    assert own_heat.shape == volume.hu.shape[1:]
    row, column = np.unravel_index(own_heat.argmax(), own_heat.shape)
    assert abs(row - MARK[1]) * SPACING[1] <= RECIPE.spacing[1]
    assert abs(column - MARK[0]) * SPACING[0] <= RECIPE.spacing[2]


@pytest.mark.parametrize("adjacent", [1, 3])
def test_the_heat_map_covers_what_the_logit_depends_on(adjacent: int) -> None:
    codes = np.random.default_rng(0).integers(90, 110, (12, 48, 60), dtype=np.uint8)
    codes[5, 10:18, 40:48] = 230

    def logits(volume: np.ndarray) -> np.ndarray:
        """Finding 0 rests on bright voxels, 1 on dark ones, 2 on none."""
        bright = (volume > 200).sum(axis=(1, 2)) / 64
        return np.stack([bright, -bright, np.zeros(len(volume))])

    heat = heat_maps(logits, codes, 5, [0, 1, 2], adjacent)
    assert heat.shape == (3, 48, 60)
    row, column = np.unravel_index(heat[0].argmax(), (48, 60))
    assert 10 <= row < 18
    assert 40 <= column < 48
    assert heat[0].max() == pytest.approx(1)
    assert heat[0, 25:, :30].max() == 0
    assert not heat[1:].any()


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Explain a DICOM scan by a model with a finding whose name is HTML."""
    work = tmp_path_factory.mktemp("explained")
    names = [CARD["findings"][0], "<b>Nodule</b> {{ 7 * 7 }}", *CARD["findings"][2:]]
    card = CARD | {"findings": names, "thresholds": dict.fromkeys(names, 0.2)}
    model = load_model(write_model(work / "model.onnx", card))
    source = resolve_scan(write_dicom(work / "series", "axial", reverse=True))
    folder = work / "why/<i>scan</i>"
    (folder / "slices").mkdir(parents=True)
    (folder / "slices/left_over.webp").write_bytes(b"")
    rows, errors = predict_all(model, [NamedScan("<i>scan</i>", source)], pictures=work / "why")
    assert len(rows) == 1
    assert errors == []
    return folder, json.loads((folder / "explanation.json").read_text())


def test_page_and_files_agree(explained: tuple[Path, dict]) -> None:
    folder, content = explained
    page = (folder / "index.html").read_text()
    positive = {name: one for name, one in content["findings"].items() if one["positive"]}
    assert 0 < len(positive) < 18
    assert page.count('class="case"') == len(positive)
    used = set(re.findall(r'src="([^"]+)"', page))
    assert used == {f"slices/{path.name}" for path in (folder / "slices").iterdir()}
    for one in positive.values():
        at = one["slice"]
        assert at["instance_number"] == SHAPE[2] + 1 - at["number"]
        where = f"Slice {at['number']} of {SHAPE[2]} from the feet"
        assert f"{where}; image {at['instance_number']} of the series; z {at['z']:g} mm" in page
        heat = nib.load(folder / one["heat_map"])
        assert heat.shape == SHAPE
        np.testing.assert_allclose(heat.affine, lps_affine(), atol=1e-3)
        shown = {slice_["file_index"] for slice_ in one["heat_map_slices"]}
        values = heat.get_fdata()
        assert set(np.nonzero(values.any(axis=(0, 1)))[0].tolist()) <= shown
        if one["peak"]:
            assert values[tuple(one["peak"]["file_index"])] == pytest.approx(1, abs=0.01)
    assert "<i>" not in page
    assert "<b>Nodule" not in page
    assert "7 * 7" in page
    assert "http" not in page


def phantom(label: int) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Draw a synthetic chest with or without consolidation of the left lung: (Z, Y, X) HU, mm."""
    scans = plan_cohort(DEFAULT_PATIENTS, 0)
    scan = next(one for one in scans if (one.split, one.patient) == ("valid", 5))
    labels = [label if name == LESION else 0 for name in FINDINGS]
    hu, protocol = draw_scan(replace(scan, labels=tuple(labels)))
    return hu, protocol.spacing


def write_region_model(path: Path, lesion: np.ndarray) -> Path:
    """Write a model of consolidation: a slice's logit is how much denser than around it the region
    (Y, X) is, whatever its position in the volume.
    """
    around = np.pad(lesion, 6)[:-12, :-12]
    for y, x in np.ndindex(13, 13):
        around = around | np.pad(lesion, 6)[y : y + lesion.shape[0], x : x + lesion.shape[1]]
    around &= ~lesion
    region = (lesion / lesion.sum() - around / around.sum()) / 10
    bias = np.where(np.array(FINDINGS) == LESION, -4, -99)[:, None]
    constants = {
        "region": region.astype(np.float32),
        "bias": bias.astype(np.float32),
        "thresholds": np.full(len(FINDINGS), 0.5, np.float32),
        "plane": np.array([2, 3]),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("Cast", ["volume"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "region"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "plane"], ["contrast"], keepdims=0),
        helper.make_node("Unsqueeze", ["contrast", "one"], ["row"]),
        helper.make_node("Add", ["row", "bias"], ["slice_logit"]),
        helper.make_node("Softmax", ["slice_logit"], ["attention"]),
        helper.make_node("ReduceMax", ["slice_logit", "two"], ["logits"], keepdims=0),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("Identity", ["thresholds"], ["threshold"]),
    ]
    shapes = {
        "probability": ["n", len(FINDINGS)],
        "threshold": [len(FINDINGS)],
        "attention": ["n", len(FINDINGS), TINY_SHAPE[0]],
        "slice_logit": ["n", len(FINDINGS), TINY_SHAPE[0]],
    }
    graph = helper.make_graph(
        nodes,
        "region",
        [helper.make_tensor_value_info("volume", TensorProto.UINT8, ["n", *TINY_SHAPE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, one)
            for name, one in shapes.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(
        model, {INFO_KEY: json.dumps(CARD | {"thresholds": dict.fromkeys(FINDINGS, 0.5)})}
    )
    return save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize("is_left", [True, False])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI", "PIR", "ASL"])
def test_the_heat_map_of_a_phantom_peaks_on_its_lesion(
    tmp_path: Path, axes: str, is_left: bool
) -> None:
    """In every file, and on the page, whatever the orientation of the file; also if mirrored."""
    (hu, spacing), (without, _) = phantom(1), phantom(0)
    if not is_left:
        hu, without = hu[..., ::-1], without[..., ::-1]
    lesion = np.abs(hu.astype(np.int32) - without) > 80
    to_lps = np.diag([*spacing[::-1], 1.0])
    to_lps[:3, 3] = ORIGIN
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_lps
    path, other = (
        write_oriented(tmp_path / f"{name}.nii.gz", axes, nib.Nifti1Image(one.T, affine))
        for name, one in (("scan", hu), ("without", without))
    )
    codes, codes_without = (
        resample_and_quantize(read_volume(ScanSource(file)), SimpleNamespace(**CARD["preprocess"]))
        for file in (path, other)
    )
    changed = codes.astype(int) - codes_without > 40
    region = changed[changed.sum(axis=(1, 2)).argmax()]
    model = load_model(write_region_model(tmp_path / "model.onnx", region))
    predict_all(model, [NamedScan("scan", ScanSource(path))], pictures=tmp_path / "why")
    folder = tmp_path / "why/scan"
    content = json.loads((folder / "explanation.json").read_text())["findings"]
    assert [name for name, one in content.items() if one["positive"]] == [LESION]
    one = content[LESION]

    # Slices from the feet, and mm to the left, the back and the head.
    assert lesion[one["slice"]["number"] - 1].any()
    places = nib.affines.apply_affine(to_lps, np.argwhere(lesion)[:, ::-1])
    peak = one["peak"]["position"]
    assert np.linalg.norm(places - peak, axis=1).min() < min(spacing)
    assert one["slice"]["z"] == pytest.approx(peak[2], abs=0.01)
    assert (peak[0] > ORIGIN[0] + spacing[2] * hu.shape[2] / 2) == is_left

    # The heat map's file has its maximum there, in the geometry of the scan's file.
    heat = nib.load(folder / one["heat_map"])
    np.testing.assert_allclose(heat.affine, nib.load(path).affine, atol=1e-3)
    values = heat.get_fdata()
    highest = nib.affines.apply_affine(heat.affine, np.argwhere(values == values.max()))
    assert np.abs(highest * [-1, -1, 1] - peak)[:, :2].max() < 2 * spacing[2]

    # So does the page, whose pictures have the patient's left at the right.
    page = (folder / "index.html").read_text()
    assert f"Slice {one['slice']['number']} of {len(hu)} from the feet" in page
    (picture,) = (folder / "slices").glob("heat_*.webp")
    opacity = np.asarray(Image.open(picture))[..., 3]
    column = np.argwhere(opacity == opacity.max())[:, 1].mean()
    assert (column > opacity.shape[1] / 2) == is_left


def test_a_model_without_slice_logits_still_predicts(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", slice_logits=False)
    model = load_model(path)
    scans = [NamedScan("scan", ScanSource(write_oriented(tmp_path / "scan.nii.gz", "LPS")))]
    assert len(predict_all(model, scans)[0]) == 1
    with pytest.raises(InputError, match=r"model.onnx: has no output slice_logit.*export it again"):
        predict_all(model, scans, pictures=tmp_path / "why")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_a_browser(explained: tuple[Path, dict], width: int, scheme: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    folder, _ = explained
    messages: list[str] = []
    requests: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(120_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        case = page.locator(".case").first
        heat, slider = case.locator(".heat"), case.locator(".scroll-slices")
        assert heat.is_visible()
        before = case.locator(".position").inner_text()
        slider.press("Home")
        assert not heat.is_visible()  # of other slices
        assert case.locator(".position").inner_text() != before
        slider.press("End")
        assert case.locator("img:visible").count() == 1
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
