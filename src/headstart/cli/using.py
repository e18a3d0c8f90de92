"""`headstart predict`, `report` and `doctor`: a model in use, and what one has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.evaluating import Policy, model_in, policy_of
from headstart.cli.options import Debug, Device, Json, Threads
from headstart.cli.reading import limit_threads


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, as train writes it.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    top: Annotated[int, typer.Option(help="How many classes to print for each picture.")] = 1,
    tta: Policy = None,
    no_tta: Annotated[bool, typer.Option("--no-tta", help="One view: the same as --tta none.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Decode in this process: one that crashes would end it.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Predict the classes or tags of pictures; prints CSV, or JSON with --json."""
    from headstart.cli.tables import print_predictions
    from headstart.deploy import load_predictor
    from headstart.errors import OutputError

    if out is not None and out.exists() and not force:
        raise OutputError(f"{out} exists already", "choose another file, or replace it with --force")
    limit_threads(threads)
    views = policy_of("none" if no_tta else tta)
    with load_predictor(
        model_in(model), device=device, threads=threads, batch_size=batch_size, trusted=trusted
    ) as predictor:
        predictions = predictor.predict([Path(picture) for picture in pictures], tta=views)
    if out is not None:
        predictions.to_csv(out)
    else:
        print_predictions(predictions, top=top, as_json=as_json)
    unread = int((~predictions.predicted_rows).sum())
    if unread:
        print(f"{unread} of {len(predictions)} pictures could not be read; see `status`", file=sys.stderr)
    return 65 if unread == len(predictions) else 0


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> int:
    """Write the report of a run anew, from what lies in its folder."""
    from headstart.evaluation import write_report

    print(write_report(run))
    return 0


def doctor(as_json: Json = False, debug: Debug = False) -> int:
    """Say what is installed, which device and engine would be used, which weights can be reached."""
    from headstart.cli.doctor import examine, print_examination

    print_examination(examine(), as_json=as_json)
    return 0
