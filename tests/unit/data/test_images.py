"""The decode boundary: each kind of file gives the right pixels, or a `DataError` with the right code."""

from __future__ import annotations

import io
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from tests.unit.data.corpus import (
    AS_BYTES,
    EPS,
    GREEN,
    GREY,
    JB,
    LOOP,
    PB,
    SVG,
    J,
    P,
    chunk,
    corner,
    encoded,
    is_upright,
    jpeg_with,
    noise,
    png,
    ramp,
    segment,
    with_orientation,
)

from headstart.data import Colours, Limits, decode, decode_with_size, size
from headstart.data.images import _heif_plugin
from headstart.errors import DataError, UsageError

# In a test run every warning is an error; Pillow's remarks on odd metadata are not ours.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def code_of(data: bytes, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        decode(data, **options)  # type: ignore[arg-type]
    assert caught.value.message
    return caught.value.code


def verdict(data: bytes) -> str:
    """The reason code, or "" for a picture; whatever else is raised fails the test."""
    try:
        pixels = decode(data, short_side=32)
    except DataError as error:
        return error.code
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    return ""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "EMPTY_FILE"),
        (b"\xff", "NOT_AN_IMAGE"),
        (b"this is a text, not a picture\n" * 20, "NOT_AN_IMAGE"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "NOT_AN_IMAGE"),
        (np.random.default_rng(1).bytes(4096), "NOT_AN_IMAGE"),
        (bytes(8192), "NOT_AN_IMAGE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "NOT_AN_IMAGE"),
        (b"PK\x03\x04" + bytes(100), "NOT_AN_IMAGE"),
        (b"%PDF-1.7\n" + bytes(100), "NOT_AN_IMAGE"),
        (b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.", "NOT_AN_IMAGE"),
        (SVG, "UNSUPPORTED_FORMAT"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%true) (r) file\n", "UNSUPPORTED_FORMAT"),
        (b"\x00\x00\x01\x00\x02\x00" + bytes(64), "UNSUPPORTED_FORMAT"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(64), "UNSUPPORTED_FORMAT"),
        (b"8BPS" + bytes(64), "UNSUPPORTED_FORMAT"),
        (b"\xff\xd8\xff", "TRUNCATED"),
        (b"\x89PNG\r\n\x1a\n", "TRUNCATED"),
        (P.replace(b"\r\n", b"\n"), "NOT_AN_IMAGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_supported_picture_is_named(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_a_git_lfs_pointer_says_how_to_fetch_the_picture() -> None:
    with pytest.raises(DataError, match="git lfs pull"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def test_no_file_is_opened_and_no_process_started_for_hostile_text_formats() -> None:
    events: list[str] = []
    watching = True

    def watch(event: str, arguments: object) -> None:
        if watching and event in ("open", "subprocess.Popen", "os.system", "os.exec", "socket.connect"):
            events.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    for data in (SVG, EPS):
        code_of(data)
    assert not events
    open(__file__, "rb").close()  # the watch does see what is opened
    watching = False
    assert events


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("data", [JB, PB], ids=["jpeg", "png"])
def test_a_picture_that_is_cut_short_is_never_taken_for_whole(data: bytes, share: float) -> None:
    assert code_of(data[: int(share * len(data))]) == "TRUNCATED"
    assert code_of(data[: int(share * len(data))], short_side=64) == "TRUNCATED"
    assert decode(data).shape == (256, 256, 3)


def test_a_jpeg_that_lacks_only_its_end_mark_is_refused_each_time_alike() -> None:
    assert {code_of(JB[:-2]) for _ in range(3)} == {"TRUNCATED"}


def test_a_png_that_lacks_only_its_end_chunk_is_decoded_each_time_alike() -> None:
    whole = decode(PB)
    assert all(np.array_equal(decode(PB[:-12]), whole) for _ in range(3))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "BMP", "TIFF"])
def test_half_a_file_of_any_format_is_refused(format: str) -> None:
    data = encoded(noise(), format)
    assert decode(data).shape == (256, 256, 3)
    assert code_of(data[: len(data) // 2]) == "TRUNCATED"


def test_a_flipped_byte_in_a_png_is_found() -> None:
    body, header = bytearray(PB), bytearray(PB)
    body[len(PB) // 2] ^= 0xFF
    header[17] ^= 0x01
    assert code_of(bytes(body)) in ("CORRUPT", "TRUNCATED")
    assert code_of(bytes(header)) == "CORRUPT"


@pytest.mark.parametrize("start", [1000, 8000])
def test_zeros_in_the_middle_of_a_jpeg_are_found(start: int) -> None:
    damaged = JB[:start] + bytes(400) + JB[start + 400 :]
    assert {code_of(damaged) for _ in range(3)} == {"CORRUPT"}


def test_garbage_after_the_end_and_a_second_picture_do_no_harm() -> None:
    other = encoded(noise(), "JPEG")
    for data in (J + b"x" * 5000, J + other, P + b"x" * 5000, J + bytes(4000)):
        assert is_upright(decode(data))


def test_rows_that_are_missing_from_a_png_are_noticed_though_pillow_is_silent() -> None:
    row = b"\x00" + bytes(GREY) * 64
    cut = png(64, 64, 8, 2, row)
    with Image.open(io.BytesIO(cut)) as picture:
        picture.load()  # no error: the negative control
    assert code_of(cut) == "TRUNCATED"
    assert decode(png(64, 64, 8, 2, row * 64)).shape == (64, 64, 3)
    black = decode(png(64, 64, 8, 2, (b"\x00" + bytes(3) * 64) * 64))
    assert not black.any()


def test_an_interlaced_png_is_whole_or_refused() -> None:
    # Pillow writes no interlaced PNG: seven passes of an 8 x 8 picture, each row after its filter byte.
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    rows = b"".join((b"\x00" + bytes(GREY) * columns) * count for count, columns in passes)
    whole = png(8, 8, 8, 2, rows).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)),
    )
    assert (decode(whole) == GREY).all()
    cut = png(8, 8, 8, 2, rows[:-30]).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)),
    )
    assert code_of(cut) == "TRUNCATED"


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, 8, 2, b""),
        b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b"," + bytes(8) + b"\x00\x02\x02D\x01\x00;",
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
        png(13_000, 13_000, 8, 0, b""),
    ],
    ids=["png header", "gif screen", "bmp sides", "169 MP"],
)
def test_a_bomb_is_refused_by_its_header_at_once(data: bytes) -> None:
    code_of(data)  # what is loaded the first time does not count
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    assert code_of(data) == "TOO_MANY_PIXELS"
    assert time.thread_time() - start < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_limits_are_what_the_caller_says() -> None:
    assert code_of(P, limits=Limits(pixels=1000)) == "TOO_MANY_PIXELS"
    assert code_of(P, limits=Limits(file_bytes=100)) == "TOO_MANY_BYTES"
    assert decode(P, limits=Limits(pixels=64 * 48)).shape == (48, 64, 3)


