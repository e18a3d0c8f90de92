"""Picture files of every format from one photograph, and the ways in which bytes go wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, features
from tests.unit.data.corpus import adam7, encoded


def photographs(file: Path, side: int = 160) -> dict[str, bytes]:
    """One photograph, as it is and in every format and mode that there is a writer for."""
    with Image.open(file) as picture:
        photo = picture.convert("RGB")
    photo.thumbnail((side, side))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    other = Image.new("RGB", photo.size, (10, 200, 90))
    glass = photo.convert("RGBA")
    glass.putalpha(photo.convert("L"))
    files = {
        "original.jpg": file.read_bytes(),
        "baseline.jpg": encoded(photo, "JPEG", quality=85),
        "progressive.jpg": encoded(photo, "JPEG", progressive=True),
        "grey.jpg": encoded(photo.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "rgb.png": encoded(photo, "PNG"),
        "palette.png": encoded(photo.quantize(64), "PNG", transparency=3),
        "alpha.png": encoded(glass, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "adam7.png": adam7(64),
        "moving.png": encoded(photo, "PNG", save_all=True, append_images=[other]),
        "one.gif": encoded(photo, "GIF"),
        "moving.gif": encoded(photo, "GIF", save_all=True, append_images=[other]),
        "lossy.webp": encoded(photo, "WEBP"),
        "lossless.webp": encoded(glass, "WEBP", lossless=True),
        "moving.webp": encoded(photo, "WEBP", save_all=True, append_images=[other]),
        "plain.bmp": encoded(photo, "BMP"),
        "palette.bmp": encoded(photo.quantize(16), "BMP"),
        "plain.tiff": encoded(photo, "TIFF"),
        "deflate.tiff": encoded(glass, "TIFF", compression="tiff_deflate"),
        "lzw.tiff": encoded(photo, "TIFF", compression="tiff_lzw"),
        "jpeg.tiff": encoded(photo, "TIFF", compression="jpeg"),
        "deep.tiff": encoded(deep, "TIFF"),
    }
    if features.check("avif"):
        files["photo.avif"] = encoded(photo, "AVIF", speed=10)
    try:
        from pillow_heif import from_pillow
    except ImportError:
        return files
    stream = io.BytesIO()
    from_pillow(photo).save(stream, quality=60)
    return files | {"photo.heic": stream.getvalue()}


def mutated(data: bytes, others: Sequence[bytes], random: np.random.Generator) -> bytes:
    """Return `data` with one to four things wrong; the header is hit as often as all the rest."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        reach = len(changed) if random.random() < 0.5 else min(len(changed), 200)
        place = int(random.integers(0, max(1, reach)))
        match int(random.integers(0, 8)):
            case 0:
                changed[place : place + 1] = bytes([int(random.integers(0, 256))])
            case 1:
                changed[place : place + 1] = bytes([changed[place] ^ 1 << int(random.integers(0, 8))])
            case 2:
                del changed[max(1, place) :]
            case 3:
                del changed[place : place + int(random.integers(1, 64))]
            case 4:
                changed[place:place] = random.bytes(int(random.integers(1, 64)))
            case 5:
                count = int(random.integers(1, 512))
                changed[place : place + count] = bytes(count)
            case 6:
                other = others[int(random.integers(0, len(others)))]
                start = int(random.integers(0, len(other)))
                changed[place:] = other[start:]
            case _:
                worst = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00")
                changed[place : place + 4] = worst[int(random.integers(0, 4))]
        if not changed:
            break
    return bytes(changed)
