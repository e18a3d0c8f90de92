"""What a file is, by its first bytes, and whether its end is there: no decoder is involved."""

from __future__ import annotations

import re
import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

SUPPORTED = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")

_HEIF_BRANDS = frozenset(
    {b"mif1", b"msf1", b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx"}
)

# Other kinds of pictures: they are named in the error, never decoded.
_OTHER_PICTURES = (
    ("ICO", re.compile(rb"\x00\x00[\x01\x02]\x00[^\x00]\x00")),
    ("JPEG 2000", re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51")),
    ("JPEG XL", re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL ")),
    ("PSD", re.compile(rb"8BPS")),
    ("EPS", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("SVG", re.compile(rb"\s*(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg\b", re.DOTALL)),
    ("PNM", re.compile(rb"P[1-7]\s")),
    ("DDS", re.compile(rb"DDS ")),
    ("EXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("HDR", re.compile(rb"#\?RADIANCE|#\?RGBE")),
    ("QOI", re.compile(rb"qoif")),
    ("PCX", re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]")),
    ("ICNS", re.compile(rb"icns")),
    ("FITS", re.compile(rb"SIMPLE  =")),
)

# What is often found where a picture should be, and what to do about it.
_NOT_PICTURES = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer", "fetch the pictures with: git lfs pull"),
    (
        re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
        "a web page",
        "the download saved a page in place of the picture: fetch it again",
    ),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it first"),
    (re.compile(rb"%PDF"), "a PDF", ""),
    (re.compile(rb"\x00\x05\x16\x07"), "an AppleDouble file", "remove it: it holds no picture"),
)


def sniff(data: bytes) -> str | None:
    """Return the supported format (one of `SUPPORTED`) that `data` begins as, or None."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == PNG_SIGNATURE:
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if {b"avif", b"avis"} & brands:
            return "AVIF"
        if _HEIF_BRANDS & brands:
            return "HEIF"
    if data[:2] == b"BM" and len(data) >= 18 and data[15:18] == b"\x00\x00\x00":  # header size < 256
        return "BMP"
    return None


def _brands(data: bytes) -> set[bytes]:
    """Return what an ISO media file says that it is: the major brand and the compatible ones."""
    end = min(int.from_bytes(data[:4], "big"), 128)
    return {data[start : start + 4] for start in (8, *range(16, end, 4))}


def other_picture_format(data: bytes) -> str | None:
    """Return the name of the unsupported picture format that `data` begins as, or None."""
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return "TGA"
    head = data[:4096]
    return next((name for name, pattern in _OTHER_PICTURES if pattern.match(head)), None)


def what_else(data: bytes) -> tuple[str, str]:
    """Say what bytes that are no picture look like, and what to do; both may be empty."""
    head = data[:4096]
    return next(((what, hint) for pattern, what, hint in _NOT_PICTURES if pattern.match(head)), ("", ""))


def ends_early(data: bytes, name: str) -> bool:
    """Tell whether a damaged file lacks its end, by its own size fields or end mark."""
    if name == "JPEG":
        return b"\xff\xd9" not in data
    if name == "PNG":
        return b"IEND" not in data
    if name == "GIF":
        return b"\x3b" not in data[-16:]
    if name == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if name == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    if name in ("AVIF", "HEIF"):
        return _boxes_are_cut(data)
    return False


def _boxes_are_cut(data: bytes) -> bool:
    """Tell whether the last of an ISO media file's outer boxes is longer than the file."""
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        elif length == 0:  # it goes on to the end, wherever that is
            return False
        if length < 8:
            return False
        position += length
    return position > len(data)


def jpeg_without(data: bytes, marker: int) -> bytes:
    """Return a JPEG without the header segments of one marker (0xE0 … 0xEF), its pixels untouched."""
    kept = [data[:2]]
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != marker:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return the chunks of a PNG as (type, start of the contents, length), as far as they go."""
    chunks = []
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks.append((kind, position + 8, length))
        position += length + 12
        if kind == b"IEND":
            break
    return chunks


def png_rows_are_missing(data: bytes) -> bool:
    """Tell whether a PNG's compressed rows end, cleanly, before its last row.

    Pillow gives the missing rows as zeros without a word.
    """
    chunks = png_chunks(data)
    if not chunks or chunks[0][0] != b"IHDR":
        return False
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, chunks[0][1])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, step_x, step_y in passes:
        columns = -(-(width - left) // step_x) if width > left else 0
        rows = -(-(height - top) // step_y) if height > top else 0
        expected += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    inflate = zlib.decompressobj()
    total = 0
    try:
        for kind, start, length in chunks:
            pending = data[start : start + length] if kind == b"IDAT" else b""
            while pending and total < expected:
                total += len(inflate.decompress(pending, 1 << 20))
                pending = inflate.unconsumed_tail
    except zlib.error:
        return True
    return total < expected


_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
