"""Bytes become pixels: the one place where pictures are decoded.

JPEG is decoded by libjpeg-turbo (simplejpeg, strict), every other format by Pillow, chosen by the
file's first bytes. On some 26,000 hostile files Pillow never crashed where OpenCV did on PNG, and
strict simplejpeg accepted none of 200 truncated JPEGs where OpenCV and Pillow fill the rest with grey.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from headstart.data import formats
from headstart.data.colours import Colours
from headstart.data.limits import Limits
from headstart.errors import DataError
from headstart.types import Pixels, Size

try:
    import simplejpeg
except (
    ImportError
):  # the small runtime goes without it: Pillow then reads JPEG, with no strict look at its end
    simplejpeg = None

# Pillow reports odd metadata by warnings; a picture is used or refused, and that is said otherwise.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}


@cache
def _heif_plugin() -> Callable[[io.BytesIO], ImageFile.ImageFile] | None:
    """Return the reader of HEIF, which is in a package of its own, or None where that is missing."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    plugin: Callable[[io.BytesIO], ImageFile.ImageFile] = HeifImageFile
    return plugin


_UNSUPPORTED_WORDS = (
    *("cannot handle", "unsupported", "not implemented", "cannot load this image"),
    *("unknown pixel mode", "unknown raw mode", "unknown data organization"),
)

# What sounds as if it were unsupported, but is damage: JPEG has 8, 12 or 16 bits, and at least one scan.
_DAMAGED_JPEG = re.compile(
    r"unsupported marker type|cannot handle (?!12-|16-)\d+-bit layers|cannot load this image"
)

# What libjpeg-turbo's strict reading refuses though it does not touch the pixels: what its message
# says, and the marker of the segments without which the picture is read again.
_HARMLESS_IN_JPEG = {"ICC marker": 0xE2, "JFIF revision": 0xE0, "Adobe color transform": 0xEE}

_ORIENTATION_TAG = 274
_BITS_PER_SAMPLE_TAG = 258

REASONS = frozenset(
    {
        *("EMPTY_FILE", "NOT_AN_IMAGE", "UNSUPPORTED_FORMAT", "TRUNCATED", "CORRUPT", "TOO_MANY_PIXELS"),
        *("TOO_MANY_BYTES", "METADATA_BOMB", "ZERO_DIM", "UNSUPPORTED_MODE", "DECODER_CRASH"),
    }
)
"""The codes of what can be wrong with a file's bytes."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture's pixels, and what it was before they were reduced.

    `size`: (height, width) of the whole picture, upright. `format`: "JPEG", "PNG", … `mode`: its
    pixels as Pillow names them ("RGB", "CMYK", "I;16", …). `orientation`: the EXIF one, 1 … 8, which
    has been applied.
    """

    pixels: Pixels
    size: Size
    format: str
    mode: str = "RGB"
    orientation: int = 1


def decode(
    data: bytes,
    *,
    short_side: int | None = None,
    limits: Limits | None = None,
    colours: Colours | None = None,
) -> Pixels:
    """Decode a picture file into uint8 (height, width, 3) RGB, upright.

    The first frame is taken. Orientation (EXIF) is applied. Transparency is laid on white, and grey
    becomes RGB, unless `colours` says otherwise. Grey of more than 8 bits is scaled to 0 … 255. Colour
    profiles are not applied.

    With `short_side`, large pictures are reduced by one fixed rule, a pure function of the picture's
    size: a JPEG is decoded at 1/2, 1/4 or 1/8 as long as its short side stays at least `short_side`;
    then boxes of k x k pixels are averaged, k = short // short_side, where k is 2 or more. So the
    result's short side is in [short_side, 2 * short_side), or the original one if that is smaller.

    Raises `DataError` and nothing else, with one of the codes EMPTY_FILE, NOT_AN_IMAGE,
    UNSUPPORTED_FORMAT, TRUNCATED, CORRUPT, TOO_MANY_PIXELS, TOO_MANY_BYTES, METADATA_BOMB, ZERO_DIM,
    UNSUPPORTED_MODE.
    """
    return decode_with_size(data, short_side=short_side, limits=limits, colours=colours).pixels


