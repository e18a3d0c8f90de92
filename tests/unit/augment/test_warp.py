"""Pixels: the warp goes where its matrix says, and the evaluation's resize is timm's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.augment import apply_color, resize_for_evaluation, warp
from headstart.errors import UsageError
from headstart.types import Pixels


def smooth(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture without fine detail."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_identity_changes_no_pixel() -> None:
    picture = noise(31, 47)
    np.testing.assert_array_equal(warp(picture, np.eye(3), (31, 47)), picture)


def test_a_matrix_of_whole_steps_moves_whole_pixels() -> None:
    picture = noise(31, 47)
    matrix = np.array([[1.0, 0, 5], [0, 1, 3], [0, 0, 1]])
    np.testing.assert_array_equal(warp(picture, matrix, (20, 30)), picture[3:23, 5:35])
    mirror = np.array([[-1.0, 0, 46], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(warp(picture, mirror, (31, 47)), picture[:, ::-1])


def test_what_lies_outside_is_padded_as_asked() -> None:
    picture = noise(8, 8)
    left = np.array([[1.0, 0, -2], [0, 1, 0], [0, 0, 1]])
    assert (warp(picture, left, (8, 8), padding="zeros")[:, :2] == 0).all()
    np.testing.assert_array_equal(warp(picture, left, (8, 8), padding="reflect")[:, :2], picture[:, 2:0:-1])
    np.testing.assert_array_equal(warp(picture, left, (8, 8), padding="edge")[:, 1], picture[:, 0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_pictures_are_warped(shape: tuple[int, int]) -> None:
    matrix = np.array([[0.5, 0.1, -9], [-0.1, 0.5, -9], [0.001, 0, 1]])
    assert warp(np.full((*shape, 3), 77, np.uint8), matrix, (32, 32)).tolist() == [[[77] * 3] * 32] * 32


def test_shrinking_does_not_turn_fine_stripes_into_coarse_ones() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = np.diag([1.95, 1.95, 1.0])
    shrunk = warp(stripes, matrix, (120, 120)).astype(float)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    unsmoothed = cv2.warpPerspective(stripes, matrix, (120, 120), flags=flags).astype(float)
    assert unsmoothed.std() > 60
    assert shrunk.std() < 0.6 * unsmoothed.std()


def test_a_picture_that_may_not_be_written_to_is_warped_and_coloured() -> None:
    picture = noise(16, 16)
    picture.flags.writeable = False
    assert warp(picture, np.eye(3), (16, 16)).shape == (16, 16, 3)
    assert apply_color(picture, np.eye(3, 4), np.arange(256, dtype=np.uint8)).tolist() == picture.tolist()
    assert resize_for_evaluation(picture, (8, 8)).flags.writeable


def test_colours_are_changed_by_matrix_then_curve() -> None:
    picture = np.full((2, 2, 3), (10, 20, 30), np.uint8)
    grey = np.full((3, 4), 1 / 3)
    grey[:, 3] = 5
    inverted = np.arange(255, -1, -1).astype(np.uint8)
    assert apply_color(picture).tolist() == picture.tolist()
    assert apply_color(picture, grey)[0, 0].tolist() == [25] * 3
    assert apply_color(picture, grey, inverted)[0, 0].tolist() == [230] * 3
    assert apply_color(picture, 100 * np.eye(3, 4))[0, 0].tolist() == [255] * 3


SHAPES = [(240, 320), (320, 240), (256, 256), (375, 500), (90, 120), (512, 301), (263, 320), (1, 50)]


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (128, 224), (224, 160)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop_fraction", [0.875, 0.9, 1.0])
def test_evaluation_resizing_is_that_of_timm(
    shape: tuple[int, int], size: tuple[int, int], crop_fraction: float
) -> None:
    from timm.data.transforms_factory import transforms_imagenet_eval
    from torchvision.transforms import Compose

    picture = smooth(*shape)
    timm = Compose(
        transforms_imagenet_eval(
            size, crop_pct=crop_fraction, interpolation="bicubic", use_prefetcher=True
        ).transforms[:2]
    )
    expected = np.asarray(timm(Image.fromarray(picture))).astype(int)
    ours = resize_for_evaluation(picture, size, crop_fraction=crop_fraction)
    assert np.abs(ours - expected).max() <= 2
    assert np.abs(ours - expected).mean() < 0.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fine_detail_is_that_of_timm_too_where_it_cuts_at_whole_pixels(interpolation: str) -> None:
    from timm.data.transforms_factory import transforms_imagenet_eval
    from torchvision.transforms import Compose

    picture = noise(300, 400)
    timm = Compose(
        transforms_imagenet_eval(
            224, crop_pct=0.875, interpolation=interpolation, use_prefetcher=True
        ).transforms[:2]
    )
    expected = np.asarray(timm(Image.fromarray(picture))).astype(int)
    ours = resize_for_evaluation(picture, (224, 224), interpolation=interpolation)  # type: ignore[arg-type]
    assert np.abs(ours - expected).max() <= 2
    other = resize_for_evaluation(picture, (224, 224), interpolation="lanczos")
    assert np.abs(other - expected).max() > 2  # another filter would be seen


def test_squish_shows_everything_and_pad_keeps_the_shape() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :20], picture[:, -20:] = (255, 0, 0), (0, 0, 255)
    squished = resize_for_evaluation(picture, (64, 64), policy="squish")
    padded = resize_for_evaluation(picture, (64, 64), policy="pad")
    cropped = resize_for_evaluation(picture, (64, 64), policy="crop")
    assert squished[32, 1, 0] > 200
    assert squished[32, -2, 2] > 200
    assert padded[32, 1, 0] > 200
    assert padded[32, -2, 2] > 200
    assert cropped.max() == 0
    assert padded.shape == squished.shape == (64, 64, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.integers(8, 96), st.integers(8, 96)),
    st.sampled_from(["crop", "squish", "pad"]),
    st.floats(0.5, 1.0),
)
def test_any_picture_comes_out_in_the_size_asked_for(
    shape: tuple[int, int], size: tuple[int, int], policy: str, crop_fraction: float
) -> None:
    grey = np.full((*shape, 3), 99, np.uint8)
    out = resize_for_evaluation(grey, size, policy=policy, crop_fraction=crop_fraction)  # type: ignore[arg-type]
    assert out.shape == (*size, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert np.unique(out).tolist() == [99]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="stretch"):
        resize_for_evaluation(noise(9, 9), (8, 8), policy="stretch")  # type: ignore[arg-type]
