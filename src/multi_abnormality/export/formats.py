"""File formats of an exported model: FORMATS has a writer and a loader of each.

The bytes depend on the model only: the source paths and lines that PyTorch's exporters record for
every operation are removed.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import nn

from multi_abnormality.config.field_types import HF_HUB
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY, seal
from multi_abnormality.utils.onnx_graph import UnsupportedModel, check_graph

# (N, Z, Y, X) uint8 -> the outputs of CalibratedClassifier
Runner = Callable[[np.ndarray], tuple[np.ndarray, ...]]
OUTPUTS = ("probability", "threshold", "attention", "slice_logit")


class Format(NamedTuple):
    """A file format.

    Attributes:
        filename: name of the file, for the backbone's name.
        has_graph: whether it holds the traced graph, and so thresholds; else weights only.
        write: writes the module, or its graph, with its metadata to a path.
        load: loads the file. Weights are loaded into the module that its second argument creates.
    """

    filename: str
    has_graph: bool
    write: Callable[[Any, dict[str, Any], Path], None]
    load: Callable[[Path, Callable[[], nn.Module]], Runner]


def write_pth(model: nn.Module, info: dict[str, Any], path: Path) -> None:
    """Write weights and info so that PyTorch loads them with `weights_only=True`."""
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": weights, "info": json.dumps(info, sort_keys=True)}, buffer)
    atomic_write(buffer.getvalue(), path)


def run_pth(path: Path, empty_model: Callable[[], nn.Module]) -> Runner:
    """Load the weights into a model of the same architecture and return its runner."""
    model = empty_model()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return run_module(model.eval())


def write_safetensors(model: nn.Module, info: dict[str, Any], path: Path) -> None:
    """Write weights, with the info as the only metadata entry: the order of several is random."""
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {INFO_KEY: json.dumps(info, sort_keys=True)}
    atomic_write(safetensors.torch.save(weights, metadata), path)


def run_safetensors(path: Path, empty_model: Callable[[], nn.Module]) -> Runner:
    """Load the weights into a model of the same architecture and return its runner."""
    model = empty_model()
    model.load_state_dict(safetensors.torch.load_file(path))
    return run_module(model.eval())


def trace(model: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """Export the model as a graph for any number of (Z, Y, X) volumes, without source locations."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def write_pt2(program: torch.export.ExportedProgram, info: dict[str, Any], path: Path) -> None:
    """Write a graph that PyTorch runs without this package."""
    buffer = io.BytesIO()
    extra = {f"{INFO_KEY}.json": json.dumps(info, sort_keys=True)}
    torch.export.save(program, buffer, extra_files=extra)
    atomic_write(buffer.getvalue(), path)


def run_pt2(path: Path) -> Runner:
    """Load the graph and return its runner."""
    return run_module(torch.export.load(path).module())


def write_onnx(program: torch.export.ExportedProgram, info: dict[str, Any], path: Path) -> None:
    """Write graph, weights and the info that `predict` reads to one file, with a checksum."""
    onnx_program = torch.onnx.export(
        program,
        input_names=["volume"],
        output_names=list(OUTPUTS),
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None  # as always with dynamo
    proto = onnx_program.model_proto
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output,
                 *proto.graph.value_info, *proto.graph.initializer, proto.graph):  # fmt: skip
        part.doc_string = ""
        del part.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = INFO_KEY, json.dumps(info, sort_keys=True)
    content = proto.SerializeToString(deterministic=True)
    atomic_write(content + seal(content), path)


def run_onnx(path: Path) -> Runner:
    """Load the file as `predict` does, which rejects some operators.

    Raises:
        InputError: the backbone needs a rejected operator.
    """
    try:
        check_graph(path)
    except UnsupportedModel as error:
        raise InputError(
            f"{path}: {error}, and `predict` rejects such models (onnx_graph.py lists the "
            "operators that it accepts); leave onnx out of export.formats, or choose another "
            "model.backbone"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda volumes: tuple(session.run(OUTPUTS, {"volume": volumes}))


def file_stem(backbone: str) -> str:
    """Return the part of a file's name that names the backbone."""
    return backbone.removeprefix(HF_HUB).partition("@")[0].replace("/", "_")


def run_module(module: nn.Module) -> Runner:
    """Return a runner of a module on the CPU."""

    def run(volumes: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            return tuple(output.numpy() for output in module(torch.from_numpy(volumes)))

    return run


FORMATS = {  # by their names in export.formats
    "pth": Format("model_weights_{}.pth", False, write_pth, run_pth),
    "safetensors": Format("model_{}.safetensors", False, write_safetensors, run_safetensors),
    "pt2": Format("complete_model_{}.pt2", True, write_pt2, lambda path, _: run_pt2(path)),
    "onnx": Format("model_{}.onnx", True, write_onnx, lambda path, _: run_onnx(path)),
}
