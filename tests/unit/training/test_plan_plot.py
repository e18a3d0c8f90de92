"""A plan as a picture."""

from __future__ import annotations

import pytest

from headstart.errors import UsageError
from headstart.training import Phase, Plan, cosine, linear, one_cycle, sgdr


def lines(axes) -> list[tuple[list[float], list[float]]]:
    found = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
    return [line for line in found if line[0]]


def test_the_rates_of_all_groups_that_train_are_drawn_over_the_epochs() -> None:
    plan = Plan((Phase("head", 2, one_cycle(), 1e-2), Phase("all", 3, sgdr(3), slice(1e-5, 1e-3), 0)))
    rates, momentum = plan.plot().axes
    drawn = lines(rates)
    assert len(drawn) == 1 + 3
    assert max(drawn[0][1]) == pytest.approx(1e-2)
    assert [max(y) for _, y in drawn[1:]] == pytest.approx([1e-5, 1e-4, 1e-3])
    assert (drawn[0][0][0], drawn[1][0][0], drawn[3][0][-1]) == pytest.approx((0, 2, 5))
    assert min(lines(momentum)[0][1]) == pytest.approx(0.85, abs=1e-4)
    assert set(lines(momentum)[1][1]) == {0.9}
    assert rates.get_yscale() == "log"
    assert [text.get_text() for text in rates.texts] == ["1. head", "2. all"]


def test_a_rate_that_is_still_to_be_found_is_dashed() -> None:
    figure = Plan((Phase("head", 1), Phase("all", 1, learning_rate=1e-3))).plot(found_rate=2e-3)
    styles = [line.get_linestyle() for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    assert styles == ["--", "-"]
    assert "0.002" in figure.axes[0].get_legend().get_texts()[-2].get_text()


def test_what_moves_beside_the_rates_gets_a_row_of_its_own() -> None:
    phase = Phase(
        "all", 4, cosine(), 1e-3, 0, (224, 224),
        weight_decay=0.1, weight_decay_schedule=cosine(),
        momentum=0.9, momentum_schedule=linear(1, 0.5), image_size_schedule=linear(0.5, 1),
    )  # fmt: skip
    figure = Plan((phase,)).plot()
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "learning rate",
        "momentum",
        "weight decay",
        "height (px)",
    ]
    assert min(lines(figure.axes[1])[0][1]) == pytest.approx(0.45)
    assert max(lines(figure.axes[2])[0][1]) == pytest.approx(0.1)
    assert [y[0] for _, y in lines(figure.axes[3])] == [128, 160, 192, 224]


def test_rates_for_other_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="2 learning rates for 3"):
        Plan((Phase("all", 1, learning_rate=(1e-3, 1e-2)),)).plot()
    with pytest.raises(UsageError, match="0 parameter groups"):
        Plan((Phase("all", 1),)).plot(groups=0)
