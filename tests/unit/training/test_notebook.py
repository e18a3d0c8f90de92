"""Training as a notebook shows it, with a page that is not there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

from headstart.training import Callback, NotebookTable, ProgressTable, constant, fit, loss_for, progress_for
from headstart.training.notebook import curve, in_notebook
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-2], "loss": loss_for(Task.SINGLE_LABEL), "schedule": constant()}


class Page:
    """A display, and what it showed."""

    def __init__(self) -> None:
        self.displays = 0
        self.pages: list[str] = []

    def show(self, shown) -> Page:
        self.displays += 1
        self.update(shown)
        return self

    def update(self, shown) -> None:
        self.pages.append(shown._repr_html_())
        self.plain = repr(shown)


def validation(*losses: float):
    remaining = iter(losses)
    return lambda: {"valid_loss": next(remaining), "accuracy": 0.875}


def shown(run, source, page: Page, *losses: float, callbacks=()) -> None:
    table = NotebookTable(show=page.show)
    fit(
        run,
        source,
        **OPTIONS,
        epochs=len(losses),
        validate=validation(*losses),
        callbacks=[table, *callbacks],
    )


def test_the_table_grows_in_one_display(make_run, make_source, monkeypatch) -> None:
    monkeypatch.setattr("headstart.training.notebook.REFRESH_SECONDS", 0.0)
    page = Page()
    shown(make_run(), make_source(), page, 0.5, 0.25)
    assert page.displays == 1
    rows = [text.count("<tr>") - 1 for text in page.pages]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, 2)
    for text in ("<th>train_loss</th>", "<td>0.5000</td>", "<td>0.2500</td>", "<td>0.8750</td>"):
        assert text in page.pages[-1]
    assert any("validating" in text for text in page.pages)
    assert any('<progress value="7" max="10">' in text for text in page.pages)
    assert "<progress" not in page.pages[-1]
    assert "valid_loss 0.2500" in page.plain


def test_the_curve_has_a_point_for_each_step_and_a_dot_for_each_epoch(make_run, make_source) -> None:
    page = Page()
    shown(make_run(), make_source(), page, 0.5, 0.25, 0.125)
    last = page.pages[-1]
    assert last.count("<circle") == 3
    train, valid = (part.split('"')[0].split() for part in last.split('points="')[1:])
    assert len(valid) == 3
    assert len(train) >= 15
    across = [float(point.split(",")[0]) for point in valid]
    down = [float(point.split(",")[1]) for point in valid]
    assert across == sorted(across)
    assert down == sorted(down), "a falling loss goes down the page"


def test_it_is_not_drawn_at_every_step(make_run, make_source, monkeypatch) -> None:
    monkeypatch.setattr("headstart.training.notebook.REFRESH_SECONDS", 3600.0)
    page = Page()
    shown(make_run(), make_source(), page, 0.5, 0.25)
    # Empty, then validating and a row for each epoch, and the end.
    assert len(page.pages) == 1 + 2 * 2 + 1


def test_why_training_stopped_is_said_and_names_are_escaped(make_run, make_source) -> None:
    class Stop(Callback):
        def after_step(self, run) -> None:
            run.stop_reason = "<enough>"

    page = Page()
    shown(make_run(), make_source(), page, 0.5, callbacks=[Stop()])
    assert "stopped: &lt;enough&gt;" in page.pages[-1]
    assert "<enough>" not in page.pages[-1]


def test_one_point_is_no_curve_and_equal_points_are_a_flat_one() -> None:
    assert curve([(0.0, 1.0)], []) == ""
    assert "nan" not in curve([(0.0, 1.0), (1.0, 1.0)], [(1.0, 1.0)])


def test_a_notebook_is_recognised_and_nothing_else(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert isinstance(progress_for("accuracy"), ProgressTable)
    module = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", module)
    for shell, notebook in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)):
        module.get_ipython = lambda shell=shell: shell
        assert in_notebook() == notebook
    assert isinstance(progress_for("accuracy"), NotebookTable)