def test_compressed_metadata_of_50_mb_costs_no_memory() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    row = (b"\x00" + bytes(GREY) * 64) * 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (
        png(64, 64, 8, 2, row, chunk(b"zTXt", b"Comment\x00\x00" + bomb)),
        png(64, 64, 8, 2, row, chunk(b"iCCP", b"profile\x00\x00" + bomb)),
    ):
        assert verdict(data) in ("", "METADATA_BOMB")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize("shape", [(30_000, 1), (1, 30_000), (1, 1)])
@pytest.mark.parametrize("format", ["PNG", "GIF", "JPEG"])
def test_extreme_shapes_are_decoded(shape: tuple[int, int], format: str) -> None:
    data = encoded(Image.new("RGB", shape, GREY), format)
    assert decode(data, short_side=224).shape == (shape[1], shape[0], 3)


def test_a_picture_without_pixels_is_refused() -> None:
    assert code_of(png(0, 0, 8, 2, b"")) in ("ZERO_DIM", "CORRUPT")


def test_the_first_of_many_frames_is_taken_at_once() -> None:
    frames = [Image.new("L", (64, 64), number % 256) for number in range(2001)]
    for frame in frames:
        frame.putpixel((0, 0), 255)
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    start = time.thread_time()
    assert decode(data)[5, 5].tolist() == [0, 0, 0]
    assert time.thread_time() - start < 0.05


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_a_moving_picture_is_decoded(format: str) -> None:
    data = encoded(corner(), format, save_all=True, append_images=[noise().resize((64, 48))])
    assert is_upright(decode(data))


