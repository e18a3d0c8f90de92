"""Presets: what they may do, how often, how far."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.augment import (
    PRESETS,
    Augmentation,
    Color,
    Draws,
    Framing,
    PixelSteps,
    Slot,
    describe,
    from_course,
    none,
    preset,
    side_on,
    top_down,
    trivial,
)
from headstart.augment.draws import CROP_TRIES, SLOTS, Tone
from headstart.augment.trivial import OPERATIONS
from headstart.errors import ConfigError, UsageError

IDS = np.arange(20_000, dtype=np.uint64)
EVERYTHING = Augmentation(
    flip_horizontal=True,
    max_rotate=10,
    max_zoom=1.5,
    max_warp=0.2,
    max_lighting=0.2,
    random_crop=True,
    framing=Framing(max_squish=1.3, max_translate=0.2, max_tilt=0.2, crop_area=(0.08, 1.0)),
    color=Color(max_saturation=0.3, max_hue=20, min_bits=3, min_threshold=100),
    pixels=PixelSteps(max_blur=2, max_sharpness=0.8, max_erased=0.3),
)


def test_side_on_draws_within_the_course_s_ranges_and_as_often() -> None:
    draws = side_on().draw(0, 0, IDS)
    assert abs(draws.flip.mean() - 0.5) < 0.02
    assert not draws.dihedral.any()
    for values, reach in (
        (draws.rotate, 10.0),
        (draws.warp_horizontal, 0.2),
        (draws.warp_vertical, 0.2),
        (draws.brightness, 0.2),
    ):
        assert abs((values != 0).mean() - 0.75) < 0.02
        assert 0.98 * reach < np.abs(values).max() <= reach
        assert abs(values.mean()) < 0.02 * reach
    assert abs((draws.zoom != 1).mean() - 0.75) < 0.02
    assert draws.zoom.min() >= 1
    assert 1.098 < draws.zoom.max() <= 1.1
    contrast = np.exp(draws.contrast)
    assert 0.8 <= contrast.min() < 0.802
    assert 1.248 < contrast.max() <= 1.25
    for place in (draws.right, draws.down):
        assert -1 <= place.min() < -0.99
        assert 0.99 < place.max() <= 1


def test_top_down_has_all_eight_symmetries_equally_often() -> None:
    counts = np.bincount(top_down().draw(0, 0, IDS).dihedral, minlength=8)
    assert len(counts) == 8
    assert abs(counts - 2500).max() < 6 * np.sqrt(2500)


def test_draws_for_different_things_are_unrelated() -> None:
    draws = side_on(p_affine=1, p_lighting=1).draw(0, 0, IDS)
    columns = [
        *(draws.flip, draws.rotate, draws.zoom, draws.warp_horizontal, draws.warp_vertical),
        *(draws.right, draws.down, draws.brightness, draws.contrast),
    ]
    relation = np.corrcoef(np.array(columns, np.float64)) - np.eye(len(columns))
    assert np.abs(relation).max() < 0.03


def test_none_does_nothing() -> None:
    draws = none().draw(3, 4, IDS[:50])
    np.testing.assert_array_equal(none().geometry(draws), np.tile(np.eye(3), (50, 1, 1)))
    assert none().curves(draws) is None
    assert not draws.right.any()
    assert not draws.down.any()


def test_a_preset_without_probability_does_nothing_but_flip_and_crop() -> None:
    still = side_on(p_affine=0, p_lighting=0)
    draws = still.draw(0, 0, IDS[:100])
    assert set(np.abs(still.geometry(draws) - np.eye(3)).max(axis=(1, 2)).tolist()) == {0.0, 2.0}
    curves = still.curves(draws)
    assert curves is not None
    assert (curves == np.arange(256)).all()


@settings(max_examples=40)
@given(
    st.builds(
        Augmentation,
        flip_horizontal=st.booleans(),
        dihedral=st.booleans(),
        max_rotate=st.floats(0, 180),
        max_zoom=st.floats(1, 10),
        max_warp=st.floats(0, 0.5),
        max_lighting=st.floats(0, 0.9),
        p_affine=st.floats(0, 1),
        p_lighting=st.floats(0, 1),
        random_crop=st.booleans(),
        padding=st.sampled_from(["reflect", "zeros", "edge"]),
    )
)
def test_an_augmentation_survives_being_written_down(augmentation: Augmentation) -> None:
    assert Augmentation.from_dict(augmentation.to_dict()) == augmentation


def test_unknown_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_spin"):
        Augmentation.from_dict({"max_spin": 3})
    for name, value in {
        "max_zoom": 0.9,
        "max_rotate": -1,
        "max_warp": 0.6,
        "max_lighting": 1.0,
        "p_affine": 1.5,
        "padding": "wrap",
    }.items():
        with pytest.raises(UsageError, match=str(value)):
            Augmentation(**{name: value})  # type: ignore[arg-type]


def test_the_presets_are_known_by_name() -> None:
    assert {name: make() for name, make in PRESETS.items()} == {
        "side-on": side_on(),
        "top-down": top_down(),
        "none": none(),
        "trivial": trivial(),
        "course-0.7": from_course("0.7"),
        "course-1": from_course("1"),
        "course-2": from_course("2"),
    }
    assert preset("side-on", max_zoom=1.3) == side_on(max_zoom=1.3)
    assert preset("course-0.7", max_zoom=1.3) == from_course("0.7", max_zoom=1.3)
    assert preset("trivial", max_zoom=1.3) == trivial()
    with pytest.raises(UsageError, match="sideways"):
        preset("sideways")


def test_the_course_s_generations_have_their_own_defaults() -> None:
    # The numbers are those of the libraries' published packages.
    first = from_course("0.7").draw(0, 0, IDS)
    assert abs((first.rotate != 0).mean() - 0.75) < 0.02
    assert np.abs(first.rotate).max() <= 10
    assert (first.zoom == 1).all()
    assert (first.tone == Tone.AROUND_MEAN).all()
    assert 0.98 * 12.75 < np.abs(first.tone_added).max() <= 12.75
    assert 1 / 1.05 <= first.tone_factor.min() < 0.955
    assert 1.049 < first.tone_factor.max() <= 1.05
    assert (from_course("0.7", max_zoom=1.1).draw(0, 0, IDS).zoom > 1).mean() == pytest.approx(0.75, abs=0.02)
    assert from_course("0.7", flip_vertical=True).dihedral
    assert from_course("1") == from_course("2") == side_on()
    assert from_course("1", flip_vertical=True) == top_down(max_warp=0.2)
    doubled = from_course("2", mult=2, min_scale=0.5)
    assert (doubled.max_rotate, doubled.max_warp, doubled.max_lighting) == (20, 0.4, 0.4)
    assert doubled.framing.crop_area == (0.5, 1.0)
    for wrong in ({"generation": "3"}, {"generation": "1", "mult": 2.0}):
        with pytest.raises(UsageError):
            from_course(**wrong)  # type: ignore[arg-type]


def test_trivial_draws_each_of_fourteen_changes_equally_often_and_one_at_a_time() -> None:
    draws = trivial().draw(0, 0, IDS)
    changed = {
        "rotate": draws.rotate != 0,
        "solarise": draws.threshold != 256,
        "saturation": draws.saturation != 1,
        "posterise": draws.bits != 8,
        "brightness": draws.gain != 1,
        "sharpness": draws.sharpness != 0,
        "shear right": draws.shear_right != 0,
        "shear down": draws.shear_down != 0,
        "translate right": draws.shift_right != 0,
        "translate down": draws.shift_down != 0,
        **{tone.name: draws.tone == tone for tone in Tone if tone is not Tone.NONE},
    }
    assert len(changed) == len(OPERATIONS) - 1
    assert np.sum(list(changed.values()), axis=0).max() == 1
    for name, rows in changed.items():
        # The strength 0, one of 31, changes nothing; posterising rounds three of them away.
        expected = (28 if name == "posterise" else 31 if name in Tone.__members__ else 30) / 31 / 14
        assert abs(rows.mean() - expected) < 0.007, name
    assert np.abs(draws.rotate).max() == 135
    assert draws.threshold.min() == 0
    assert draws.bits.min() == 2
    assert abs(draws.shift_right).max() == pytest.approx(2 * 32 / 224)
    assert draws.gain.min() == pytest.approx(0.01)
    assert draws.gain.max() == pytest.approx(1.99)


@pytest.mark.parametrize(
    "augmentation", [side_on(), top_down(), trivial(), from_course("0.7"), EVERYTHING], ids=describe
)
def test_one_sample_s_draws_are_those_of_the_batch_bit_for_bit(augmentation: Augmentation) -> None:
    ids = np.arange(200, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    together = augmentation.draw(-3, 2**40, ids)
    for row, identity in enumerate(ids):
        alone = augmentation.draw_one(-3, 2**40, int(identity))
        for field in dataclasses.fields(Draws):
            one, many = getattr(alone, field.name), getattr(together, field.name)
            if many is None:
                assert one is None
            else:
                assert np.asarray(one, many.dtype).tobytes() == many[row].tobytes(), field.name
        np.testing.assert_array_equal(augmentation.geometry(alone), augmentation.geometry(together)[row])


def test_draws_are_those_of_earlier_versions() -> None:
    # Slots keep their numbers: these were drawn before most of them had one.
    draws = side_on().draw(3, 5, np.arange(4000) * 977)
    columns = (
        *(draws.flip, draws.dihedral, draws.rotate, draws.zoom, draws.warp_horizontal),
        *(draws.warp_vertical, draws.right, draws.down, draws.brightness, draws.contrast),
    )
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    assert digest.hexdigest().startswith("9b0b637c82ad")


def test_parts_survive_being_written_down_and_refuse_what_cannot_be() -> None:
    plain = json.loads(json.dumps(EVERYTHING.to_dict()))
    assert Augmentation.from_dict(plain) == EVERYTHING
    with pytest.raises(ConfigError, match="max_spin"):
        Augmentation.from_dict({"framing": {"max_spin": 3}})
    impossible: list[tuple[type, str, object]] = [
        (Framing, "max_squish", 0.5),
        (Framing, "max_tilt", 0.6),
        (Framing, "crop_area", (0.0, 1.0)),
        (Framing, "crop_ratio", (2.0, 1.0)),
        (Color, "max_saturation", 1.0),
        (Color, "min_bits", 0),
        (PixelSteps, "max_blur", -1),
        (PixelSteps, "max_erased", float("nan")),
        (Augmentation, "light", "candle"),
    ]
    for kind, name, value in impossible:
        with pytest.raises(UsageError, match=name):
            kind(**{name: value})
    with pytest.raises(UsageError, match="trivial"):
        Augmentation(trivial=True, max_rotate=3)


def test_what_an_augmentation_does_is_said_in_words() -> None:
    assert describe(none()) == "none: each epoch sees the same pictures"
    assert describe(side_on()).startswith("mirrors left and right, rotates up to 10°")
    assert len(describe(EVERYTHING).split(", ")) == 16


def test_no_two_draws_share_a_slot() -> None:
    taken = [*range(Slot.TILT, Slot.TILT + 8), *range(Slot.CROP_AREA, Slot.CROP_AREA + CROP_TRIES)]
    taken += range(Slot.CROP_RATIO, Slot.CROP_RATIO + CROP_TRIES)
    taken += [slot for slot in Slot if slot not in (Slot.TILT, Slot.CROP_AREA, Slot.CROP_RATIO)]
    assert sorted(taken) == list(range(SLOTS))
