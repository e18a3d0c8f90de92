"""Figures: drawn without a display, a warning, or a trace in pyplot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from headstart.evaluation import (
    ReliabilityBin,
    plot_confusion_matrix,
    plot_losses,
    plot_lr_find,
    plot_reliability,
    plot_schedule,
    show_pictures,
)

RATES = np.geomspace(1e-7, 10, 50).tolist()
LOSSES = (2 - np.linspace(0, 1, 50) + np.r_[np.zeros(40), np.arange(10) ** 3]).tolist()
HISTORY = [
    {"step": 3, "train_loss": 1.0, "valid_loss": 0.9, "accuracy": 0.7},
    {"step": 3, "train_loss": 0.8, "valid_loss": None, "accuracy": None},
    {"step": 4, "train_loss": 0.7, "valid_loss": 0.6, "accuracy": 0.9},
]
NAMES = ("<script>", "=1+1", "costs $5 and $6", "two\nlines", "花 🌻", "ורד")

FIGURES: dict[str, Callable[[], Figure]] = {
    "finder": lambda: plot_lr_find(RATES, LOSSES, LOSSES, {"valley": 1e-3, "slide": None}, chosen=1e-3),
    "finder without suggestions": lambda: plot_lr_find(RATES, LOSSES),
    "finder that found nothing finite": lambda: plot_lr_find(RATES[:2], [float("nan")] * 2),
    "losses": lambda: plot_losses(HISTORY),
    "losses of no epoch": lambda: plot_losses([]),
    "schedule": lambda: plot_schedule(np.linspace(1, 0, 20)),
    "schedule of groups": lambda: plot_schedule(np.ones((20, 3)), momenta=[0.9] * 20),
    "confusion matrix": lambda: plot_confusion_matrix(np.eye(6, dtype=int) * 9, NAMES),
    "confusion matrix of shares": lambda: plot_confusion_matrix(np.eye(3), "abc"),
    "confusion matrix of many": lambda: plot_confusion_matrix(np.eye(70, dtype=int), ["x"] * 70),
    "confusion matrix of nothing": lambda: plot_confusion_matrix(np.zeros((2, 2), int), "ab"),
    "reliability": lambda: plot_reliability([ReliabilityBin(9, 0.8, 0.7, 0.4, 0.9)]),
    "pictures": lambda: show_pictures([np.zeros((9, 7, 3), np.uint8)] * 4, NAMES[:4], title="$"),
    "no pictures": lambda: show_pictures([]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name: str) -> None:
    figure = FIGURES[name]()
    png = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    assert len(png) > 1000


def test_the_finder_shows_the_descent_and_not_the_explosion() -> None:
    low, high = plot_lr_find(RATES, LOSSES).axes[0].get_ylim()
    assert low < min(LOSSES)
    assert 2.0 < high < 3.0 < max(LOSSES)


def test_suggestions_are_named_with_their_rates() -> None:
    legend = FIGURES["finder"]().axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert "valley: 0.001" in texts
    assert not any("slide" in text for text in texts)


def test_a_step_begins_where_a_line_is_drawn() -> None:
    axes = plot_losses(HISTORY).axes[0]
    upright = [line for line in axes.get_lines() if len(set(np.ravel(line.get_xdata()))) == 1]
    assert [float(np.ravel(line.get_xdata())[0]) for line in upright] == [2.5]


def test_plotting_does_not_touch_pyplot() -> None:
    code = (
        "import sys, numpy as np\n"
        "from headstart.evaluation import plot_schedule\n"
        "plot_schedule(np.ones(5)).canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
