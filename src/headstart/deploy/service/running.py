"""The service as a process: its socket, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator

import uvicorn

from headstart.deploy.service.app import Service, create_app
from headstart.deploy.service.hosting import Models
from headstart.deploy.service.protocol import patient_protocol
from headstart.deploy.service.settings import Settings
from headstart.errors import OutputError

log = logging.getLogger("headstart.service")

# While it stops it listens for so long at least, in seconds, so that who comes is told, not turned away.
_FAREWELL = 0.5


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0: to any that is free.

    Raises `OutputError` where that cannot be had: another listens there, or it is not ours to take.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise OutputError(f"{host}:{port} is no address of this machine", "choose another --host") from error
    try:
        if os.name == "posix":  # elsewhere this would let two listen on one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise OutputError(
            f"{host}:{port} cannot be listened on: {error.strerror}",
            "choose another --port, or stop the other",
        ) from error
    return bound


class _Server(uvicorn.Server):
    """uvicorn, whose signals are ours to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def serve(models: Models, settings: Settings, bound: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answer requests on a socket until SIGTERM or SIGINT comes; `ready` is called when it begins.

    SIGHUP loads the models anew. A first SIGTERM lets what is under way finish, for `stop_seconds` at most,
    and tells others to come again; a second one ends at once.
    """
    service = create_app(models, settings)
    asyncio.run(_run(make_server(service, settings), service, settings, bound, ready))


def make_server(service: Service, settings: Settings) -> uvicorn.Server:
    """Return uvicorn with our patience and none of its words; it leaves signals alone."""
    config = uvicorn.Config(
        service,
        http=patient_protocol(settings),
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(settings.header_seconds / 2)),
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        h11_max_incomplete_event_size=2**16,
    )
    # What uvicorn says of its own is for its own command line; the other warns of each malformed body, and
    # strangers could fill the log.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return _Server(config)


async def _run(
    server: uvicorn.Server,
    service: Service,
    settings: Settings,
    bound: socket.socket,
    ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def begin(work: Coroutine[None, None, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def stop() -> None:
        if service.stopping:
            server.should_exit = server.force_exit = True
            return
        service.stopping = True
        begin(_stop(server, service, settings))

    def reload() -> None:
        begin(service.reload())

    if os.name == "posix":  # elsewhere Ctrl-C ends the process at once
        for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload)):
            loop.add_signal_handler(number, handler)
    begin(_tell(server, ready))
    await server.serve(sockets=[bound])


async def _tell(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    ready()


async def _stop(server: uvicorn.Server, service: Service, settings: Settings) -> None:
    log.info("stopping: what is under way is finished")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.stop_seconds):
            await asyncio.sleep(_FAREWELL)
            while service.metrics.in_flight:
                await asyncio.sleep(0.02)
    server.should_exit = True
