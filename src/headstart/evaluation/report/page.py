"""The page itself: the template, filled with the sections of a run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from headstart.evaluation.report import wording
from headstart.evaluation.report.folder import RunFolder, read_run
from headstart.evaluation.report.sections import sections
from headstart.storage import write_atomic


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what is in the folder, and return its path.

    Sections whose files are missing are left out. Raises `InputMissingError` without
    `summary.json`, `ConfigError` for files that are not what a run writes, `OutputError` or
    `StorageError` when the report cannot be written.
    """
    run = read_run(Path(run_folder))
    page = render(run)
    target = run.path / "report.html"
    # A lone surrogate is spelled out by the wording; one that is left must not break the page.
    write_atomic(target, page.encode("utf-8", errors="backslashreplace"))
    return target


def render(run: RunFolder) -> str:
    """Return the report as HTML: a pure function of the run."""
    return fill("report.html.jinja", sections(run))


def fill(template: str, content: Mapping[str, Any]) -> str:
    """Return a template of this folder filled with content; all text in it is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_source),
    )
    environment.filters |= {
        "percent": wording.percent,
        "number": wording.number,
        "count": wording.count,
        "duration": wording.duration,
        "visible": wording.visible,
    }
    return environment.get_template(template).render(**content)


def _source(name: str) -> str:
    return resources.files("headstart.evaluation.report").joinpath(name).read_text("utf-8")
