"""`headstart predict`, `report` and `doctor`: a model in use, and what one has."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.evaluating import Policy, model_in, policy_of
from headstart.cli.options import Debug, Device, Json, Quiet, Threads
from headstart.cli.reading import limit_threads, narrator_for


def predict(
    model: Annotated[Path, typer.Argument(help="A model folder or file, as train writes it.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    top: Annotated[
        int | None, typer.Option(help="How many classes to tell for each picture. Default: 1; all in --out.")
    ] = None,
    tta: Policy = None,
    no_tta: Annotated[bool, typer.Option("--no-tta", help="One view: the same as --tta none.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the table to this .csv or .parquet; after a kill the same command goes on."),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Add what enters the network's head to --out.")
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures that are given as https:// or http://.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Decode in this process: one that crashes would end it.")
    ] = False,
    engine: Annotated[str, typer.Option(help="auto, eager or onnxruntime.")] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace --out, and an unfinished job of other pictures.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Predict the classes or tags of pictures; prints CSV, or JSON with --json."""
    from headstart.cli.tables import print_predictions
    from headstart.deploy import load_predictor
    from headstart.deploy.fetching import Url, is_url
    from headstart.deploy.jobs import refuse_existing
    from headstart.errors import UsageError

    if features and out is None:
        raise UsageError("--features are for a table", "add --out features.parquet")
    if out is not None:
        refuse_existing(out, replace_old=force)
    given = [Url(text) if allow_urls and is_url(text) else text for text in pictures]
    limit_threads(threads)
    views = policy_of("none" if no_tta else tta)
    narrator = narrator_for(quiet or out is None)
    with load_predictor(
        model_in(model),
        device=device,
        threads=threads,
        batch_size=batch_size,
        trusted=trusted,
        engine=engine,
    ) as predictor:
        if out is None:
            predictions = predictor.predict(given, tta=views)
            rows, unread = len(predictions), int((~predictions.predicted_rows).sum())
            print_predictions(predictions, top=1 if top is None else top, as_json=as_json)
        else:
            with narrator.progress("looking at the pictures") as on_progress:
                done = predictor.predict_into(
                    given,
                    out,
                    tta=views,
                    top=top,
                    features=features,
                    replace_old=force,
                    on_progress=on_progress,
                )
            rows, unread = done.rows, done.unread
            if done.resumed:
                print(f"{done.resumed} of {rows} rows were there before", file=sys.stderr)
            if as_json:
                print(json.dumps({"out": str(out), "rows": rows, "unread": unread, "resumed": done.resumed}))
    if unread:
        print(f"{unread} of {rows} pictures could not be read; see `status`", file=sys.stderr)
    return 65 if unread == rows else 0


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
