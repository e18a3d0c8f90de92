"""`headstart serve` as a process: how it starts, loads anew, and stops without losing a request."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.deploy.conftest import save_small
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.running import multipart

from headstart.cli.main import run
from headstart.deploy import load_predictor
from headstart.deploy.service import Models, Settings

POSIX = pytest.mark.skipif(os.name != "posix", reason="sends signals")
GOOD = file_of(1)


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """A service as a process, the port it listens on, and what it says on stderr."""
    command = [sys.executable, "-m", "headstart", "serve", *arguments, "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--engine", "eager", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    errors = process.stderr
    reader = threading.Thread(target=lambda: said.extend(iter(errors.readline, "")))
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, "".join(said)
        yield process, int(json.loads(line)["url"].rpartition(":")[2]), said
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def ask(connection: http.client.HTTPConnection, **headers: str) -> tuple[int, Any, str | None]:
    body, head = multipart(GOOD)
    connection.request("POST", "/predict", body, head | headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.getheader("connection")


def predicted(port: int, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return ask(connection, **headers)[:2]
    finally:
        connection.close()


@POSIX
def test_it_starts_loads_anew_and_stops_under_load_without_losing_a_request(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "run" / "model", seed=1)
    other = save_small(tmp_path / "other", seed=2)
    with load_predictor(folder, device="cpu", threads=1) as predictor:
        wanted = predictor.predict(GOOD)
    with served(str(tmp_path / "run")) as (process, port, said):
        status, first = predicted(port)
        assert status == 200
        assert first["model"]["name"] == "run"
        found = {each["class"]: each["probability"] for each in first["pictures"][0]["classes"]}
        np.testing.assert_allclose(
            [found[name] for name in wanted.classes], wanted.probabilities[0], atol=1e-5
        )

        statuses: list[int] = []
        lost: list[str] = []
        over = threading.Event()

        def client() -> None:
            """Ask until told that the service stops, on one connection."""
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while not over.is_set():
                try:
                    status, _, closing = ask(connection)
                except (ConnectionError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    break
                statuses.append(status)
                if status == 503 or closing == "close":
                    break
            connection.close()

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        time.sleep(0.5)
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while predicted(port)[1]["model"]["id"] == first["model"]["id"]:
            assert time.monotonic() < deadline, "".join(said)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - started < 10
        over.set()
        for thread in clients:
            thread.join()
    assert not lost
    assert set(statuses) <= {200, 503}
    assert Counter(statuses)[200] > 10
    text = "".join(said)
    assert "only this machine can reach it" in text
    assert "Traceback" not in text
    assert text.rstrip().endswith("stopped")


def test_the_token_the_names_and_who_can_reach_it_are_settled_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_small(tmp_path / "model"))
    seen: list[Settings] = []

    def instead(
        models: Models, settings: Settings, bound: socket.socket, *, ready: Callable[[], None]
    ) -> None:
        seen.append(settings)
        ready()

    monkeypatch.setattr("headstart.deploy.service.serve", instead)
    common = ["--port", "0", "--engine", "eager", "--threads", "1"]
    assert run(["serve", folder, *common]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("http://127.0.0.1:")
    assert "only this machine can reach it" in told.err
    assert seen[-1].token == ""
    assert seen[-1].hosts == ("localhost", "127.0.0.1", "::1", "127.0.0.1")

    assert run(["serve", folder, *common, "--host", "0.0.0.0"]) == 0
    assert "warning: anyone who reaches this machine can use it" in capsys.readouterr().err
    assert seen[-1].hosts == ()

    monkeypatch.setenv("HEADSTART_TOKEN", "correct-horse")
    assert run(["serve", folder, *common, "--host", "0.0.0.0", "--allow-host", "My.example"]) == 0
    told = capsys.readouterr()
    assert "warning" not in told.err
    assert "correct-horse" not in told.out + told.err
    assert (seen[-1].token, seen[-1].hosts) == ("correct-horse", ("my.example",))
    monkeypatch.setenv("HEADSTART_TOKEN", "short")
    assert run(["serve", folder, *common]) == 2
    assert "short" not in capsys.readouterr().err.replace("the token is no token", "")


def test_what_cannot_be_served_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_small(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", str(folder), "--port", port]) == 73
    assert "choose another --port" in capsys.readouterr().err
    assert run(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 66
    assert run(["serve", f"a={folder}", f"a={folder}", "--port", "0"]) == 2
    assert run(["serve", str(folder), "--port", "0", "--engine", "steam"]) == 2
    assert run(["serve", str(folder), "--port", "0", "--host", "192.0.2.1"]) == 73
    (folder / "extra.pkl").write_bytes(b"\x80\x04.")
    assert run(["serve", str(folder), "--port", "0"]) == 78
    assert "Traceback" not in capsys.readouterr().err
