"""`headstart export`: a model leaves as a graph that holds everything, checked against PyTorch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.evaluating import model_in
from headstart.cli.options import Debug, Json, Quiet, Threads
from headstart.cli.reading import limit_threads, narrator_for

if TYPE_CHECKING:
    from headstart.deploy.export import Exported


def export(
    model: Annotated[Path, typer.Argument(help="A model folder, or the run folder that holds it.")],
    format: Annotated[
        str,
        typer.Option(
            help="onnx, onnx-fp16, onnx-int8, torch (torch.export), executorch (phones), or triton: a model "
            "repository with ONNX."
        ),
    ] = "onnx",
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pictures, or a folder of them, to check the export on; may be repeated. Default: those "
            "that the run validated with."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write. Default: beside the model.")] = None,
    input: Annotated[
        str, typer.Option(help="What the graph takes: pictures of any size as decoded, or prepared ones.")
    ] = "pictures",
    no_tta: Annotated[
        bool, typer.Option("--no-tta", help="One view, where predictions average several.")
    ] = False,
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write a model as a graph that holds resize, crop, network and softmax, and check it against PyTorch.

    An export that does not agree is refused, and nothing is left of it.
    """
    limit_threads(threads)
    from headstart.deploy.export import export as export_bundle
    from headstart.deploy.export import write_repository

    folder = model_in(model)
    target = out or folder.parent / f"export-{format}"
    given = list(pictures) if pictures else validation_pictures(folder)
    narrator = narrator_for(quiet or as_json)
    options: dict[str, Any] = {"pictures": given, "input": input, "tta": False if no_tta else None}
    with narrator.progress("checking against PyTorch") as on_progress:
        options["on_progress"] = lambda done: on_progress(done, done)
        if format == "triton":
            with tempfile.TemporaryDirectory(prefix="headstart-") as between:
                whole = Path(between) / "export"
                done = export_bundle(folder, whole, **options)
                write_repository(whole, target, replace_old=force)
        else:
            done = export_bundle(folder, target, format=format, replace_old=force, **options)
    _print(done, target, format, as_json=as_json)
    return 0


def validation_pictures(model: Path) -> list[Path]:
    """Return the files that a model's run validated with, as far as they are still there.

    Raises `InputMissingError` where the model lies in no run, or none of its pictures is there.
    """
    from headstart.errors import InputMissingError
    from headstart.evaluation.report.folder import read_run

    run = model.parent
    if not (run / "summary.json").is_file():
        raise InputMissingError(
            f"{model} lies in no run, so there are no pictures to check the export on",
            "name a folder of them with --pictures",
        )
    found = read_run(run)
    root = Path(str((found.summary.get("data") or {}).get("root") or "."))
    part = found.part("valid")
    files = [] if part is None or part.paths is None else [root / path for path in part.paths]
    there: Sequence[Path] = [file for file in files if file.is_file()]
    if not there:
        raise InputMissingError(
            f"none of the pictures that {run} validated with is in {root} any more",
            "name a folder of pictures with --pictures",
        )
    return list(there)


def _print(done: Exported, folder: Path, format: str, *, as_json: bool) -> None:
    found = done.verification
    if as_json:
        told: dict[str, Any] = {"out": str(folder), "format": format, "files": sorted(done.manifest.files)}
        told |= {"verification": found.to_dict(), "unread": done.unread, "note": done.note}
        print(json.dumps(told, ensure_ascii=True, allow_nan=False))
        return
    print(f"{folder}  ({format}, {', '.join(sorted(done.manifest.files))})")
    print(f"checked on             {found.pictures} pictures, beside PyTorch")
    print(f"same class             {found.agreement:.2%}, {found.clear_flips} others where PyTorch was clear")
    print(f"probabilities differ   {found.difference:.1e} at most, {found.mean_difference:.1e} on average")
    print(f"one decoded picture    {found.milliseconds:.1f} ms; PyTorch {found.torch_milliseconds:.1f} ms")
    print(f"size                   {found.bytes / 1e6:.1f} MB; the bundle {found.torch_bytes / 1e6:.1f} MB")
    if done.note:
        print(f"note: {done.note}")
