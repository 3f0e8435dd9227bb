"""Program that decompresses DICOM frames in a separate process, since decoders may crash.

It reads frames from stdin and writes their voxels to stdout until stdin ends. It is run by its path
and imports nothing from this package, so that it starts within 0.1 s.
"""

import os
import signal
import struct
import sys
import tempfile
from typing import Any, BinaryIO

REQUEST = struct.Struct("<64sIIBBQ")  # transfer syntax, rows, columns, precision, signed, length
ANSWER = struct.Struct("<?Q")  # whether it was decoded, length
MAX_SECONDS = 25  # per frame: a decoder may never finish a damaged one
MAX_PRINTED = 1 << 16
COMPLAINTS = (b"Corrupt JPEG data", b"Premature end of JPEG")

RLE = "1.2.840.10008.1.2.5"
HTJ2K = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))


def main() -> None:
    """Answer each frame with its voxels, or with an error message."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        while head := requests.read(REQUEST.size):
            answer(requests, answers, head, printed.fileno())


def answer(requests: BinaryIO, answers: BinaryIO, head: bytes, printed: int) -> None:
    """Read the frame after a request's head, decode it and write the answer.

    Args:
        head: head of the request, already read.
        printed: file descriptor that decoders' output is redirected to.
    """
    name, rows, columns, precision, signed, length = REQUEST.unpack(head)
    data = requests.read(length)
    signal.alarm(MAX_SECONDS)  # ends this process
    try:
        content = decode(name.rstrip(b"\0").decode(), data, rows, columns, precision, bool(signed))
        is_decoded = True
    except Exception as error:  # decoders raise exceptions of all kinds
        is_decoded, content = False, f"{type(error).__name__}: {error}".encode()
    signal.alarm(0)
    # libjpeg fills in missing data and only prints a warning.
    if text := _read_printed(printed):
        is_decoded, content = False, text
    answers.write(ANSWER.pack(is_decoded, len(content)))
    answers.write(content)
    answers.flush()


def _read_printed(printed: int) -> bytes:
    """Return libjpeg's warning about damaged data, if any, and clear the output."""
    lines = os.pread(printed, MAX_PRINTED, 0).splitlines()
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    return next((line for line in lines if line.startswith(COMPLAINTS)), b"")


def decode(
    syntax: str, data: bytes, rows: int, columns: int, precision: int, signed: bool
) -> bytes:
    """Decompress one frame to integers of 1, 2 or 4 bytes, little endian.

    Args:
        syntax: transfer syntax UID.
        rows, columns: size of the frame.
        precision: bits of each value.
        signed: whether values are signed.
    """
    if syntax == RLE:
        return _decode_rle(data, rows, columns, precision)
    if syntax in HTJ2K:
        import openjpeg

        return bytes(openjpeg.decode(data, j2k_format=0).tobytes())
    return _decode_by_gdcm(syntax, data, rows, columns, precision, signed)


def _decode_by_gdcm(
    syntax: str, data: bytes, rows: int, columns: int, precision: int, signed: bool
) -> bytes:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    container = 8 if precision <= 8 else 16 if precision <= 16 else 32
    image.SetPixelFormat(gdcm.PixelFormat(1, container, precision, precision - 1, int(signed)))
    # The binding converts char* to str.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))


def _decode_rle(data: bytes, rows: int, columns: int, precision: int) -> bytes:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    options: Any = {  # the annotations of as_array accept no options
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": precision,
        "bits_stored": precision,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    plane, _ = get_decoder(RLE).as_array(
        encapsulate([data]), decoding_plugin="pydicom", raw=True, **options
    )
    return bytes(plane.tobytes())


if __name__ == "__main__":
    main()
