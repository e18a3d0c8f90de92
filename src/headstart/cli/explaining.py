"""`headstart explain`: where in pictures a model finds what it says."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.evaluating import model_in
from headstart.cli.options import Debug, Device, Json, Quiet, Threads
from headstart.cli.reading import limit_threads, narrator_for

if TYPE_CHECKING:
    from headstart.deploy import Predictor
    from headstart.evaluation import Explanation
    from headstart.recipe import Narrator

_CELLS = ("path", "status", "label", "probability", "area_of_half", "overlay")


def explain(
    model: Annotated[Path, typer.Argument(help="A model folder, as train writes it.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    out: Annotated[Path, typer.Option(help="The folder for the heat maps and the page that shows them.")],
    label: Annotated[
        str | None,
        typer.Option(help="The class or tag to explain. Default: each picture's most probable."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="gradcam, rollout, or auto: rollout for vision transformers.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Decode in this process: one that crashes would end it.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier --out.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show where in each picture the model finds what it says: heat maps, and a page of them."""
    from headstart.deploy import load_predictor
    from headstart.errors import OutputError
    from headstart.evaluation import write_explanations

    if out.exists() and not force:
        raise OutputError(f"{out} exists already", "choose another folder, or replace it with --force")
    limit_threads(threads)
    narrator = narrator_for(quiet or as_json)
    with load_predictor(
        model_in(model), device=device, threads=threads, batch_size=batch_size, trusted=trusted
    ) as predictor:
        found = _found(predictor, pictures, narrator, label=label, method=method)
        rows = write_explanations(out, found, title=f"What {model.name} looks at", replace=force)
    _print(rows, as_json=as_json)
    narrator.say(f"the pictures are in {out / 'index.html'}")
    unread = sum(row["status"] != "ok" for row in rows)
    if unread:
        print(f"{unread} of {len(rows)} pictures could not be read; see `status`", file=sys.stderr)
    return 65 if unread == len(rows) else 0


def _found(
    predictor: Predictor, pictures: list[str], narrator: Narrator, *, label: str | None, method: str
) -> Iterator[Explanation]:
    """Yield the explanations, and tell how many are done; raises `InputMissingError` where there are none."""
    from headstart.errors import InputMissingError

    done = 0
    with narrator.progress("looking for where it looks") as on_progress:
        for each in predictor.explain([Path(picture) for picture in pictures], label=label, method=method):
            yield each
            done += 1
            on_progress(done, done)
    if not done:
        raise InputMissingError("there are no pictures to explain", "give files or folders of pictures")


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    from headstart.cli.tables import writable

    if as_json:
        print(json.dumps(rows, ensure_ascii=True, allow_nan=False))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CELLS)
    for row in rows:
        writer.writerow(["" if row[name] is None else writable(str(row[name])) for name in _CELLS])
