"""A service on this machine, in a thread, and a client that knows no more than HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from headstart.deploy.service import Models, Settings, bind, create_app
from headstart.deploy.service.hosting import Loading
from headstart.deploy.service.running import make_server

# Eager PyTorch: to make a graph costs a second for each model.
EAGER = Loading(device="cpu", engine="eager", threads=1)
BOUNDARY = "a-line-between-parts"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


def multipart(*parts: bytes, name: str = "a.png") -> tuple[bytes, dict[str, str]]:
    """A body of files, and its head."""
    body = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="pictures"; filename="{name}"\r\n\r\n'.encode()
        + part
        + b"\r\n"
        for part in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"
    }


class Usage(NamedTuple):
    """What this process holds."""

    files: int
    threads: int
    bytes: int


def usage(pid: int | str = "self") -> Usage:
    """Return what a process holds, as Linux tells."""
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(files, int(said["Threads"]), 1024 * int(said["VmRSS"].split()[0]))


def decoding_children(parent: int | None = None) -> list[int]:
    """Return the processes that decode for this one, as Linux tells."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            said = (folder / "stat").read_text() if folder.name.isdigit() else ""
            command = (folder / "cmdline").read_bytes() if said else b""
        except OSError:  # it has ended
            continue
        own = said and int(said.rpartition(")")[2].split()[1]) == (parent or os.getpid())
        if own and b"decoding_child" in command:
            found.append(int(folder.name))
    return found


class Running:
    """A service that runs until `stop`."""

    def __init__(
        self, folders: Mapping[str, Path], settings: Settings | None = None, loading: Loading = EAGER
    ) -> None:
        self.settings = settings or Settings()
        self.models = Models(folders, loading)
        self.service = create_app(self.models, self.settings)
        bound = bind("127.0.0.1", 0)
        self.port = int(bound.getsockname()[1])
        self.server = make_server(self.service, self.settings)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run, args=(bound,), name="service")
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the service did not start"
            time.sleep(0.01)

    def _run(self, bound: socket.socket) -> None:
        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server.serve(sockets=[bound])

        asyncio.run(main())

    def on_loop(self, work: Any) -> Any:
        """Run a coroutine where the service runs, and return what it gives."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), "the service does not end"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def predict(
        self, *pictures: bytes, query: str = "", path: str = "/predict", name: str = "a.png"
    ) -> Answer:
        body, headers = multipart(*pictures, name=name)
        return self.ask("POST", f"{path}{query}", body, headers)

    def send_json(self, content: object, path: str = "/predict") -> Answer:
        return self.ask("POST", path, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def raw(self, data: bytes, *, timeout: float = 10.0) -> bytes:
        """Send bytes as they are, and return all that comes back until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            received = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(2**16):
                    received += chunk
            except ConnectionError:
                pass
            return received
