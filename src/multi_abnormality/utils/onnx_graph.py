"""Check of an ONNX file: allowed operators only, and all weights inside the file.

ONNX Runtime computes constant parts of a graph while it loads the file, and reads weights from
other files that it refers to. So a file of unknown origin is checked before it is loaded. The
checksum at its end (onnx_checksum.py) does not prove its origin: anyone can compute one.

The format is a Protocol Buffers message (onnx.proto). Every field is checked, also repeated ones,
and unknown fields are rejected, so that it does not matter how a reader merges them.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = (1 << 31) - 1  # of a Protocol Buffers message
MAX_FIELDS = 2_000_000  # checked; a model of 10,000 nodes has about 300,000

# Deterministic operators on tensors. Not among them: control flow (a Loop may never end), strings,
# sequences, random numbers, and decoders of images.
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger
ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear
Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu
Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul
MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero
Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
DOMAINS = ("", "ai.onnx")  # of the standard's own operators

# Field numbers of onnx.proto, by message: those whose content is not checked, and others.
_MODEL_PLAIN, _MODEL_GRAPH = {1, 2, 3, 4, 5, 6, 8, 14}, 7
_MODEL_REFUSED = {20: "a training graph", 25: "functions"}
_GRAPH_PLAIN, _GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = {2, 10, 11, 12, 13, 14, 16}, 1, 5, 15
_NODE_PLAIN, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = {1, 2, 3, 6, 8, 9}, 4, 5, 7
_ATTRIBUTE_PLAIN, _ATTRIBUTE_TENSORS = {1, 2, 3, 4, 7, 8, 9, 13, 20, 21}, (5, 10)
_ATTRIBUTE_GRAPHS = (6, 11)
_TENSOR_PLAIN, _TENSOR_EXTERNAL = {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16}, (13, 14)


class UnsupportedModel(Exception):
    """An ONNX file has a part that is not allowed; the message names it."""


class MalformedModel(Exception):
    """The file is not ONNX, or of a version that this project does not write."""


def check_graph(path: Path) -> None:
    """Check that a file is a graph of OPERATORS, with all weights inside.

    Raises:
        UnsupportedModel, MalformedModel: it is not.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise MalformedModel(f"has {size:,} bytes; an ONNX file has 1 to {MAX_BYTES:,}")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        _Reader(content).check_model()


class _Reader:
    """Reads fields of messages in place: weights are skipped, not copied."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._left = MAX_FIELDS

    def check_model(self) -> None:
        for number, start, end in self._fields(0, len(self._content)):
            if number == _MODEL_GRAPH:
                self._check_graph(start, end)
            elif number in _MODEL_REFUSED:
                raise UnsupportedModel(f"has {_MODEL_REFUSED[number]}")
            elif number not in _MODEL_PLAIN:
                raise MalformedModel(f"field {number} of a model")

    def _check_graph(self, start: int, end: int) -> None:
        for number, first, last in self._fields(start, end):
            if number == _GRAPH_NODE:
                self._check_node(first, last)
            elif number == _GRAPH_TENSOR:
                self._check_tensor(first, last)
            elif number == _GRAPH_SPARSE:
                raise UnsupportedModel("has sparse weights")
            elif number not in _GRAPH_PLAIN:
                raise MalformedModel(f"field {number} of a graph")

    def _check_node(self, start: int, end: int) -> None:
        for number, first, last in self._fields(start, end):
            if number == _NODE_OPERATOR:
                operator = self._text(first, last)
                if operator not in OPERATORS:
                    raise UnsupportedModel(f"uses the operator {operator!r}")
            elif number == _NODE_DOMAIN:
                domain = self._text(first, last)
                if domain not in DOMAINS:
                    raise UnsupportedModel(f"uses operators of the domain {domain!r}")
            elif number == _NODE_ATTRIBUTE:
                self._check_attribute(first, last)
            elif number not in _NODE_PLAIN:
                raise MalformedModel(f"field {number} of a node")

    def _check_attribute(self, start: int, end: int) -> None:
        for number, first, last in self._fields(start, end):
            if number in _ATTRIBUTE_TENSORS:
                self._check_tensor(first, last)
            elif number in _ATTRIBUTE_GRAPHS:
                raise UnsupportedModel("has a graph inside of a node (a loop or a branch)")
            elif number not in _ATTRIBUTE_PLAIN:
                raise MalformedModel(f"field {number} of an attribute")

    def _check_tensor(self, start: int, end: int) -> None:
        for number, first, last in self._fields(start, end):
            if number in _TENSOR_EXTERNAL:
                if number == 14 and self._content[first:last] == b"\0":  # explicitly "inside"
                    continue
                raise UnsupportedModel("has weights in another file")
            if number not in _TENSOR_PLAIN:
                raise MalformedModel(f"field {number} of a tensor")

    def _text(self, start: int, end: int) -> str:
        return self._content[start : min(end, start + 100)].decode(errors="replace")

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and end of the content of each field between two offsets."""
        content = self._content
        offset = start
        while offset < end:
            self._left -= 1
            if self._left < 0:
                raise UnsupportedModel(f"has more than {MAX_FIELDS:,} fields")
            tag = content[offset]
            offset += 1
            if tag >= 0x80:
                tag, offset = self._number(offset - 1, end)
            kind = tag & 7
            first = offset
            if kind == 2:  # length-delimited
                length = content[offset] if offset < end else 0x80
                if length < 0x80:
                    first = offset + 1
                else:
                    length, first = self._number(offset, end)
                offset = first + length
            elif kind == 0:
                _, offset = self._number(offset, end)
            elif kind == 5:
                offset += 4
            elif kind == 1:
                offset += 8
            else:
                raise MalformedModel("no Protocol Buffers message")
            if offset > end:
                raise MalformedModel("its last field is not whole")
            yield tag >> 3, first, offset

    def _number(self, offset: int, end: int) -> tuple[int, int]:
        """A variable-length integer, and the offset after it."""
        value = 0
        for shift in range(0, 70, 7):
            if offset >= end:
                break
            byte = self._content[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, offset
        raise MalformedModel("its last field is not whole")
