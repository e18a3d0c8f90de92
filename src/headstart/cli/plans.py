"""`headstart plan`: what a plan says, training by it, and a changed one."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.errors import ConfigError, HeadstartError, OutputError, UsageError
from headstart.storage import write_atomic

if TYPE_CHECKING:
    from headstart.training import Plan

PlanPath = Annotated[
    Path | None,
    typer.Argument(metavar="PLAN", help="A plan (YAML), or the folder of a run. Default: the eight steps."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file to be written.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def add_plan_commands(app: typer.Typer, train: Callable[..., int]) -> None:
    """Give `app` the commands `plan show`, `plan run` (which is `train`) and `plan edit`."""
    plans = typer.Typer(help="Show, follow and change plans of training.", rich_markup_mode=None)
    plans.command("show")(show)
    plans.command("run")(_with_plan_first(train))
    plans.command("edit")(edit)
    app.add_typer(plans, name="plan")


def _with_plan_first(train: Callable[..., int]) -> Callable[..., int]:
    """Return `train` with the plan as its first argument in place of the option.

    What a plan says itself, cycles and sizes, is no option of it.
    """

    def run(**given: Any) -> int:
        return train(cycles=None, sizes=None, **given)

    signature = inspect.signature(train)
    argument = typer.Argument(metavar="PLAN", help="A plan (YAML), or the folder of a run.")
    plan = inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path, argument])
    own = ("plan", "cycles", "sizes")
    others = [parameter for name, parameter in signature.parameters.items() if name not in own]
    functools.update_wrapper(run, train, assigned=("__module__",))
    del run.__wrapped__  # type: ignore[attr-defined]  # the options are those of the signature below
    run.__doc__ = "Train by a plan of one's own: the options are those of train."
    run.__signature__ = signature.replace(parameters=[plan, *others])  # type: ignore[attr-defined]
    return run


def _plan(path: Path | None) -> Plan:
    from headstart.recipe import make_plan

    return make_plan(path)


def show(
    plan: PlanPath = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw rates, momentum and sizes over the epochs to this PNG or SVG.")
    ] = None,
    groups: Annotated[int, typer.Option(min=1, max=100, help="Parameter groups in the picture.")] = 3,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the plan as YAML, to edit and run.")] = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Print a plan as a table, as YAML or as JSON, and draw it."""
    chosen = _plan(plan)
    if plot is not None:
        _refuse_existing(plot, force)
        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UsageError(f"--plot {plot}: no picture can be written by that name", "name it .png or .svg")
        chosen.plot(groups=groups).savefig(plot, dpi=110)
    if as_json:
        print(json.dumps({**chosen.to_plain(), "total_epochs": chosen.total_epochs()}, allow_nan=False))
    else:
        print(chosen.to_yaml() if yaml else chosen, end="" if yaml else "\n")
    return 0


def edit(
    plan: PlanPath = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="place=value, such as phases.2.epochs=4; any number of times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: beside PLAN, with a number.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a changed plan to a new file, checked: by --set, or in $EDITOR."""
    from headstart.training.plan_edit import edited

    target = out or _free_name(plan)
    _refuse_existing(target, force)
    chosen = _plan(plan)
    if assignments:
        changed = edited(chosen, assignments)
    else:
        changed = _edited_by_hand(chosen, target.with_name(f"{target.stem}.draft.yaml"))
    changed.to_yaml(target)
    if as_json:
        print(json.dumps({"written": str(target), **changed.to_plain()}, allow_nan=False))
    else:
        print(f"{changed}\nwritten  {target}\nnext     headstart plan run {target} DIR")
    return 0


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "choose another file, or replace it with --force")


def _free_name(plan: Path | None) -> Path:
    """Return a free name: beside the plan's file, or `plan.yaml` here where it has none of its own."""
    near = Path("plan.yaml") if plan is None or plan.is_dir() else plan
    number, free = 1, near
    while free.exists():
        number += 1
        free = near.with_name(f"{near.stem}-{number}{near.suffix}")
    return free


def _edited_by_hand(plan: Plan, draft: Path) -> Plan:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("nothing to change", "give --set phases.2.epochs=4, or run this in a terminal")
    if not editor:
        raise UsageError("no editor is named", "set EDITOR, for example to nano, or give --set place=value")
    return edit_draft(plan, draft, editor)


def edit_draft(plan: Plan, draft: Path, editor: str) -> Plan:
    """Return the plan as a person leaves it in an editor; `draft` goes once it is a plan.

    What cannot be a plan stays in `draft`, which the error names, and the next edit goes on from there.
    Raises `ConfigError` for it, and where the editor fails.
    """
    from headstart.training import Plan

    if not draft.exists():
        write_atomic(draft, plan.to_yaml().encode("utf-8"))
    try:
        done = subprocess.run([*shlex.split(editor), str(draft)], check=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the editor {editor!r} cannot be run: {error}", f"the plan is in {draft}"
        ) from error
    if done.returncode != 0:
        raise ConfigError(f"the editor ended with {done.returncode}", f"what was written is kept in {draft}")
    try:
        changed = Plan.from_yaml(draft)
    except HeadstartError as error:
        kept = f"{error.hint}; " if error.hint else ""
        raise ConfigError(
            error.message, f"{kept}it is kept: the same command goes on from {draft}"
        ) from error
    draft.unlink(missing_ok=True)
    return changed
