"""`headstart serve`: models behind HTTP, with a page."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.evaluating import model_in
from headstart.cli.options import Debug, Device, Json, Threads

TOKEN = "HEADSTART_TOKEN"


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Model folders; NAME=FOLDER gives one a name.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which it may be called; may be repeated. Default: this machine's own."),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or eager.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures through a network at a time. Default: 8, on a GPU 32."),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait; others come again.")] = 128,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures in a request.")] = 32,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1024, help="Of a request.")] = 32,
    timeout: Annotated[float, typer.Option(help="Seconds in which a request is answered, or refused.")] = 30,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Serve models over HTTP, with a page at /; SIGHUP loads them anew, SIGTERM stops when all is answered.

    The environment variable HEADSTART_TOKEN holds a token that clients must send.
    """
    from headstart.errors import UsageError
    from headstart.inference import choose_device

    folders = _named(models)
    try:
        from headstart.deploy.service import Models, Settings, bind
        from headstart.deploy.service import serve as answer
        from headstart.deploy.service.hosting import Loading
        from headstart.deploy.service.running import is_loopback
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "python_multipart", "starlette", "uvicorn"):
            raise
        raise UsageError(
            f"serving needs {error.name}, which is not installed", 'pip install "headstart[serve]"'
        ) from error
    at_once = batch_size or (8 if choose_device(device).type == "cpu" else 32)
    token = os.environ.get(TOKEN, "")
    local = is_loopback(host)
    own = ("localhost", "127.0.0.1", "::1", host.lower()) if local else ()
    settings = Settings(
        token=token,
        hosts=(*own, *(name.lower() for name in allow_host or ())) if local or allow_host else (),
        batch_size=at_once,
        queue=queue,
        pictures=max_pictures,
        body_bytes=max_megabytes * 2**20,
        held_bytes=max(256, 4 * max_megabytes) * 2**20,
        request_seconds=timeout,
    )
    # Before the models, which take seconds: a port that is taken is known at once.
    with bind(host, port) as bound:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
        loaded = Models(folders, Loading(device, engine, threads, at_once))
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{bound.getsockname()[1]}"

        def ready() -> None:
            for hosted in loaded:
                kinds = len(hosted.predictor.classes)
                print(f"{hosted.name} ({hosted.id}): {kinds} classes, by {hosted.engine}", file=sys.stderr)
            if local:
                print("only this machine can reach it; --host 0.0.0.0 lets others in", file=sys.stderr)
            elif not token:
                print(
                    f"warning: anyone who reaches this machine can use it; set {TOKEN} to ask for a token",
                    file=sys.stderr,
                )
            print(json.dumps({"url": address, "pid": os.getpid()}) if as_json else address, flush=True)

        answer(loaded, settings, bound, ready=ready)
    print("stopped", file=sys.stderr)
    return 0


def _named(models: list[str]) -> dict[str, Path]:
    """Return the folders by their names; raises `UsageError` for two of one name."""
    from headstart.errors import UsageError

    found: dict[str, Path] = {}
    for given in models:
        match = re.fullmatch(r"([A-Za-z0-9_.-]{1,60})=(.+)", given)
        name, folder = match.groups() if match and not Path(given).exists() else ("", given)
        path = model_in(Path(folder))
        name = name or _name_of(path)
        if name in found:
            raise UsageError(f"two models are called {name}", "name them: cats=FOLDER dogs=FOLDER")
        found[name] = path
    return found


def _name_of(path: Path) -> str:
    """The folder's name; of `…/run/model` that of the run."""
    full = path.absolute()
    return full.parent.name if full.name == "model" and full.parent.name else full.name or "model"
