"""From a decoded picture to the network's input, in training and in evaluation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.augment import (
    Augmentation,
    EvalPrepare,
    Framing,
    PixelSteps,
    TrainPrepare,
    none,
    side_on,
    top_down,
    view_matrix,
    views,
)
from headstart.augment.view import crop_window
from headstart.types import Pixels, Prepare


def smooth(height: int, width: int) -> Pixels:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


PICTURE = smooth(256, 341)
PRESETS = [side_on(), top_down(), side_on(max_warp=0.5, max_rotate=45, max_zoom=2, padding="zeros")]


@pytest.mark.parametrize("augmentation", PRESETS)
def test_training_is_a_pure_function_of_seed_epoch_and_sample(augmentation: object) -> None:
    prepare = TrainPrepare(augmentation, (64, 64), seed=1)  # type: ignore[arg-type]
    first = prepare(PICTURE, 5, 2)
    prepare(PICTURE, 6, 3)
    np.testing.assert_array_equal(prepare(PICTURE, 5, 2), first)
    others = [
        prepare(PICTURE, 6, 2),
        prepare(PICTURE, 5, 3),
        dataclasses.replace(prepare, seed=2)(PICTURE, 5, 2),
    ]
    assert all(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("policy", ["crop", "squish", "pad"])
@pytest.mark.parametrize("size", [(96, 96), (64, 112), (112, 64)])
def test_training_without_augmentation_shows_what_evaluation_shows(
    policy: str, size: tuple[int, int]
) -> None:
    evaluation = EvalPrepare(size, policy=policy)  # type: ignore[arg-type]
    training = TrainPrepare(none(), size, policy=policy)  # type: ignore[arg-type]
    difference = np.abs(evaluation(PICTURE).astype(int) - training(PICTURE, 0, 0))
    # Corners are rounded to a pixel in one and not in the other; mirrored edges differ the most.
    middle = difference[size[0] // 3 : -size[0] // 3, size[1] // 3 : -size[1] // 3]
    assert middle.mean() < 3
    assert np.abs(evaluation(PICTURE).astype(int) - training(PICTURE[:, ::-1].copy(), 0, 0)).mean() > 10


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(8, 64), st.integers(8, 64)),
    st.sampled_from(PRESETS),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["crop", "squish", "pad"]),
)
def test_any_picture_comes_out_in_the_size_asked_for(
    shape: tuple[int, int], size: tuple[int, int], augmentation: object, identity: int, policy: str
) -> None:
    prepare = TrainPrepare(augmentation, size, policy=policy)  # type: ignore[arg-type]
    out = prepare(np.full((*shape, 3), 128, np.uint8), identity, 0)
    assert out.shape == (*size, 3)
    assert out.dtype == np.uint8


def corners(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The places in the picture that the corners of the view show, (4, 2) as (x, y)."""
    height, width = size
    places = np.array([[x, y, 1] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)], np.float64).T
    shown = matrix @ places
    return (shown[:2] / shown[2]).T


@given(
    st.tuples(st.integers(20, 500), st.integers(20, 500)),
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(1, 3),
    st.floats(0.5, 1),
)
def test_a_crop_never_leaves_the_picture(
    picture: tuple[int, int], size: tuple[int, int], place: tuple[float, float], zoom: float, fraction: float
) -> None:
    change = np.diag([1 / zoom, 1 / zoom, 1])
    matrix = view_matrix(picture, size, change, crop_fraction=fraction, place=place, zoom=zoom)
    shown = corners(matrix, size)
    assert shown.min() > -0.5 - 1e-6
    assert shown[:, 0].max() < picture[1] - 0.5 + 1e-6
    assert shown[:, 1].max() < picture[0] - 0.5 + 1e-6


def test_a_crop_may_lie_anywhere_in_the_picture() -> None:
    at_left = view_matrix((100, 200), (50, 50), np.eye(3), place=(-1, 0))
    at_right = view_matrix((100, 200), (50, 50), np.eye(3), place=(1, 0))
    np.testing.assert_allclose(corners(at_left, (50, 50))[:, 0].min(), -0.5)
    np.testing.assert_allclose(corners(at_right, (50, 50))[:, 0].max(), 199.5)


