"""The commands by their names, in the order that `--help` lists them.

Each reads its flags, calls one function, and prints what that returns; heavy imports stand inside.
"""

from __future__ import annotations

from typing import Annotated

import typer

from headstart.cli.cleaning import clean
from headstart.cli.evaluating import compare, evaluate
from headstart.cli.explaining import explain
from headstart.cli.exporting import export
from headstart.cli.looking import check, lr_find, models, shard
from headstart.cli.packing import inspect, pack, pull, push
from headstart.cli.plans import add_plan_commands
from headstart.cli.serving import serve
from headstart.cli.training import demo, resume, train
from headstart.cli.using import doctor, predict, report

app = typer.Typer(
    name="headstart",
    help="Train an image classifier from a folder of your own pictures, and take it all the way.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


app.command("train")(train)
app.command("resume")(resume)
app.command("check")(check)
app.command("predict")(predict)
app.command("evaluate")(evaluate)
app.command("compare")(compare)
app.command("explain")(explain)
app.command("serve")(serve)
app.command("export")(export)
app.command("inspect")(inspect)
app.command("pack")(pack)
app.command("push")(push)
app.command("pull")(pull)
app.command("lr-find")(lr_find)
app.command("shard")(shard)
app.command("models")(models)
app.command("doctor")(doctor)
app.command("demo")(demo)
app.command("report")(report)
app.command("clean")(clean)
add_plan_commands(app, train)
