"""A tiny model with the interface of an exported one."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from multi_abnormality import __version__
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.utils.onnx_checksum import INFO_KEY, seal

SHAPE = (32, 96, 96)
CARD = {
    "version": __version__,
    "findings": list(FINDINGS),
    "preprocess": {
        "spacing": [9.0, 3.75, 3.75],
        "shape": list(SHAPE),
        "hu_to_uint8": [[-1024, 0], [-200, 80], [240, 226], [1024, 255]],
    },
    "familiar": {"lung_share": [0.0, 1.0], "length": [0.0, 9999.0]},
    "synthetic": False,
    "thresholds": dict.fromkeys(FINDINGS, 0.25) | {"Emphysema": 0.75},
}


def write_model(
    path: Path, card: dict | None = CARD, outputs: int = 18, slice_logits: bool = True
) -> Path:
    """Write a model whose 18 probabilities depend on every voxel: means, a fixed matrix, a sigmoid.

    Its attention is on dense slices, the same for each finding. Without `slice_logits` it lacks
    this output, as models of earlier versions.
    """
    matrix = np.random.default_rng(0).normal(0, 0.01, (SHAPE[2], outputs)).astype(np.float32)
    stated = (card or CARD).get("thresholds", CARD["thresholds"]).values()
    thresholds = np.resize(np.array([*stated], dtype=np.float32), outputs)
    nodes = [
        helper.make_node("Cast", ["volume"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "matrix"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("Identity", ["thresholds"], ["threshold"]),
        helper.make_node("ReduceMean", ["values", "plane"], ["density"], keepdims=0),
        helper.make_node("Softmax", ["density"], ["weights"]),
        helper.make_node("Unsqueeze", ["weights", "one"], ["row"]),
        helper.make_node("Mul", ["row", "ones"], ["attention"]),
        helper.make_node("ReduceMean", ["values", "rows"], ["columns"], keepdims=0),
        helper.make_node("MatMul", ["columns", "matrix"], ["by_slice"]),
        helper.make_node("Transpose", ["by_slice"], ["slice_logit"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("volume", TensorProto.UINT8, ["n", *SHAPE])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", outputs]),
            helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [outputs]),
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", outputs, SHAPE[0]])
                for name in ("attention", "slice_logit")[: 2 if slice_logits else 1]
            ),
        ],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.array([2]), "rows"),
            numpy_helper.from_array(np.array([2, 3]), "plane"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.ones((outputs, 1), np.float32), "ones"),
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(thresholds, "thresholds"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        helper.set_model_props(model, {INFO_KEY: json.dumps(card)})
    return save(model, path)


def write_ensemble(folder: Path, weights: dict[str, float]) -> Path:
    """Write an ensemble of tiny models with other voxels, whose findings have another order."""
    members = []
    for number, (name, weight) in enumerate(weights.items()):
        findings = CARD["findings"][number:] + CARD["findings"][:number]
        recipe = CARD["preprocess"] | {"spacing": [9.0 - number, 3.75, 3.75]}
        path = folder / f"members/{name}/model_tiny.onnx"
        path.parent.mkdir(parents=True)
        thresholds = {finding: CARD["thresholds"][finding] for finding in findings}
        own = {"findings": findings, "preprocess": recipe, "thresholds": thresholds}
        write_model(path, CARD | own)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = path.relative_to(folder).as_posix()
        members.append({"file": file, "sha256": sha256, "weight": weight})
    keys = ("version", "findings", "synthetic", "thresholds")
    content = {key: CARD[key] for key in keys} | {
        "uncalibrated": [],
        "slope": dict.fromkeys(FINDINGS, 2.0),
        "intercept": dict.fromkeys(FINDINGS, -0.5),
        "members": members,
    }
    (folder / "model_info.json").write_text(json.dumps(content))
    return folder


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Save a model as the export stage does."""
    content = model.SerializeToString(deterministic=True)
    path.write_bytes(content + seal(content))
    return path
