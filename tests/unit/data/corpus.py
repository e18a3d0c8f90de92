"""Odd, broken and hostile picture files, made by recipe: what each is, and what must become of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

GREEN, GREY, WHITE = (0, 200, 0), (90, 90, 90), (255, 255, 255)

Check = Callable[[np.ndarray], bool]


def corner(mode: str = "RGB", width: int = 64, height: int = 48) -> Image.Image:
    """A grey picture whose top left corner is green."""
    image = Image.new("RGB", (width, height), GREY)
    image.paste(GREEN, (0, 0, width // 4, height // 4))
    return image.convert(mode)


def noise(side: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


J = encoded(corner(), "JPEG", quality=95)
P = encoded(corner(), "PNG")
JB = encoded(noise(), "JPEG", quality=90)
PB = encoded(noise(), "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes, packed: bytes | None = None
) -> bytes:
    """A PNG from its rows, each after its filter byte (or from the `packed` ones)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(rows) if packed is None else packed
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    )


ROWS = (b"\x00" + bytes(GREY) * 64) * 64


def zeros_packed(count: int) -> bytes:
    """What zlib makes of so many zero bytes, whole and valid, without packing each of them."""
    packer = zlib.compressobj(9)
    block = 2**20
    start = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = zlib.compressobj(9, wbits=-15)
    end = body.compress(bytes(count % block)) + body.flush()
    check = struct.pack(">HH", count % 65521, 1)  # Adler-32 of zeros
    return start + again * (count // block - 1) + end + check


def black_png(side: int) -> bytes:
    """A real grey picture of side x side black pixels: a thousandth of its size."""
    return png(side, side, 8, 0, b"", packed=zeros_packed(side * (side + 1)))


def adam7(side: int = 8) -> bytes:
    """An interlaced PNG, which Pillow does not write: the corner picture in seven passes."""
    pixels = np.asarray(corner(width=side, height=side))
    starts = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b"".join(
        b"\x00" + row.tobytes()
        for left, top, step_x, step_y in starts
        for row in pixels[top::step_y, left::step_x]
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 1)
    packed = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def grey_png(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height), GREY), "PNG")


def zeroed(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + bytes(count) + data[start + count :]


def flipped(data: bytes, *places: int, bits: int = 0xFF) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= bits
    return bytes(changed)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments: bytes) -> bytes:
    return J[:2] + b"".join(segments) + J[2:]


