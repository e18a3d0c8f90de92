"""`headstart inspect`, `pack`, `push` and `pull`: a bundle as a thing to look at, to move and to share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.options import Debug, Json

if TYPE_CHECKING:
    from headstart.deploy import Inspection

Model = Annotated[
    Path, typer.Argument(help="A model folder, a .headstart file, a run folder, or hf://USER/NAME.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def inspect(model: Model, as_json: Json = False, debug: Debug = False) -> int:
    """Say what a model is, check every byte of it, and what it would decide; runs nothing."""
    from headstart.cli.evaluating import model_in
    from headstart.deploy import inspect_bundle

    print_inspection(inspect_bundle(model_in(model)), as_json=as_json)
    return 0


def pack(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A file ending in .headstart, or a folder.")],
    force: Force = False,
    debug: Debug = False,
) -> int:
    """Write a model as one file, or one file as a folder again."""
    from headstart.cli.evaluating import model_in
    from headstart.deploy import pack as pack_bundle

    pack_bundle(model_in(model), out, replace_old=force)
    print(out)
    return 0


def push(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Its name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="What to say of the commit.")] = "",
    debug: Debug = False,
) -> int:
    """Send a model to the Hugging Face hub; prints the address that pins what was sent."""
    from headstart.cli.evaluating import model_in
    from headstart.deploy import push as push_bundle

    commit = push_bundle(model_in(model), name, private=private, message=message)
    print(f"hf://{name}@{commit}")
    return 0


def pull(
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="The model's name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    revision: Annotated[
        str | None, typer.Option(help="A branch, a tag or a commit. Default: newest.")
    ] = None,
    force: Force = False,
    debug: Debug = False,
) -> int:
    """Fetch a model from the Hugging Face hub; it is checked as any model is."""
    from headstart.deploy import pull as pull_bundle

    print(pull_bundle(name, out, revision=revision, replace_old=force))
    return 0


def print_inspection(found: Inspection, *, as_json: bool) -> None:
    """Print what a model is, for people or as JSON."""
    from headstart.cli.tables import writable

    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=True, allow_nan=False))
        return
    manifest = found.manifest
    print(f"{writable(str(found.path))}: a whole bundle ({found.form}), every hash checked")
    for member, parameters in zip(manifest.members, found.parameters, strict=True):
        height, width = member.preprocessing.size
        print(f"{'network':11} {member.arch}, {parameters:,} numbers, pictures of {height} x {width}")
    some = ", ".join(writable(name) for name in manifest.classes[:8])
    more = f" and {len(manifest.classes) - 8} more" if len(manifest.classes) > 8 else ""
    print(f"{'classes':11} {some}{more}")
    for name, figure in manifest.metrics.items():
        ends = [figure.get(end) for end in ("low", "high")]
        between = "" if None in ends else f" ({ends[0]:.3f} … {ends[1]:.3f})"
        value = figure["value"]
        print(f"{'figure':11} {writable(name)} {'-' if value is None else f'{value:.3f}'}{between}")
    for sentence in found.decisions:
        print(f"{'decides':11} {sentence}")
    for name, record in found.files.items():
        sha256 = record.get("sha256", "")
        print(f"{'file':11} {name} {record['bytes']:,} bytes {sha256[:16]}".rstrip())
    if manifest.headstart:
        print(f"{'written by':11} headstart {writable(manifest.headstart)}")
