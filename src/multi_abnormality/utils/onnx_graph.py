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

# Fields of the messages of onnx.proto by their numbers: allowed with any content,
_PLAIN = {
    "model": {1, 2, 3, 4, 5, 6, 8, 14},
    "graph": {2, 10, 11, 12, 13, 14, 16},
    "node": {1, 2, 3, 6, 8, 9},
    "attribute": {1, 2, 3, 4, 7, 8, 9, 13, 20, 21},
    "tensor": {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16},
}
# messages that are checked too,
_NESTED = {
    ("model", 7): "graph",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 10): "tensor",
}
# names from a list,
_ALLOWED_NAMES = {
    ("node", 4): ("the operator", OPERATORS),
    ("node", 7): ("operators of the domain", frozenset(("", "ai.onnx"))),  # the standard's own
}
# and known ones that are rejected.
_REFUSED = {
    ("model", 20): "has a training graph",
    ("model", 25): "has functions",
    ("graph", 15): "has sparse weights",
    ("attribute", 6): "has a graph inside of a node (a loop or a branch)",
    ("attribute", 11): "has a graph inside of a node (a loop or a branch)",
    ("tensor", 13): "has weights in another file",
    ("tensor", 14): "has weights in another file",
}
_WEIGHTS_INSIDE = b"\0"  # value of a tensor's field 14 that is allowed


class UnsupportedModel(Exception):
    """An ONNX file has a part that is not allowed; the message names it."""


class MalformedModel(Exception):
    """The file is not ONNX, or of a version that this project does not write."""


def check_graph(path: Path) -> None:
    """Check that a file is a graph of OPERATORS, with all weights inside."""
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise MalformedModel(f"has {size:,} bytes; an ONNX file has 1 to {MAX_BYTES:,}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _Reader(content).check("model", 0, len(content))


class _Reader:
    """Reads fields of messages in place: weights are skipped, not copied."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._left = MAX_FIELDS

    def check(self, name: str, start: int, end: int) -> None:
        """Check the message of this name between two offsets."""
        for number, first, last in self._fields(start, end):
            field = name, number
            if field in _NESTED:
                self.check(_NESTED[field], first, last)
            elif field in _ALLOWED_NAMES:
                what, allowed = _ALLOWED_NAMES[field]
                if (text := self._text(first, last)) not in allowed:
                    raise UnsupportedModel(f"uses {what} {text!r}")
            elif field in _REFUSED:
                if field != ("tensor", 14) or self._content[first:last] != _WEIGHTS_INSIDE:
                    raise UnsupportedModel(_REFUSED[field])
            elif number not in _PLAIN[name]:
                raise MalformedModel(f"field {number} of a message `{name}`")

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