def exif_block(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block of one entry."""
    entry = struct.pack("<HHI", tag, kind, count) + value + bytes(4)
    return b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry


LOOP = exif_block(0x8769, 4, 1, b"\x08\x00\x00\x00")  # a table of tags that says to go on where it begins
AS_BYTES = exif_block(0x0112, 7, 4, b"\x06\x06\x06\x06")

TURNS: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def with_orientation(format: str, orientation: int) -> bytes:
    """The corner picture stored so that only its EXIF orientation sets it upright."""
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    return encoded(TURNS.get(orientation, TURNS[1])(corner()), format, exif=exif, **options)


def is_upright(pixels: np.ndarray) -> bool:
    """Is the green corner at the top left, and only there?"""
    left, right = pixels[4:8, 4:8].astype(int), pixels[-8:-4, -8:-4].astype(int)
    return bool((abs(left - GREEN) < 16).all() and (abs(right - GREY) < 16).all())


def is_corner(pixels: np.ndarray) -> bool:
    return pixels.shape == (48, 64, 3) and is_upright(pixels)


def is_grey_corner(pixels: np.ndarray) -> bool:
    expected = np.asarray(corner("L").convert("RGB")).astype(int)
    return pixels.shape == (48, 64, 3) and bool(abs(pixels - expected).max() <= 4)


def all_are(colour: tuple[int, int, int], tolerance: int = 2) -> Check:
    return lambda pixels: bool(abs(pixels.astype(int) - colour).max() <= tolerance)


def sized(height: int, width: int) -> Check:
    return lambda pixels: pixels.shape == (height, width, 3)


def is_ramp(pixels: np.ndarray) -> bool:
    return pixels[0, 20].tolist() == [78] * 3 and pixels[0, 60].tolist() == [233] * 3


def is_palette(pixels: np.ndarray) -> bool:
    return tuple(pixels[0, 0]) == WHITE and tuple(pixels[7, 7]) == GREY


def palette(**options: object) -> bytes:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([*GREEN, *GREY] + [0] * 762)
    picture.putpixel((7, 7), 1)
    return encoded(picture, "PNG", **options)


def ramp() -> Image.Image:
    return Image.fromarray(np.tile(np.arange(64, dtype=np.uint16) * 1000, (4, 1)))


def many_frames() -> bytes:
    frames = [Image.new("L", (64, 64), number % 256) for number in range(2001)]
    for frame in frames:
        frame.putpixel((0, 0), 255)
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def frames(format: str, **options: object) -> bytes:
    other = noise().resize((64, 48))
    return encoded(corner(), format, save_all=True, append_images=[other], **options)


def palette_with_alpha() -> bytes:
    """A TIFF of the mode PA: a palette of green, its first half transparent."""
    picture = Image.new("PA", (8, 8))
    picture.putpalette([*GREEN] + [0] * 765)
    picture.putalpha(255)
    return encoded(picture.convert("RGBA"), "TIFF")


@dataclass(frozen=True)
class Case:
    """One file. `verdicts`: the reason codes that are right, "" for a picture, which `check` looks at."""

    id: str
    name: str
    make: Callable[[], bytes]
    verdicts: tuple[str, ...] = ("",)
    check: Check | None = None


OK = ("",)
NOT, CUT, BAD = ("NOT_AN_IMAGE",), ("TRUNCATED",), ("CORRUPT",)
BIG, OTHER, MODE = ("TOO_MANY_PIXELS",), ("UNSUPPORTED_FORMAT",), ("UNSUPPORTED_MODE",)
SVG = (
    b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%true) (r) file\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
ICO = b"\x00\x00\x01\x00\x02\x00" + bytes(64)
JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(64)


def whole_cases() -> list[Case]:
    """A: what is no picture at all."""
    return [
        Case("A01", "empty.jpg", lambda: b"", ("EMPTY_FILE",)),
        Case("A02", "one byte.jpg", lambda: b"\xff", NOT),
        Case("A03", "text.jpg", lambda: b"this is a text, not a picture\n" * 20, NOT),
        Case("A04", "404.jpg", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>", NOT),
        Case("A05", "random.jpg", lambda: np.random.default_rng(1).bytes(4096), NOT),
        Case("A06", "zeros.jpg", lambda: bytes(8192), NOT),
        Case("A07", "pointer.jpg", lambda: LFS, NOT),
        Case("A08", "zip.jpg", lambda: b"PK\x03\x04" + bytes(100), NOT),
        Case("A09", "pdf.jpg", lambda: b"%PDF-1.7\n" + bytes(100), NOT),
        Case("A10", "svg.png", lambda: SVG, OTHER),
        Case("A11", "eps.jpg", lambda: EPS, OTHER),
        Case("A12", "._photo.jpg", lambda: b"\x00\x05\x16\x07\x00\x02\x00\x00" + bytes(80), NOT),
        Case("A13", "pickle.jpg", lambda: PICKLE, NOT),
    ]


def damaged_cases() -> list[Case]:
    """B: what was a picture once."""
    cut = [(JB, "jpg", share) for share in (0.1, 0.5, 0.9)] + [
        (PB, "png", share) for share in (0.5, 0.9, 0.95)
    ]
    cases = [
        Case(f"B0{n}", f"cut {n}.{suffix}", lambda d=data, s=share: d[: int(s * len(d))], CUT)
        for n, (data, suffix, share) in enumerate(cut, 1)
    ]
    cases.append(Case("B07", "no EOI.jpg", lambda: JB[:-2], CUT))
    cases += [
        Case(
            number, f"half.{format.lower()}", lambda f=format: (d := encoded(noise(), f))[: len(d) // 2], CUT
        )
        for number, format in (("B08", "GIF"), ("B09", "WEBP"), ("B10", "BMP"), ("B11", "TIFF"))
    ]
    one_row = ROWS[: len(ROWS) // 64]
    return [
        *cases,
        Case("B12", "flipped body.png", lambda: flipped(PB, len(PB) // 2), BAD),
        Case("B13", "flipped header.png", lambda: flipped(PB, 17, bits=1), BAD),
        Case("B14", "zeros in the scan.jpg", lambda: zeroed(JB, 8000, 400), BAD),
        Case("B15", "garbage behind.jpg", lambda: J + b"x" * 5000, OK, is_corner),
        Case("B16", "two in one.jpg", lambda: J + encoded(noise(), "JPEG"), OK, is_corner),
        Case("B17", "as text.png", lambda: P.replace(b"\r\n", b"\n"), NOT),
        Case("B18", "header only.png", lambda: P[:33], CUT),
        Case("B19", "three bytes.jpg", lambda: b"\xff\xd8\xff", CUT),
        Case("B20", "one row of 64.png", lambda: png(64, 64, 8, 2, one_row), CUT),
        Case("B21", "no IEND.png", lambda: PB[:-12], OK, sized(256, 256)),
        Case("B22", "garbage body.png", lambda: png(64, 64, 8, 2, b"", packed=b"garbage" * 99), BAD),
        Case("B23", "flips every 97.jpg", lambda: flipped(JB, *range(700, len(JB) - 2, 97), bits=4), BAD),
    ]


def costly_cases() -> list[Case]:
    """C: what would cost too much, or has an extreme shape."""
    bomb = zlib.compress(bytes(50_000_000))
    screen = struct.pack("<HH", 65535, 65535)
    sides = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return [
        Case("C01", "100k x 100k.png", lambda: png(100_000, 100_000, 8, 2, b""), BIG),
        Case("C02", "400 MP.png", lambda: black_png(20_000), BIG),
        Case("C03", "169 MP.png", lambda: black_png(13_000), BIG),
        Case("C04", "zTXt.png", lambda: png(64, 64, 8, 2, ROWS, chunk(b"zTXt", b"Comment\x00\x00" + bomb)),
             ("", "METADATA_BOMB")),
        Case("C05", "iCCP.png", lambda: png(64, 64, 8, 2, ROWS, chunk(b"iCCP", b"profile\x00\x00" + bomb)),
             ("", "METADATA_BOMB")),
        Case("C06", "screen.gif", lambda: (d := encoded(corner(), "GIF"))[:6] + screen + d[10:], BIG),
        Case("C07", "sides.bmp", lambda: (d := encoded(corner(), "BMP"))[:18] + sides + d[26:], BIG),
        Case("C08", "wide.png", lambda: grey_png(30_000, 1), OK, sized(1, 30_000)),
        Case("C09", "tall.png", lambda: grey_png(1, 30_000), OK, sized(30_000, 1)),
        Case("C10", "1 x 1.png", lambda: grey_png(1, 1), OK, all_are(GREY)),
        Case("C11", "1 x 1.gif", lambda: encoded(Image.new("RGB", (1, 1), GREY), "GIF"), OK, all_are(GREY)),
        Case("C12", "0 x 0.png", lambda: png(0, 0, 8, 2, b""), ("ZERO_DIM", "CORRUPT")),
        Case("C13", "2001 frames.gif", many_frames, OK, lambda pixels: pixels[5, 5].tolist() == [0, 0, 0]),
        Case("C14", "sizes.ico", lambda: ICO, OTHER),
    ]  # fmt: skip


def mode_cases() -> list[Case]:
    """D: every way in which files hold pixels."""
    glass = Image.new("RGBA", (8, 8), (*GREEN, 128))
    red16 = b"\x00" + b"\xff\xff\x00\x00\x00\x00" * 8
    red64 = b"\x00" + b"\xff\xff\x00\x00\x00\x00\xff\xff" * 8
    lab = Image.merge("LAB", [Image.new("L", (8, 8), 100)] * 3)
    two = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    return [
        Case("D01", "L.png", lambda: encoded(corner("L"), "PNG"), OK, is_grey_corner),
        Case("D02", "L.jpg", lambda: encoded(corner("L"), "JPEG", quality=100), OK, is_grey_corner),
        Case("D03", "LA.png", lambda: encoded(Image.new("LA", (8, 8), (100, 128)), "PNG"), OK,
             all_are((177, 177, 177))),
        Case("D04", "alpha 0.png", lambda: encoded(Image.new("RGBA", (8, 8), (*GREEN, 0)), "PNG"), OK,
             all_are(WHITE, 0)),
        Case("D05", "alpha 128.png", lambda: encoded(glass, "PNG"), OK, all_are((127, 227, 127))),
        Case("D06", "P.png", lambda: encoded(corner().quantize(4), "PNG"), OK, is_corner),
        Case("D07", "P tRNS number.png", lambda: palette(transparency=0), OK, is_palette),
        Case("D08", "P tRNS bytes.png", lambda: palette(transparency=b"\x00\xff"), OK, is_palette),
        Case("D09", "1 bit.png", lambda: encoded(two, "PNG"), OK,
             lambda pixels: pixels[0].tolist() == [[0] * 3, [255] * 3]),
        Case("D10", "I;16.png", lambda: encoded(ramp(), "PNG"), OK, is_ramp),
        Case("D11", "I;16.tiff", lambda: encoded(ramp(), "TIFF"), OK, is_ramp),
        Case("D12", "48 bits.png", lambda: png(8, 2, 16, 2, red16 * 2), OK, all_are((255, 0, 0))),
        Case("D13", "64 bits.png", lambda: png(8, 2, 16, 6, red64 * 2), OK, all_are((255, 0, 0))),
        Case("D14", "F.tiff", lambda: encoded(Image.new("F", (8, 8), 0.5), "TIFF"), MODE),
        Case("D15", "CMYK.jpg", lambda: encoded(corner("CMYK"), "JPEG", quality=95), OK, is_corner),
        Case("D17", "YCbCr.tiff", lambda: encoded(corner("YCbCr"), "TIFF"), OK, is_corner),
        Case("D18", "LAB.tiff", lambda: encoded(lab, "TIFF"), MODE),
        Case("D19", "I.tiff", lambda: encoded(Image.new("I", (8, 8), 70_000), "TIFF"), MODE),
        Case("D20", "PA.tiff", palette_with_alpha, OK, all_are(GREEN)),
        Case("D21", "moving.gif", lambda: frames("GIF"), OK, is_corner),
        Case("D22", "moving.webp", lambda: frames("WEBP", lossless=True), OK, is_corner),
        Case("D23", "moving.apng", lambda: frames("PNG"), OK, is_corner),
        Case("D24", "pages.tiff", lambda: frames("TIFF"), OK, is_corner),
        Case("D25", "two.mpo", lambda: frames("MPO", quality=95), OK, is_corner),
        Case("D26", "progressive.jpg", lambda: encoded(corner(), "JPEG", progressive=True, quality=95), OK,
             is_corner),
        Case("D27", "Adam7.png", lambda: adam7(64), OK, is_upright),
        Case("D28", "lossless.webp", lambda: encoded(corner(), "WEBP", lossless=True), OK, is_corner),
        Case("D29", "photo.avif", lambda: encoded(corner(), "AVIF", quality=95), OK, is_corner),
        Case("D30", "photo.jp2", lambda: JP2, OTHER),
    ]  # fmt: skip


def metadata_cases() -> list[Case]:
    """E: orientation, broken metadata, and names that do not say what is inside."""
    icc = segment(0xE2, b"ICC_PROFILE\x00\x01\x01" + b"garbage" * 20)
    many = [segment(0xE1, bytes(64_998))] * 100
    made: list[tuple[str, Callable[[], bytes]]] = [
        *((f"orientation {n}.jpg", lambda n=n: with_orientation("JPEG", n)) for n in range(1, 9)),
        ("orientation 6.png", lambda: with_orientation("PNG", 6)),
        ("orientation 6.webp", lambda: with_orientation("WEBP", 6)),
        ("orientation 0.jpg", lambda: with_orientation("JPEG", 0)),
        ("orientation 9.jpg", lambda: with_orientation("JPEG", 9)),
        ("garbage exif.jpg", lambda: jpeg_with(segment(0xE1, b"Exif\x00\x00" + b"garbage" * 20))),
        ("orientation as bytes.jpg", lambda: jpeg_with(segment(0xE1, AS_BYTES))),
        ("loop.jpg", lambda: jpeg_with(segment(0xE1, LOOP))),
        ("garbage icc.jpg", lambda: jpeg_with(icc)),
        ("6.5 MB of APP1.jpg", lambda: jpeg_with(*many)),
        ("no extension", lambda: J),
        ("png as.jpg", lambda: P),
        ("jpeg as.png", lambda: J),
        ("UPPER.JPG", lambda: J),
        ("photo.tar.gz.jpg", lambda: J),
        ("webp as.jpg", lambda: encoded(corner(), "WEBP", lossless=True)),
    ]
    return [Case(f"E{n:02}", name, make, OK, is_corner) for n, (name, make) in enumerate(made, 1)]


CASES = [*whole_cases(), *damaged_cases(), *costly_cases(), *mode_cases(), *metadata_cases()]