def decode_with_size(
    data: bytes,
    *,
    short_side: int | None = None,
    limits: Limits | None = None,
    colours: Colours | None = None,
) -> Decoded:
    """Decode as `decode` does, and say how large the whole picture was."""
    colours = colours or Colours()
    picture, name = _open(data, limits or Limits())
    mode, stored = picture.mode, (picture.height, picture.width)
    # Pillow turns a TIFF when it is loaded, which also removes the mark.
    turned = _orientation(picture) if name == "TIFF" else 1
    pixels = None
    if name == "JPEG" and mode in ("RGB", "L") and simplejpeg is None:
        # The same library at the same scale: 166 decodes of 83 pictures had the same pixels.
        factor = _scale(min(picture.size), short_side)
        picture.draft(None, (picture.width // factor, picture.height // factor))
    elif name == "JPEG" and mode in ("RGB", "L"):
        pixels = _jpeg_pixels(data, stored, short_side, colours)
    if pixels is None:
        pixels = _pillow_pixels(picture, data, name, short_side, colours)
    else:
        pixels = _reduced(pixels, short_side)
    orientation = _orientation(picture)
    # A TIFF is turned by now, and a JPEG that Pillow drafted is smaller than it was.
    height, width = stored if name == "JPEG" else (picture.height, picture.width)
    whole = (width, height) if orientation >= 5 else (height, width)
    return Decoded(_upright(pixels, orientation), whole, name, mode, max(turned, orientation))


def size(data: bytes, *, limits: Limits | None = None) -> Size:
    """Return a picture's (height, width), upright, from its header alone.

    Raises `DataError` as `decode` does; a damaged body is not seen.
    """
    picture, name = _open(data, limits or Limits())
    # Pillow gives a TIFF's size upright, and would decode a PNG to look for EXIF after its pixels.
    marked = name != "TIFF" and (name != "PNG" or "exif" in picture.info)
    if marked and _orientation(picture) >= 5:
        return (picture.width, picture.height)
    return (picture.height, picture.width)


def _open(data: bytes, limits: Limits) -> tuple[ImageFile.ImageFile, str]:
    """Read the header: return the picture, its pixels still unread, and its format."""
    if not data:
        raise DataError("the file is empty", code="EMPTY_FILE")
    if len(data) > limits.file_bytes:
        raise DataError(f"{len(data):,} bytes, more than {limits.file_bytes:,}", code="TOO_MANY_BYTES")
    name = formats.sniff(data)
    plugin = _heif_plugin() if name == "HEIF" else _PLUGINS.get(name or "")
    if name is None or plugin is None:
        raise _not_supported(data, name)
    try:
        picture = plugin(io.BytesIO(data))
        width, height = picture.size
    except Exception as error:  # 3.4 % of Pillow's failures on hostile files are not OSError
        raise _damaged(data, name, error) from error
    if width <= 0 or height <= 0:
        raise DataError(f"the picture has no pixels: {width} x {height}", code="ZERO_DIM")
    if width * height > limits.pixels:
        raise DataError(
            f"{width} x {height} is more than {limits.pixels:,} pixels",
            "make the picture smaller, or raise the limit",
            code="TOO_MANY_PIXELS",
        )
    return picture, name


def _not_supported(data: bytes, name: str | None) -> DataError:
    other = name or formats.other_picture_format(data)
    if other:
        hint = f"convert them to one of {', '.join(_PLUGINS)}"
        if other == "HEIF":
            hint = f'install their reader with: pip install "headstart[heif]", or {hint}'
        return DataError(f"{other} pictures are not supported", hint, code="UNSUPPORTED_FORMAT")
    what, hint = formats.what_else(data)
    return DataError(f"it is not a picture{f' but {what}' if what else ''}", hint, code="NOT_AN_IMAGE")


def _damaged(data: bytes, name: str, error: Exception) -> DataError:
    """Say in one error what a decoder's exception means."""
    text = " ".join(str(error).split())[:120]
    if not any(map(str.isalpha, text)):
        text = type(error).__name__
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return DataError(f"the {name} needs too much memory: {text}", code="TOO_MANY_PIXELS")
    said = text.lower()
    if "decompressed data too large" in said or "too much memory used in text chunks" in said:
        return DataError(f"the {name} holds too much metadata: {text}", code="METADATA_BOMB")
    misleading = name == "JPEG" and _DAMAGED_JPEG.search(said)
    if not misleading and any(words in said for words in _UNSUPPORTED_WORDS):
        return DataError(f"this kind of {name} cannot be read: {text}", code="UNSUPPORTED_MODE")
    cut = any(words in said for words in ("truncated", "premature end", "end of file", "eof"))
    if cut or formats.ends_early(data, name):
        return DataError(f"the {name} is cut short: {text}", "copy or download it again", code="TRUNCATED")
    return DataError(f"the {name} is damaged: {text}", "copy or download it again", code="CORRUPT")


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 where it is absent or makes no sense."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF counts as none: the pixels are what matters
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels as an EXIF orientation says; the result is contiguous."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _scale(short: int, short_side: int | None) -> int:
    """Return what a JPEG's sides are divided by while it is decoded: 1, 2, 4 or 8."""
    factor = 1
    while factor < 8 and short_side and -(-short // (2 * factor)) >= short_side:
        factor *= 2
    return factor


def _jpeg_pixels(data: bytes, whole: Size, short_side: int | None, colours: Colours) -> Pixels | None:
    """Decode a grey or colour JPEG, scaled; None where its chroma layout is left to Pillow."""
    height, width = whole
    factor = _scale(min(whole), short_side)
    try:
        # The smallest scale whose result has these sides is exactly 1 / factor.
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if colours.channels == 1 else "RGB",
            min_height=-(-height // factor),
            min_width=-(-width // factor),
            strict=True,
        )
    except (ValueError, MemoryError, RuntimeError) as error:
        for words, marker in _HARMLESS_IN_JPEG.items():
            if words in str(error):
                lighter = formats.jpeg_without(data, marker)
                if len(lighter) < len(data):
                    return _jpeg_pixels(lighter, whole, short_side, colours)
        if "subsampling level" in str(error):
            return None
        raise _damaged(data, "JPEG", error) from error
    return pixels


def _box(short: int, short_side: int | None) -> int:
    """Return the side of the boxes of pixels that are averaged."""
    return max(1, short // short_side) if short_side else 1


def _reduced(pixels: Pixels, short_side: int | None) -> Pixels:
    box = _box(min(pixels.shape[:2]), short_side)
    if box == 1:
        return pixels
    flat = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.array(flat.reduce(box)).reshape(-(-pixels.shape[0] // box), -1, pixels.shape[2])


def _pillow_pixels(
    picture: ImageFile.ImageFile, data: bytes, name: str, short_side: int | None, colours: Colours
) -> Pixels:
    try:
        picture.load()  # a second call after a failure would return without an error: never ask twice
    except Exception as error:
        raise _damaged(data, name, error) from error
    if name == "PNG" and _may_lack_rows(picture) and formats.png_rows_are_missing(data):
        raise _damaged(data, name, ValueError("truncated: rows are missing"))
    try:
        flat = _as_rgb(picture, colours.background)
        if colours.channels == 1:
            flat = flat.convert("L")
        box = _box(min(flat.size), short_side)
        pixels = np.asarray(flat.reduce(box) if box > 1 else flat)
    except DataError:
        raise
    except MemoryError as error:
        raise _damaged(data, name, error) from error
    except Exception as error:
        raise DataError(
            f"pixels of the mode {picture.mode} cannot be used: {error}", code="UNSUPPORTED_MODE"
        ) from error
    return pixels.reshape(*pixels.shape[:2], colours.channels)


def _may_lack_rows(picture: Image.Image) -> bool:
    """Tell whether the last row is all zeros, as missing rows are: only then the rows are counted."""
    last = picture.crop((0, picture.height - 1, picture.width, picture.height))
    return not any(last.tobytes()) or bool(picture.info.get("interlace"))


def _as_rgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I;16"):
        return _from_16_bit(picture)
    if mode in ("I", "F", "LAB", "HSV"):
        raise DataError(
            f"pixels of the mode {mode} have no settled range of brightness",
            "convert the picture to 8 or 16 bits",
            code="UNSUPPORTED_MODE",
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or picture.has_transparency_data:
        if mode == "La":
            picture = picture.convert("LA")
        transparent = picture.convert("RGBA")
        below = Image.new("RGBA", transparent.size, (*background, 255))
        return Image.alpha_composite(below, transparent).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """Scale 16-bit grey (12-bit, where a TIFF says so) linearly to 8 bits."""
    bits = 16
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        declared = picture.tag_v2.get(_BITS_PER_SAMPLE_TAG, (16,))
        bits = int(declared[0] if isinstance(declared, tuple) else declared)
    highest = 2**bits - 1
    values = np.asarray(picture).astype(np.uint32)
    grey = np.minimum((values * 255 + highest // 2) // highest, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
