from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation import Interval, Point, best_for_their_cost, plot_tradeoff


def point(name: str, cost: float, value: float) -> Point:
    return Point(name, cost, Interval(value, value - 0.02, value + 0.01))


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=12))
def test_nothing_cheaper_reaches_what_is_best_for_its_cost(figures: list[tuple[float, float]]) -> None:
    points = [point(str(number), *figure) for number, figure in enumerate(figures)]
    front = best_for_their_cost(points)
    for each in points:
        beaten = any(
            other is not each and other.cost <= each.cost and other.value.value >= each.value.value
            for other in points
        )
        assert each in front or beaten
    costs = [each.cost for each in front]
    assert costs == sorted(costs)
    assert max(each.value.value for each in points) == front[-1].value.value


def test_every_body_is_drawn_by_its_name() -> None:
    figure = plot_tradeoff([point("small", 2, 0.8), point("large", 30, 0.9), point("slow", 50, 0.85)])
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["large", "slow", "small"]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]
    assert axes.get_xscale() == "log"
    stream = io.BytesIO()
    figure.savefig(stream)
    assert stream.tell() > 1000
