"""None of these: strange pictures are turned away, known ones at the stated rate."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Novelty, Predictions, fit_novelty


def known(count: int, *, seed: int, width: int = 60) -> NDArray[np.float64]:
    """Features that differ in five directions, and a little in all."""
    directions = np.abs(np.random.default_rng(99).normal(size=(5, width)))
    random = np.random.default_rng(seed)
    return random.gamma(2.0, size=(count, 5)) @ directions + 0.2 * np.abs(random.normal(size=(count, width)))


def strange(count: int, *, seed: int, width: int = 60) -> NDArray[np.float64]:
    return np.abs(np.random.default_rng(seed).normal(size=(count, width))) * 4


def test_strange_pictures_are_turned_away_and_known_ones_at_the_stated_rate() -> None:
    found = fit_novelty(known(300, seed=0), known(200, seed=1), blocks=2)
    assert found is not None
    assert found.turned_away.low <= 0.05 <= found.turned_away.high
    rates = [float((found.novelty.strangeness(known(500, seed=s)) > 1).mean()) for s in range(5, 9)]
    assert np.mean(rates) == pytest.approx(0.05, abs=0.03)
    assert (found.novelty.strangeness(strange(100, seed=2)) > 1).mean() > 0.95
    # The control: asked about more of the same, it does not turn away so many.
    assert (found.novelty.strangeness(known(100, seed=3)) > 1).mean() < 0.2


def test_over_many_fits_the_rate_is_the_one_that_was_asked_for() -> None:
    shares = []
    for seed in range(40):
        found = fit_novelty(known(120, seed=seed), known(99, seed=100 + seed), rate=0.1)
        assert found is not None
        shares.append((found.novelty.strangeness(known(300, seed=200 + seed)) > 1).mean())
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)


def test_brighter_features_are_no_stranger() -> None:
    found = fit_novelty(known(200, seed=0), known(100, seed=1), blocks=2)
    assert found is not None
    rows = known(20, seed=3)
    assert found.novelty.distances(3.0 * rows) == pytest.approx(found.novelty.distances(rows), rel=1e-4)


def test_too_few_pictures_decide_nothing() -> None:
    assert fit_novelty(known(100, seed=0), known(39, seed=1)) is None
    assert fit_novelty(known(2, seed=0), known(60, seed=1)) is None
    assert fit_novelty(np.ones((50, 8)), np.ones((50, 8))) is None


def test_it_comes_back_from_its_arrays_as_it_went() -> None:
    found = fit_novelty(known(100, seed=0), known(60, seed=1), blocks=2)
    assert found is not None
    novelty = found.novelty
    again = Novelty.from_arrays(novelty.to_arrays(), limit=novelty.limit, rate=novelty.rate)
    assert again.strangeness(known(9, seed=4)).tolist() == novelty.strangeness(known(9, seed=4)).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros(3, np.float32)},
        {"axes": np.zeros((60, 2, 1), np.float32)},
        {"scale": np.full(60, np.nan, np.float32)},
        {"mean": np.zeros(60, np.float64)},
        {"blocks": np.array([7], np.int64)},
        {"more": np.zeros(1, np.float32)},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes: dict[str, NDArray[np.float32]]) -> None:
    found = fit_novelty(known(100, seed=0), known(60, seed=1))
    assert found is not None
    with pytest.raises(UsageError):
        Novelty.from_arrays(found.novelty.to_arrays() | changes, limit=1.0, rate=0.05)


def test_features_that_do_not_match_are_refused() -> None:
    with pytest.raises(UsageError, match="do not match"):
        fit_novelty(known(100, seed=0), known(60, seed=1, width=40))
    with pytest.raises(UsageError, match="not finite"):
        fit_novelty(np.full((50, 4), np.nan), np.ones((50, 4)))
    found = fit_novelty(known(100, seed=0), known(60, seed=1))
    assert found is not None
    with pytest.raises(UsageError, match="40 features"):
        found.novelty.distances(known(3, seed=0, width=40))


def test_a_table_says_which_pictures_are_none_of_its_classes_in_its_csv_too(tmp_path: object) -> None:
    from pathlib import Path

    table = Predictions(
        [[2.0, 0.0], [0.0, 1.0], [np.nan, np.nan]],
        ("cat", "dog"),
        paths=("a", "b", "c"),
        status=np.array(["", "", "TRUNCATED"]),
        sets=np.array([[True, False], [True, True], [False, False]]),
        strangeness=np.array([0.4, 1.7, np.nan]),
    )
    assert table.none_of_these.tolist() == [False, True, False]
    file = Path(str(tmp_path)) / "t.csv"
    table.to_csv(file)
    again = Predictions.from_csv(file)
    assert again.classes == ("cat", "dog")
    assert again.none_of_these.tolist() == [False, True, False]
    assert again.sets is not None
    assert again.sets.tolist() == [[True, False], [True, True], [False, False]]
    assert file.read_text().splitlines()[1].split(",")[5:8] == ["no", "0.4", '"[""cat""]"']
    assert table.take([1]).strangeness.tolist() == [1.7]  # type: ignore[union-attr]
    assert list(table.to_frame()["none_of_these"]) == ["no", "yes", ""]
