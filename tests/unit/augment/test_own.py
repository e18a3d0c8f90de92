"""A change of one's own: how it is called, what it may give, and what its errors say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headstart.augment import Augmentation, Own, TrainPrepare, none, side_on
from headstart.errors import ConfigError, DataError, UsageError
from headstart.types import Pixels

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
SIZE = (24, 32)


def inverted(image: Pixels) -> Pixels:
    image[:] = 255 - image  # a copy of one's own may be written to
    return image


def prepared(own: Own | None, augmentation: Augmentation | None = None) -> Pixels:
    chosen = dataclasses.replace(augmentation or none(), before=own)
    return TrainPrepare(chosen, SIZE)(PICTURE, 1, 2)


def test_it_comes_before_the_warp_and_leaves_the_picture_itself_alone() -> None:
    before = PICTURE.copy()
    got = prepared(Own(inverted, "inverted"), side_on())
    np.testing.assert_array_equal(PICTURE, before)
    expected = TrainPrepare(side_on(), SIZE)(255 - PICTURE, 1, 2)
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, prepared(None, side_on()))


def test_it_may_change_the_size() -> None:
    assert prepared(Own(lambda image: image[::2, ::2], "half")).shape == (*SIZE, 3)


def test_albumentations_and_torchvision_are_called_their_own_way() -> None:
    from torchvision.transforms import v2

    def in_keywords(*, image: Pixels) -> dict[str, Pixels]:
        return {"image": inverted(image)}

    expected = prepared(Own(inverted, "a"))
    np.testing.assert_array_equal(prepared(Own(in_keywords, "b", "albumentations")), expected)
    np.testing.assert_array_equal(prepared(Own(v2.RandomInvert(p=1.0), "c", "torchvision")), expected)


def test_a_seeded_change_is_a_pure_function_of_seed_epoch_and_sample() -> None:
    def noisy(image: Pixels, generator: np.random.Generator) -> Pixels:
        return generator.integers(0, 256, image.shape, dtype=np.uint8)

    prepare = TrainPrepare(dataclasses.replace(none(), before=Own(noisy, "noise", "seeded")), SIZE)
    first = prepare(PICTURE, 1, 2)
    np.testing.assert_array_equal(prepare(PICTURE, 1, 2), first)
    others = [
        prepare(PICTURE, 2, 2),
        prepare(PICTURE, 1, 3),
        dataclasses.replace(prepare, seed=1)(PICTURE, 1, 2),
    ]
    assert all(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image / 0.0 if image is None else 1 // 0, "ZeroDivisionError"),
        (lambda image: image.astype(np.float32) / 255, "float32"),
        (lambda image: image[..., 0], "uint8 (40, 60)"),
        (lambda image: None, "NoneType"),
        (lambda image: image[:0], "uint8 (0, 60, 3)"),
    ],
)
def test_what_fails_is_a_data_error_that_names_the_change(change: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        prepared(Own(change, "mine 3"))  # type: ignore[arg-type]
    assert "mine 3" in caught.value.message
    assert said in caught.value.message
    assert caught.value.code == "OWN_CHANGE"
    assert caught.value.hint


def test_its_key_is_part_of_the_key_and_it_needs_one() -> None:
    keys = {
        TrainPrepare(dataclasses.replace(none(), before=own), SIZE).key
        for own in (None, Own(inverted, "a"), Own(inverted, "b"), Own(np.copy, "a"))
    }
    assert len(keys) == 3  # the key says what the change is, not the callable
    with pytest.raises(UsageError, match="key"):
        Own(inverted, "")
    with pytest.raises(UsageError, match="keras"):
        Own(inverted, "a", "keras")  # type: ignore[arg-type]


def test_it_is_handed_in_again_to_what_was_written_down() -> None:
    own = Own(inverted, "a")
    made = dataclasses.replace(side_on(), before=own)
    assert made.to_dict()["before"] == "a"
    assert Augmentation.from_dict(made.to_dict(), before=own) == made
    for given in (None, Own(inverted, "b")):
        with pytest.raises(ConfigError, match="'a'"):
            Augmentation.from_dict(made.to_dict(), before=given)