def test_squish_covers_the_whole_picture_and_pad_more_than_it() -> None:
    squished = corners(view_matrix((100, 200), (64, 64), np.eye(3), policy="squish"), (64, 64))
    assert squished.min(axis=0).tolist() == [-0.5, -0.5]
    np.testing.assert_allclose(squished.max(axis=0), [199.5, 99.5])
    padded = corners(view_matrix((100, 200), (64, 64), np.eye(3), policy="pad"), (64, 64))
    np.testing.assert_allclose([padded[:, 0].min(), padded[:, 1].min()], [-0.5, -50.5])


def test_a_turned_view_of_another_shape_stays_in_the_picture() -> None:
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    shown = corners(view_matrix((200, 400), (50, 100), turn, turned=True), (50, 100))
    assert shown[:, 1].min() >= -0.5 - 1e-9
    assert shown[:, 1].max() <= 199.5 + 1e-9
    untold = corners(view_matrix((200, 400), (50, 100), turn), (50, 100))
    assert untold[:, 1].min() < -1  # else it would reach beyond


def test_views_of_a_preset() -> None:
    plain = EvalPrepare((64, 64))
    assert views(none(), plain) == [plain]
    mirrored = views(side_on(), plain)
    assert len(mirrored) == 2
    assert mirrored[0] == plain
    np.testing.assert_array_equal(mirrored[1](PICTURE), plain(PICTURE)[:, ::-1])
    eight = views(top_down(), plain)
    assert eight[0] == plain
    assert len({view(PICTURE).tobytes() for view in eight}) == 8
    assert len({view.key for view in eight}) == 8


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_turned_view_is_the_plain_view_of_the_turned_picture(size: tuple[int, int]) -> None:
    # Of this shape an even number of pixels is cut away, so that a turn does not move the cut.
    picture = smooth(128, 256)
    for turns in range(4):
        for flip in (False, True):
            changed = np.rot90(picture, turns)
            changed = np.ascontiguousarray(changed[:, ::-1] if flip else changed)
            expected = EvalPrepare(size, crop_fraction=1.0)(changed)
            view = EvalPrepare(size, crop_fraction=1.0, turns=turns, flip=flip)(picture)
            assert view.flags.c_contiguous
            assert view.shape == (*size, 3)
            assert np.abs(view.astype(int) - expected).max() <= 2


def test_keys_tell_settings_apart_and_not_instances() -> None:
    made = [
        EvalPrepare((64, 64)),
        EvalPrepare((64, 65)),
        EvalPrepare((64, 64), flip=True),
        EvalPrepare((64, 64), turns=1),
        EvalPrepare((64, 64), crop_fraction=0.9),
        EvalPrepare((64, 64), policy="pad"),
        EvalPrepare((64, 64), interpolation="bilinear"),
        TrainPrepare(side_on(), (64, 64)),
        TrainPrepare(side_on(), (64, 64), seed=1),
        TrainPrepare(side_on(max_zoom=1.2), (64, 64)),
        TrainPrepare(none(), (64, 64)),
        TrainPrepare(none(), (64, 64), crop_fraction=1.0),
    ]
    assert len({prepare.key for prepare in made}) == len(made)
    assert EvalPrepare((64, 64)).key == made[0].key
    prepares: list[Prepare] = [made[0], made[7]]
    assert [prepare.size for prepare in prepares] == [(64, 64)] * 2


def test_a_decoded_picture_needs_so_many_pixels_that_nothing_is_enlarged() -> None:
    assert EvalPrepare((224, 224)).short_side == 256
    assert TrainPrepare(none(), (224, 320), crop_fraction=1.0).short_side == 320
    assert EvalPrepare((224, 224), policy="squish").short_side == 224
    cropped = Augmentation(framing=Framing(crop_area=(0.08, 1.0)))
    assert TrainPrepare(cropped, (224, 224)).short_side == 305


