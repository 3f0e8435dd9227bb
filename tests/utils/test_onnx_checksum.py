"""The checksum at the end of an ONNX file."""

from pathlib import Path

import onnx
import onnxruntime
import pytest

from multi_abnormality.utils.onnx_checksum import KEY, is_whole, seal
from tiny_model import write_model


def test_other_programs_read_a_sealed_model_and_find_the_seal_in_its_metadata(tmp_path: Path):
    path = write_model(tmp_path / "model.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == metadata
    assert metadata.keys() == {"multi_abnormality", KEY.decode()}
    assert metadata[KEY.decode()].encode() == seal(path.read_bytes()[: -len(seal(b""))])[-64:]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"some bytes"])
def test_any_flipped_bit_is_detected_and_a_missing_checksum_is_distinguished(
    tmp_path: Path, content: bytes
):
    path, whole = tmp_path / "file", content + seal(content)
    path.write_bytes(whole)
    assert is_whole(path) is True
    found = set()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found.add(is_whole(path))
    assert found == {False, None}
    path.write_bytes(content + whole[:-1])
    assert is_whole(path) is not True
