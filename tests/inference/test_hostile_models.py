"""Sealed ONNX files that no export wrote: each ends in a message, within bounds of memory and time.

Anybody can compute a seal, so it proves nothing about where a file comes from.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from multi_abnormality import load_model
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.inference import onnx_model as model_module
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY, seal
from multi_abnormality.utils.onnx_graph import (
    MAX_BYTES,
    OPERATORS,
    MalformedModel,
    UnsupportedModel,
    check_graph,
)
from tiny_model import CARD, SHAPE, save, write_model

MEMORY = 4 * 10**9  # bytes that the whole program may have
TWENTY_GB = [5, 1000, 1000, 1000]


def constant(name: str, *values: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def altered(path: Path, alter: Callable[[onnx.ModelProto], None]) -> Path:
    """A tiny model that was altered, and sealed again."""
    model = onnx.load(write_model(path))
    del model.metadata_props[1:]  # the seal
    alter(model)
    return save(model, path)


def with_nodes(
    *nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()
) -> Callable[[onnx.ModelProto], None]:
    """Nodes whose output "extra", a number, is added to all probabilities."""

    def alter(model: onnx.ModelProto) -> None:
        kept = [each for each in model.graph.node if each.op_type != "Sigmoid"]
        del model.graph.node[:]
        model.graph.node.extend([*kept[:3], *nodes])
        model.graph.node.append(node("Add", "logits extra", "moved"))
        model.graph.node.append(node("Sigmoid", "moved", "probability"))
        model.graph.node.extend(kept[3:])
        model.graph.initializer.extend(constants)

    return alter


def total(of: str) -> onnx.NodeProto:
    return node("ReduceSum", of, "extra", keepdims=0)


def loop(path: Path) -> Path:
    """That never ends."""
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Identity", "value", "next")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    nodes = helper.make_node("Loop", ["", "true", "zero"], ["extra"], body=body)
    constants = numpy_helper.from_array(np.array(True), "true"), constant("zero", kind=np.float32)
    constants[1].CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    return altered(path, with_nodes(nodes, constants=constants))


def external(location: str, outside: Path) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        def alter(model: onnx.ModelProto) -> None:
            matrix = next(one for one in model.graph.initializer if one.name == "matrix")
            matrix.ClearField("raw_data")
            matrix.data_location = TensorProto.EXTERNAL
            entry = matrix.external_data.add()
            entry.key, entry.value = "location", location

        outside.write_bytes(bytes(4 * SHAPE[2] * len(FINDINGS)))
        return altered(path, alter)

    return write


def claimed(path: Path) -> Path:
    def alter(model: onnx.ModelProto) -> None:
        model.graph.initializer[-1].dims[:] = TWENTY_GB

    return altered(path, alter)


def functions(path: Path) -> Path:
    """Each calls the one before twice: 2 to the 40th nodes once they are written out."""

    def alter(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("bomb", 1))
        for level in range(40):
            domain, name = ("bomb", f"f{level - 1}") if level else ("", "Neg")
            nodes = [
                helper.make_node(name, ["a"], ["b"], domain=domain),
                helper.make_node(name, ["b"], ["c"], domain=domain),
            ]
            opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bomb", 1)]
            function = helper.make_function("bomb", f"f{level}", ["a"], ["c"], nodes, opsets)
            model.functions.append(function)
        model.graph.node[3].CopyFrom(
            helper.make_node("f39", ["logits"], ["probability"], domain="bomb")
        )

    return altered(path, alter)


def many_constants(path: Path) -> Path:
    """Each of a size that a constant may have."""
    nodes = [node("Expand", "grain sides", f"e{i}") for i in range(400)]
    nodes.append(helper.make_node("Concat", [f"e{i}" for i in range(400)], ["all"], axis=0))
    constants = constant("grain", 1.0, kind=np.float32), constant("sides", 60_000_000)
    return altered(path, with_nodes(*nodes, total("all"), constants=constants))


def deep(path: Path) -> Path:
    """Graphs in graphs: each message is the only field of the one around it."""
    content = b""
    for _ in range(5000):
        size = len(content)
        length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
        content = b"\x32" + length + content  # AttributeProto.g, were they attributes
    path.write_bytes(content + seal(content))
    return path


def metadata(text: str | bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        raw = text if isinstance(text, bytes) else text.encode()
        placeholder = b"@" * len(raw)

        def alter(model: onnx.ModelProto) -> None:
            helper.set_model_props(model, {INFO_KEY: placeholder.decode()})

        model = onnx.load(write_model(path))
        alter(model)
        content = model.SerializeToString().replace(placeholder, raw)
        path.write_bytes(content + seal(content))
        return path

    return write


def card(**changes: Any) -> Callable[[Path], Path]:
    return metadata(json.dumps(CARD | changes))


def recipe(**changes: Any) -> Callable[[Path], Path]:
    return card(preprocess=CARD["preprocess"] | changes)


def grow(operator: str, **attributes: Any) -> Callable[[Path], Path]:
    """20 GB made of one value, which is known before a scan is."""
    number = helper.make_tensor("sides", TensorProto.INT64, [4], TWENTY_GB)
    data = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "grain")
    nodes = node(operator, "sides" if operator == "ConstantOfShape" else "grain sides", "large",
                 **attributes)  # fmt: skip
    return lambda path: altered(path, with_nodes(nodes, total("large"), constants=(number, data)))


def grow_with_scan(path: Path) -> Path:
    """20 GB that are known only once there is a scan."""
    nodes = node("ReduceMax", "logits", "top", keepdims=0), node("Expand", "top sides", "large")
    return altered(
        path, with_nodes(*nodes, total("large"), constants=(constant("sides", *TWENTY_GB),))
    )


def resized(path: Path) -> Path:
    nodes = (
        node("Cast", "volume", "four", to=TensorProto.FLOAT),
        helper.make_node("Resize", ["four", "", "scales"], ["large"], mode="nearest"),
    )
    scales = constant("scales", 1.0, 100.0, 100.0, 100.0, kind=np.float32)
    return altered(path, with_nodes(*nodes, total("large"), constants=(scales,)))


def other_output(**changes: Any) -> Callable[[Path], Path]:
    """Outputs of the graph that differ from its declared types."""

    def write(path: Path) -> Path:
        values = changes["values"]

        def alter(model: onnx.ModelProto) -> None:
            last = next(each for each in model.graph.node if each.op_type == "Sigmoid")
            last.CopyFrom(node("Mul", "logits factor", "probability"))
            model.graph.initializer.append(values)

        return altered(path, alter)

    return write


def ports(change: Callable[[onnx.GraphProto], None]) -> Callable[[Path], Path]:
    return lambda path: altered(path, lambda model: change(model.graph))


def rename_input(graph: onnx.GraphProto) -> None:
    graph.input[0].name = graph.node[0].input[0] = "image"


def other_type(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def more_inputs(graph: onnx.GraphProto) -> None:
    for i in range(2000):
        graph.input.append(helper.make_tensor_value_info(f"{'x' * 100}{i}", TensorProto.FLOAT, [1]))


def custom(graph: onnx.GraphProto) -> None:
    graph.node[3].domain = "com.example"


def contrib(graph: onnx.GraphProto) -> None:
    graph.node[3].op_type, graph.node[3].domain = "QuickGelu", "com.microsoft"


BEFORE = "while the model is loaded"
DURING = "while a scan is predicted"
NAN = constant("factor", float("nan"), kind=np.float32)
LARGE = constant("factor", 1e38, kind=np.float32)

CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "hu of a billion": (recipe(hu_to_uint8=[[-(10**9), 0], [10**9, 255]]), "HU must be"),
    "hu of 10^400": (recipe(hu_to_uint8=[[-1, 0], [10**400, 255]]), "wrong metadata"),
    "codes of a billion": (recipe(hu_to_uint8=[[0, 0], [1, 10**9], [2, 255]]), "must rise"),
    "a million knots": (recipe(hu_to_uint8=[[i, i] for i in range(500_000)]), "characters of"),
    "hashes of numbers": (
        card(training={"salt": "a", "patients": 5, "scans": ""}), "training: must have the texts",
    ),
    "a hash cut off": (
        card(training={"salt": "a", "patients": "AAAABBBBCCCC", "scans": ""}), "8 characters for",
    ),
    "shape of a billion": (recipe(shape=[10**9, 1, 1]), "must be at most"),
    "shape of 1000 a side": (recipe(shape=[1000, 1000, 1000]), "must be at most"),
    "shape of texts": (recipe(shape=["a", "b", "c"]), "wrong metadata"),
    "shape below one": (recipe(shape=[0, -1, 1]), "wrong metadata"),
    "spacing of 1e-300": (recipe(spacing=[1e-300] * 3), "must be 0.01 to 1000 mm"),
    "spacing of NaN": (recipe(spacing=[float("nan")] * 3), "wrong metadata"),
    "ranges of NaN": (
        card(familiar={"lung_share": [float("nan")] * 2, "length": [0, 1]}), "finite numbers",
    ),
    "ranges of texts": (card(familiar={"lung_share": "ab", "length": "cd"}), "wrong metadata"),
    "findings without end": (card(findings=[str(i) for i in range(10**6)]), "characters of"),
    "2000 findings": (card(findings=[str(i) for i in range(2000)]), "at most 1000 items"),
    "no findings": (card(findings=[]), "wrong metadata"),
    "findings of a long name": (card(findings=["x" * 5000]), "at most 200 characters"),
    "a version of a million digits": (card(version="9" * 900_000), "exported by version 999"),
    "a version that is a list": (card(version=[1]), "wrong metadata"),
    "a list": (metadata("[]"), "wrong metadata"),
    "nested JSON": (metadata("[" * 500_000), "wrong metadata"),
    "nested JSON in its version": (
        metadata('{"version": ' + "[" * 200_000 + "]" * 200_000 + "}"), "wrong metadata",
    ),
    "JSON that is cut": (metadata('{"version": "0.'), "wrong metadata"),
    "no UTF-8": (metadata(b'{"version": "\xff\xfe"}'), "is not UTF-8"),
    "no text": (metadata(b""), "wrong metadata"),
    "a loop": (loop, "the operator 'Loop'"),
    "functions": (functions, "the operator 'f39'"),
    "graphs in graphs": (deep, "not a valid ONNX model"),
    "another project's operator": (ports(custom), "the domain 'com.example'"),
    "an operator of ONNX Runtime's own": (ports(contrib), "QuickGelu"),
    "weights beside it": (external("beside", Path("beside")), "weights in another file"),
    "weights of the system": (external("/etc/passwd", Path("beside")), "weights in another file"),
    "weights above": (external("../../etc/passwd", Path("beside")), "weights in another file"),
    "a size that is not there": (claimed, "not a valid ONNX model"),
    "another input": (ports(rename_input), "has ports"),
    "another type": (ports(other_type), "has ports"),
    "2000 inputs": (ports(more_inputs), "has ports"),
    "another number of outputs": (lambda path: write_model(path, outputs=17), "has ports"),
    "20 GB of zeros": (grow("ConstantOfShape"), "cannot be run"),
    "20 GB expanded": (grow("Expand"), "cannot be run"),
    "20 GB of tiles": (grow("Tile"), "cannot be run"),
    "20 GB that depend on the scan": (grow_with_scan, "cannot be run"),
    "a scan a million times as large": (resized, "cannot be run"),
    "many constants": (many_constants, "cannot be run"),
    "NaN": (other_output(values=NAN), "no finite probability"),
    "probabilities of 1e38": (other_output(values=LARGE), "no finite probability"),
}  # fmt: skip
# One of each kind runs as the program does, with its memory measured.
PROGRAM = (
    "hu of a billion", "nested JSON", "no UTF-8", "a loop", "functions", "weights beside it",
    "20 GB of zeros", "20 GB that depend on the scan", "many constants", "probabilities of 1e38",
)  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Air around soft tissue with fat and lung in it."""
    rng = np.random.default_rng(0)
    hu = np.full((60, 60, 40), -1000, np.int16)
    body = hu[8:-8, 8:-8, 3:-3]
    body[:] = rng.normal(-100, 12, body.shape)
    inner = hu[11:-11, 11:-11, 3:-3]
    inner[:] = rng.normal(40, 12, inner.shape)
    hu[14:26, 14:40, 6:-6] = rng.normal(-850, 30, (12, 26, 28))
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-5.0, -5.0, 8.0, 1.0])), path)
    return path