def shares(matrix: np.ndarray, size: tuple[int, int], picture: tuple[int, int]) -> tuple[float, float]:
    """The share of the picture that a view shows, and its ratio of width to height."""
    shown = corners(matrix, size)
    width, height = shown.max(axis=0) - shown.min(axis=0)
    return width * height / (picture[0] * picture[1]), width / height


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_a_random_resized_crop_is_drawn_as_torchvision_draws_it(size: tuple[int, int]) -> None:
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    augmentation = Augmentation(random_crop=True, framing=Framing(crop_area=(0.08, 1.0)))
    prepare = TrainPrepare(augmentation, size)
    picture = (300, 400)
    seen = []
    for identity in range(1500):
        matrix = prepare.matrices(augmentation.draw_one(0, 0, identity), picture)
        seen.append(shares(matrix, size, picture))
        shown = corners(matrix, size)
        assert shown.min() > -0.5 - 1e-6
        assert (shown.max(axis=0) < (399.5 + 1e-6, 299.5 + 1e-6)).all()
    area, ratio = np.array(seen).T
    ratio = ratio / (size[1] / size[0])
    assert 0.08 <= area.min() < 0.1
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.77
    assert 1.3 < ratio.max() <= 4 / 3 + 1e-9
    if size[0] == size[1]:
        theirs = [
            RandomResizedCrop.get_params(torch.empty(3, *picture), (0.08, 1.0), (3 / 4, 4 / 3))[2:]
            for _ in range(1500)
        ]
        tall, wide = np.array(theirs).T
        assert ks_2samp(area, tall * wide / (300 * 400)).pvalue > 0.001
        assert ks_2samp(ratio, wide / tall).pvalue > 0.001
        assert ks_2samp(area, np.linspace(0.08, 1, 1500)).pvalue < 0.001  # large ones often do not fit


@pytest.mark.parametrize("picture", [(20, 2000), (2000, 20), (1, 1)])
def test_where_no_try_fits_the_largest_crop_that_does_is_taken(picture: tuple[int, int]) -> None:
    augmentation = Augmentation(framing=Framing(crop_area=(0.5, 1.0)))
    draws = augmentation.draw(0, 0, np.arange(50))
    height, width = crop_window(picture, (64, 64), draws.crop_area, draws.crop_ratio)
    assert (height <= picture[0] + 1e-9).all()
    assert (width <= picture[1] + 1e-9).all()
    assert (np.isclose(height, picture[0]) | np.isclose(width, picture[1])).all() or picture == (1, 1)
    assert (width / height >= 3 / 4 - 1e-9).all()
    assert (width / height <= 4 / 3 + 1e-9).all()


def test_matrices_of_many_pictures_are_those_of_each() -> None:
    heights, widths = np.array([256, 90, 300]), np.array([341, 120, 200])
    for augmentation in (*PRESETS, Augmentation(dihedral=True, framing=Framing(crop_area=(0.08, 1.0)))):
        for policy in ("crop", "squish", "pad"):
            prepare = TrainPrepare(augmentation, (64, 96), policy=policy)  # type: ignore[arg-type]
            together = prepare.matrices(augmentation.draw(0, 0, [0, 1, 2]), (heights, widths))
            for row, shape in enumerate(zip(heights.tolist(), widths.tolist(), strict=True)):
                alone = prepare.matrices(augmentation.draw_one(0, 0, row), shape)
                np.testing.assert_array_equal(alone, together[row])


def test_an_erased_box_is_of_the_area_drawn_and_of_the_view_s_mean_colour() -> None:
    augmentation = Augmentation(pixels=PixelSteps(max_erased=0.3, p=1))
    plain = TrainPrepare(none(), (64, 96))(PICTURE, 0, 0)
    mean = np.rint(plain.mean(axis=(0, 1)))
    for identity in range(30):
        view = TrainPrepare(augmentation, (64, 96))(PICTURE, identity, 0)
        box = (view == mean).all(axis=2) & (plain != view).any(axis=2)
        assert (view[~box] == plain[~box]).all()
        assert 0 < box.mean() < 0.33
