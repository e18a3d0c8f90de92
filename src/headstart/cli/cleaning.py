"""`headstart clean`: wrong labels, copies and what to label next, as a table and a page to decide on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import Debug, Device, Json, Quiet
from headstart.cli.reading import limit_threads, narrator_for


def clean(
    run: Annotated[Path, typer.Argument(help="The folder of a run, as train --out made it.")],
    unlabelled_pictures: Annotated[
        Path | None, typer.Option(help="A folder of pictures without labels: which to label next?")
    ] = None,
    count: Annotated[int, typer.Option(help="How many pictures to choose for labelling.")] = 24,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads that read pictures. Default: as the run began.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Look again; what was decided on the same suggestions is kept.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Suggest relabels, removals and copies among a run's pictures; none of them is touched."""
    from headstart import recipe
    from headstart.cli.resuming import data_again
    from headstart.cli.tables import writable
    from headstart.recipe.cleaning import check_output

    limit_threads(threads)
    narrator = narrator_for(quiet)
    journal = recipe.Journal.read(run)
    check_output(run, force=force)
    data = data_again(journal, narrator, threads=threads)
    result = recipe.clean(
        run,
        data,
        unlabelled_pictures=unlabelled_pictures,
        count=count,
        device=device,
        force=force,
        narrator=narrator,
    )
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
        return 0
    for line in (
        *result.lines(),
        f"page    {result.page}",
        f"table   {result.table}",
        f"next    headstart train … --corrections {result.table}",
    ):
        print(writable(line))
    return 0