MODES = {
    "L png": (encoded(corner("L"), "PNG"), corner("L").convert("RGB")),
    "L jpeg": (encoded(corner("L"), "JPEG", quality=100), corner("L").convert("RGB")),
    "P": (encoded(corner("P"), "PNG"), corner("P").convert("RGB")),
    "1": (encoded(corner("1"), "PNG"), corner("1").convert("RGB")),
    "progressive": (encoded(corner(), "JPEG", progressive=True, quality=100, subsampling=0), corner()),
    "lossless webp": (encoded(corner(), "WEBP", lossless=True), corner()),
    "CMYK jpeg": (encoded(corner("CMYK"), "JPEG", quality=100), corner()),
    "CMYK tiff": (encoded(corner("CMYK"), "TIFF"), corner()),
    "YCbCr tiff": (encoded(corner("YCbCr"), "TIFF"), corner()),
    "deflated tiff": (encoded(corner(), "TIFF", compression="tiff_deflate"), corner()),
    "48-bit png": (png(8, 2, 16, 2, (b"\x00" + b"\xff\xff\x00\x00\x00\x00" * 8) * 2), (255, 0, 0)),
    "64-bit png": (png(8, 2, 16, 6, (b"\x00" + b"\xff\xff\x00\x00\x00\x00\xff\xff" * 8) * 2), (255, 0, 0)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_comes_out_in_its_colours(name: str) -> None:
    data, expected = MODES[name]
    assert abs(decode(data).astype(int) - np.asarray(expected)).max() <= 4


def test_a_cmyk_jpeg_of_adobe_is_not_inverted() -> None:
    assert b"Adobe" in MODES["CMYK jpeg"][0]
    assert is_upright(decode(MODES["CMYK jpeg"][0]))


def test_transparency_is_laid_on_white() -> None:
    def over_white(alpha: int) -> np.ndarray:
        return np.rint(np.array(GREEN) * alpha / 255 + 255 * (1 - alpha / 255))

    for alpha in (0, 128, 255):
        rgba = Image.new("RGBA", (8, 8), (*GREEN, alpha))
        for format in ("PNG", "TIFF", "WEBP"):
            options = {"lossless": True, "exact": True} if format == "WEBP" else {}
            pixels = decode(encoded(rgba, format, **options))
            assert abs(pixels - over_white(alpha)).max() <= 1, (alpha, format)
        grey = decode(encoded(Image.new("LA", (8, 8), (100, alpha)), "PNG"))
        assert abs(grey - np.rint(100 * alpha / 255 + 255 - alpha)).max() <= 1
    # Without the rule the hidden colour would appear: the negative control.
    assert tuple(np.asarray(Image.new("RGBA", (1, 1), (*GREEN, 0)).convert("RGB"))[0, 0]) == GREEN


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_palette_entry_becomes_white(transparency: int | bytes) -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([*GREEN, *GREY] + [0] * 762)
    picture.putpixel((7, 7), 1)
    pixels = decode(encoded(picture, "PNG", transparency=transparency))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[7, 7]) == GREY


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(format: str) -> None:
    data = encoded(ramp(), format)
    pixels = decode(data)
    assert pixels[0, 20].tolist() == [78] * 3
    assert pixels[0, 60].tolist() == [233] * 3


def test_numbers_without_a_settled_range_are_refused_rather_than_guessed() -> None:
    for values in (np.ones((8, 8), np.float32), np.ones((8, 8), np.int32)):
        assert code_of(encoded(Image.fromarray(values), "TIFF")) == "UNSUPPORTED_MODE"
    lab = Image.merge("LAB", [Image.new("L", (8, 8), 100)] * 3)
    assert code_of(encoded(lab, "TIFF")) == "UNSUPPORTED_MODE"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_stands_upright_whatever_its_orientation(format: str, orientation: int) -> None:
    data = with_orientation(format, orientation)
    decoded = decode_with_size(data)
    assert decoded.pixels.shape == (48, 64, 3)
    assert decoded.size == size(data) == (48, 64)
    assert decoded.format == format
    assert is_upright(decoded.pixels)
    assert decoded.pixels.flags.c_contiguous
    reduced = decode_with_size(data, short_side=12)
    assert reduced.pixels.shape == (12, 16, 3)
    assert reduced.size == (48, 64)


def test_an_orientation_that_were_ignored_would_be_seen() -> None:
    with Image.open(io.BytesIO(with_orientation("JPEG", 6))) as picture:
        assert not is_upright(np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    "data",
    [
        with_orientation("JPEG", 0),
        with_orientation("JPEG", 9),
        jpeg_with(segment(0xE1, b"Exif\x00\x00" + b"garbage" * 20)),
        jpeg_with(segment(0xE1, AS_BYTES)),
        jpeg_with(segment(0xE1, LOOP)),
        jpeg_with(segment(0xE2, b"ICC_PROFILE\x00\x01\x01" + b"garbage" * 20)),
        jpeg_with(segment(0xE2, b"ICC_PROFILE\x00\x05\x01" + b"garbage")),
        J.replace(b"JFIF\x00\x01", b"JFIF\x00\x07", 1),
        J[:2] + (b"\xff\xe1" + struct.pack(">H", 65_000) + bytes(64_998)) * 100 + J[2:],
    ],
    ids=["0", "9", "garbage", "bytes", "loop", "icc", "icc numbers", "jfif revision", "6.5 MB"],
)
def test_broken_metadata_counts_as_none(data: bytes) -> None:
    assert is_upright(decode(data))


def test_broken_metadata_does_not_hide_that_the_picture_is_cut() -> None:
    odd = jpeg_with(segment(0xE2, b"ICC_PROFILE\x00\x05\x01" + b"garbage"))
    assert code_of(odd[: len(odd) - 300]) == "TRUNCATED"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_decoded() -> None:
    data = encoded(corner(), "AVIF", quality=95)
    assert is_upright(decode(data))
    assert data[8:12] == b"avif"
    assert is_upright(decode(data[:8] + b"mif1" + data[12:]))  # one that only its other brands tell


def heif(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(image).save(stream, quality=95, **options)
    return stream.getvalue()


def test_heif_is_decoded_where_its_reader_is_there() -> None:
    data = heif(corner())
    decoded = decode_with_size(data)
    assert is_upright(decoded.pixels)
    assert (decoded.size, decoded.format) == ((48, 64), "HEIF")
    assert size(data) == (48, 64)
    assert {code_of(data[: int(share * len(data))]) for share in (0.1, 0.5, 0.99)} == {"TRUNCATED"}


def test_heif_that_is_marked_as_turned_stands_upright_once() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = heif(corner().transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())
    assert b"irot" in data
    decoded = decode_with_size(data)
    assert decoded.size == size(data) == (48, 64)
    assert is_upright(decoded.pixels)


def test_heif_without_its_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _heif_plugin.cache_clear()
    try:
        with pytest.raises(DataError, match="HEIF") as caught:
            decode(b"\x00\x00\x00\x18ftypheic" + bytes(64))
        assert caught.value.code == "UNSUPPORTED_FORMAT"
        assert "headstart[heif]" in caught.value.hint
    finally:
        _heif_plugin.cache_clear()


def test_an_arithmetic_jpeg_is_decoded_or_refused_with_a_reason(shared: Path) -> None:
    # Nothing here writes one: the real file of a decoder's test suite, of 227 x 149 pixels.
    data = (shared / "data" / "odd_pictures" / "4672c7f08864cd0a.jpg").read_bytes()
    assert b"\xff\xc9" in data
    assert verdict(data) in ("", "UNSUPPORTED_MODE")
    if not verdict(data):
        assert decode(data).shape == (149, 227, 3)
        assert code_of(data[: len(data) // 2]) == "TRUNCATED"


def test_the_background_of_transparency_is_a_choice() -> None:
    glass = Image.new("RGBA", (8, 8), (*GREEN, 128))
    for format in ("PNG", "TIFF"):
        black = decode(encoded(glass, format), colours=Colours(background=(0, 0, 0)))
        red = decode(encoded(glass, format), colours=Colours(background=(255, 0, 0)))
        assert abs(black.astype(int) - (0, 100, 0)).max() <= 1
        assert abs(red.astype(int) - (127, 100, 0)).max() <= 1
    assert np.array_equal(decode(P, colours=Colours(background=(0, 0, 0))), decode(P))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_channel_is_the_luma_of_the_three(mode: str, format: str) -> None:
    data = encoded(corner(mode, width=128, height=96), format)
    grey = Colours(channels=1)
    single = decode(data, colours=grey)
    assert single.shape == (96, 128, 1)
    luma = decode(data).astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(single[..., 0] - luma).max() <= 2
    assert decode(data, colours=grey, short_side=20).shape == (24, 32, 1)
    turned = with_orientation("JPEG", 6)
    assert decode(turned, colours=grey).shape == (48, 64, 1)


@pytest.mark.parametrize("wrong", [{"channels": 2}, {"background": (0, 0, 256)}, {"background": (0, 0)}])
def test_colours_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Colours(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "short_side"),
    [
        (4001, 3003, 224),
        (4001, 3003, 751),
        (4001, 3003, 752),
        (449, 448, 224),
        (447, 500, 224),
        (100, 90, 224),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "BMP"])
def test_reduction_leaves_a_short_side_from_one_to_two_times_what_was_asked(
    width: int, height: int, short_side: int, format: str
) -> None:
    data = encoded(corner(width=width, height=height), format)
    decoded = decode_with_size(data, short_side=short_side)
    short = min(decoded.pixels.shape[:2])
    assert decoded.size == (height, width)
    assert (
        short == min(width, height)
        if min(width, height) < short_side
        else short_side <= short < 2 * short_side
    )
    assert abs(decoded.pixels.shape[1] / decoded.pixels.shape[0] - width / height) < 0.02
    assert is_upright(decoded.pixels)


def test_a_jpeg_scaled_in_decoding_looks_like_one_reduced_afterwards() -> None:
    smooth = corner(width=1600, height=1200)
    scaled = decode(encoded(smooth, "JPEG", quality=98, subsampling=0), short_side=300)
    boxed = decode(encoded(smooth, "PNG"), short_side=300)
    assert scaled.shape == boxed.shape == (300, 400, 3)
    assert np.abs(scaled.astype(int) - boxed).mean() < 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", J[:24], P[:40], b"GIF89a", b"BM", b"II*\x00", b"RIFF"]))
def test_no_bytes_raise_anything_but_a_data_error(data: bytes, start: bytes) -> None:
    assert verdict(start + data) != "BAD_DATA"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_gives_a_picture_or_a_data_error(data: st.DataObject) -> None:
    original = data.draw(
        st.sampled_from([J, P, *(encoded(corner(), f) for f in ("GIF", "WEBP", "BMP", "TIFF"))])
    )
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    assert verdict(bytes(changed)) != "BAD_DATA"