def test_the_scan_is_predicted_by_a_valid_model(tmp_path: Path, scan: Path) -> None:
    """Control: errors of the other tests are due to the models."""
    assert len(load_model(write_model(tmp_path / "model.onnx")).predict(scan).findings) == 18


@pytest.mark.parametrize("name", CASES)
def test_ends_in_a_message(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = CASES[name]
    path = write(tmp_path / "model.onnx")
    with pytest.raises(InputError) as error:
        load_model(path).predict(scan)
    assert message in str(error.value)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize("name", PROGRAM)
def test_the_program_ends_within_4_gb(tmp_path: Path, scan: Path, name: str) -> None:
    write, message = CASES[name]
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        path = write(tmp_path / "model.onnx")
    finally:
        os.chdir(before)
    program = (
        "import pathlib, runpy, sys\n"
        "try: runpy.run_module('multi_abnormality', run_name='__main__')\n"
        "finally: print(pathlib.Path('/proc/self/status').read_text(), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "predict", scan, "--model", path],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "error: " in result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    peak = re.search(r"VmHWM:\s*(\d+) kB", result.stderr)
    assert peak
    assert int(peak[1]) * 1024 < MEMORY


def test_what_takes_too_long_is_stopped(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "SECONDS", 0.3)
    squares = [node("MatMul", f"s{i} s{i}", f"s{i + 1}") for i in range(300)]
    nodes = [node("ReduceMax", "logits", "top", keepdims=0), node("Expand", "top sides", "s0")]
    alter = with_nodes(*nodes, *squares, total("s300"), constants=(constant("sides", 900, 900),))
    predictor = load_model(altered(tmp_path / "model.onnx", alter))
    with pytest.raises(InputError, match=r"the model was stopped after .* minutes"):
        predictor.predict(scan)


def test_more_memory_can_be_allowed(tmp_path: Path, scan: Path) -> None:
    nodes = node("ReduceMax", "logits", "top", keepdims=0), node("Expand", "top sides", "large")
    alter = with_nodes(*nodes, total("large"), constants=(constant("sides", 50_000_000),))
    path = altered(tmp_path / "model.onnx", alter)
    with pytest.raises(InputError, match=r"needs more than 0\.1 GB, raise --memory"):
        load_model(path, memory=0.1).predict(scan)
    load_model(path, memory=0.5)


def test_a_file_of_more_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx")
    with path.open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # of which nothing lies on the disk
    with pytest.raises(InputError):
        load_model(path)


def test_standard_operators_of_other_kinds_are_not_listed() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert {name for name in OPERATORS if name not in known} == set()
    assert not OPERATORS & {"If", "Loop", "Scan", "SequenceMap", "Optional", "ImageDecoder"}
    assert not [name for name in OPERATORS if name.startswith(("Random", "String", "Sequence"))]


def test_every_byte_of_a_message_may_be_anything(tmp_path: Path) -> None:
    """The check of the graph ends in an error of its own or in none, whatever it is given."""
    whole = write_model(tmp_path / "model.onnx").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.onnx"
    for _ in range(400):
        content = bytearray(whole[: rng.integers(1, len(whole))])
        for index in rng.integers(0, min(len(content), 600), 3):
            content[index] = rng.integers(256)
        path.write_bytes(content)
        with suppress(UnsupportedModel, MalformedModel):
            check_graph(path)
