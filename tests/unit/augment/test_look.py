"""What is drawn, to look at and in words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from headstart import augment
from headstart.augment import Own, TrainPrepare, explain, none, side_on, trivial
from headstart.errors import UsageError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_one_picture_is_shown_with_many_draws() -> None:
    figure = augment.show(PICTURE, side_on(), 5, image_size=(32, 48), seed=3)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 6
    assert shown[0].shape == (32, 48, 3)
    prepare = TrainPrepare(side_on(), (32, 48), 3)
    np.testing.assert_array_equal(shown[2], prepare(PICTURE, 0, 1))
    assert figure.axes[0].get_title() == "evaluation"
    grey = Image.fromarray(PICTURE).convert("L")
    assert len(augment.show(grey, none(), 1, image_size=32).axes) == 2


@pytest.mark.parametrize("wrong", ["cat.jpg", np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_picture_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="picture"):
        augment.show(wrong, none())
    with pytest.raises(UsageError, match="0 draws"):
        augment.show(PICTURE, none(), 0)


def test_a_sample_s_way_is_told_step_by_step() -> None:
    prepare = TrainPrepare(side_on(), (32, 32), 1)
    told = {epoch: "\n".join(explain(prepare, (400, 600), 7, epoch)) for epoch in range(40)}
    assert all("smoothed by" in text for text in told.values())
    draws = {epoch: side_on().draw_one(1, epoch, 7) for epoch in told}
    for epoch, text in told.items():
        assert ("mirrored" in text) == bool(draws[epoch].flip)
        assert (f"turned by {draws[epoch].rotate:+.1f}°" in text) == bool(draws[epoch].rotate)
        assert (f"enlarged by {draws[epoch].zoom:.3f}" in text) == (draws[epoch].zoom != 1)
    matrix = prepare.matrices(draws[0], (400, 600))
    assert f"{matrix[0, 0]:10.5g}" in told[0]


def test_every_change_of_trivial_augment_has_its_words() -> None:
    prepare = TrainPrepare(trivial(flip_horizontal=False), (32, 32))
    lines = [explain(prepare, (40, 60), 7, epoch) for epoch in range(200)]
    drawn = {line for text in lines for line in text if line.startswith("drawn")}
    for word in (
        "slanted",
        "moved",
        "saturation",
        "posterised",
        "inverted",
        "sharpness",
        "around",
        "equally",
    ):
        assert any(word in line for line in drawn), word
    steps = {line for text in lines for line in text if line.startswith("steps")}
    assert steps == {"steps    tone", "steps    sharpness"}
    own = TrainPrepare(dataclasses.replace(none(), before=Own(np.copy, "mine 3")), (32, 32))
    assert any("mine 3" in line for line in explain(own, (40, 60), 0, 0))
