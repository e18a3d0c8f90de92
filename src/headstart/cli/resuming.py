"""How a run that the command line began finds its pictures again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.cli.sources import Source
from headstart.errors import UsageError

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.recipe import Journal, Narrator, Origin


def origin_of(source: Source, *, log: str = "", **options: Any) -> Origin:
    """Return what `data_again` needs: the source and the options of its data, wherever it is called from.

    `log` names the loggers of the run.
    """
    from headstart.recipe import Origin

    fields = dataclasses.asdict(source)
    inside = source.labels is not None and (Path(source.folder).expanduser() / source.labels).is_file()
    for name in ("folder", "test_set", *(() if inside else ("labels",))):
        fields[name] = _absolute(fields[name])
    options["quarantine"] = _absolute(options["quarantine"])
    options["corrections"] = [_absolute(table) for table in options["corrections"]]
    return Origin("command", {"source": fields, "data": options, "log": log})


def _absolute(place: str | Path | None) -> str | None:
    if place is None or "://" in str(place):
        return None if place is None else str(place)
    return str(Path(place).expanduser().absolute())


def data_again(journal: Journal, narrator: Narrator, *, threads: int | None) -> ImageData:
    """Read the pictures of a run again, with the options that it was begun with.

    `threads`: how many read them, if not as many as then. Raises `UsageError` where the run was begun
    from Python with data of its own.
    """
    from headstart.cli.reading import read_data

    origin = journal.origin
    if origin.kind == "given":
        raise UsageError(
            f"{journal.path} was begun from Python, with data that only its author has",
            "go on from there: headstart.resume(path, data)",
        )
    if origin.kind == "folder":
        from headstart.recipe.run import read_folder

        return read_folder(origin.options, narrator)
    options = dict(origin.options["data"])
    options["largest_size"] = None if options["largest_size"] is None else tuple(options["largest_size"])
    options["quarantine"] = None if options["quarantine"] is None else Path(options["quarantine"])
    options["corrections"] = [Path(table) for table in options.get("corrections", ())]
    options["batch_size"] = str(options["batch_size"])
    if threads is not None:
        options["threads"] = threads
    return read_data(Source(**origin.options["source"]), narrator, **options)
