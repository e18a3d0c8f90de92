"""What every view policy keeps: it is fixed, starts with the plain view, and mirrors only where it may."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.augment import POLICIES, EvalPrepare, mirrors, policy_views
from headstart.augment.policies import Symmetries
from headstart.augment.warp import Policy
from headstart.errors import UsageError

SIZES = ((48, 48), (40, 64))
SYMMETRIES = get_args(Symmetries)


def picture(height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    """A smooth picture that no symmetry leaves as it is."""
    y, x = np.mgrid[0:height, 0:width] / 30.0
    waves = [np.sin(x * (c + 1) + 0.7 * y) + 0.6 * np.sin(1.9 * y + c) + x / 6 for c in range(3)]
    return np.clip(90 + 45 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def allowed(name: str, symmetries: Symmetries) -> bool:
    return not (POLICIES[name].mirrors and symmetries == "plain")


CASES = [(name, each) for name in POLICIES for each in SYMMETRIES if allowed(name, each)]


def test_the_policies_are_those_that_are_promised() -> None:
    assert list(POLICIES) == ["flip", "multi-scale", "course-2017", "course-2018", "course-2020"]
    assert all(policy.words for policy in POLICIES.values())


@pytest.mark.parametrize(("name", "symmetries"), CASES)
@pytest.mark.parametrize("size", SIZES)
def test_the_plain_view_comes_first_and_the_weights_add_up_to_one(
    name: str, symmetries: Symmetries, size: tuple[int, int]
) -> None:
    plain = EvalPrepare(size)
    found = policy_views(name, plain, symmetries)
    assert found.views[0] == plain
    assert len(found.views) == len(found.weights) > 1
    assert sum(found.weights) == pytest.approx(1.0)
    assert min(found.weights) > 0
    assert all(view.size == size for view in found.views)


@pytest.mark.parametrize(("name", "symmetries"), CASES)
@pytest.mark.parametrize("policy", get_args(Policy))
def test_a_view_is_the_same_each_time_whichever_the_sample_and_the_epoch(
    name: str, symmetries: Symmetries, policy: Policy
) -> None:
    image = picture()
    found = policy_views(name, EvalPrepare((40, 64), policy), symmetries)
    again = policy_views(name, EvalPrepare((40, 64), policy), symmetries)
    for view, other in zip(found.views, again.views, strict=True):
        seen = view(image, 0, 0)
        assert seen.shape == (40, 64, 3)
        assert seen.dtype == np.uint8
        assert np.array_equal(seen, other(image, 7, 3))
        assert view.key == other.key


@pytest.mark.parametrize(("name", "symmetries"), CASES)
def test_views_differ_from_one_another_and_so_do_their_keys(name: str, symmetries: Symmetries) -> None:
    found = policy_views(name, EvalPrepare((48, 48)), symmetries)
    seen = [view(picture(), 0, 0).tobytes() for view in found.views]
    assert len(set(seen)) == len(seen)
    assert len({view.key for view in found.views}) == len(seen)


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if not policy.mirrors])
def test_no_view_is_mirrored_where_mirroring_may_change_the_label(name: str) -> None:
    image = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (150, 200, 3))
    bright = [
        [
            float(view(np.ascontiguousarray(image), 0, 0)[:, half].mean())
            for half in (slice(0, 20), slice(28, 48))
        ]
        for view in policy_views(name, EvalPrepare((48, 48)), "plain").views
    ]
    assert all(left < right for left, right in bright)
    assert not mirrors(name, "plain")
    # The control: where it may be mirrored, some view is, as this picture shows.
    turned = [
        view(np.ascontiguousarray(image), 0, 0)
        for view in policy_views(name, EvalPrepare((48, 48)), "flips").views
    ]
    reversed_ones = [view for view in turned if view[:, :20].mean() > view[:, 28:].mean()]
    assert bool(reversed_ones) == mirrors(name, "flips")


def test_a_policy_of_mirror_images_is_refused_where_mirroring_may_change_the_label() -> None:
    with pytest.raises(UsageError, match="never mirrored"):
        policy_views("flip", EvalPrepare((48, 48)), "plain")


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no view policy 'flips'") as caught:
        policy_views("flips", EvalPrepare((48, 48)), "flips")
    assert "course-2018" in caught.value.hint


def test_the_weights_are_those_of_the_course() -> None:
    plain = EvalPrepare((48, 48))
    assert policy_views("course-2017", plain, "flips").weights == pytest.approx([0.2] * 5)
    assert policy_views("course-2018", plain, "flips").weights == pytest.approx([0.4] + [0.6 / 8] * 8)
    assert policy_views("course-2020", plain, "flips").weights == pytest.approx([0.25] + [0.75 / 4] * 4)
    assert policy_views("flip", plain, "flips").weights == pytest.approx([0.5] * 2)
    assert policy_views("flip", plain, "dihedral").weights == pytest.approx([0.125] * 8)


def test_the_corners_of_2018_are_the_corners_of_the_picture() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:20, :20, 0], image[:20, -20:, 1], image[-20:, :20, 2] = 255, 255, 255
    image[-20:, -20:] = 255
    corners = policy_views("course-2018", EvalPrepare((50, 50)), "plain").views[1:]
    seen = [view(image, 0, 0) for view in corners]
    assert [tuple(view[2, 2] > 200) for view in seen[:1]] == [(True, False, False)]
    assert tuple(seen[1][2, -3] > 200) == (False, True, False)
    assert tuple(seen[2][-3, 2] > 200) == (False, False, True)
    assert tuple(seen[3][-3, -3] > 200) == (True, True, True)
    # At a zoom of 1.35 a view shows 74 of 100 pixels: the opposite corner is not in it.
    assert not (seen[0][-3:, -3:] > 200).any()
