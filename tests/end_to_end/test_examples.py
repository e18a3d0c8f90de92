"""The examples fit the package: their files are well formed, and what they run is there."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from tests.conftest import REPOSITORY
from tests.unit.deploy.conftest import save_small

EXAMPLES = REPOSITORY / "examples"
INSTRUCTIONS = {
    "FROM",
    "COPY",
    "RUN",
    "USER",
    "ENV",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
    "WORKDIR",
}
CONTAINERS = [EXAMPLES / "container" / "Containerfile", EXAMPLES / "huggingface_space" / "Dockerfile"]


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a container file, with what follows each."""
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in whole.splitlines() if line.strip()]


@pytest.mark.parametrize("file", CONTAINERS, ids=[file.parent.name for file in CONTAINERS])
def test_containers_run_as_a_user_without_rights_and_name_what_is_there(file: Path) -> None:
    said = instructions(file)
    assert said[0][0] == "FROM"
    assert {name for name, _ in said} <= INSTRUCTIONS
    users = [value for name, value in said if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    order = [name for name, _ in said]
    assert order.index("USER") > order.index("RUN"), "it installs before it gives its rights away"
    for name, value in said:
        if name in ("CMD", "ENTRYPOINT"):
            assert all(isinstance(part, str) for part in json.loads(value)), "a shell would swallow SIGTERM"
        if name == "COPY" and file.name == "Containerfile":
            sources = [part for part in value.split()[:-1] if not part.startswith("--")]
            assert all((REPOSITORY / source).exists() for source in sources)


def test_the_space_says_where_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    folder = EXAMPLES / "huggingface_space"
    _, head, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["sdk"] == "docker"
    assert re.fullmatch(r"[a-z]+", facts["colorFrom"])
    assert len(facts["short_description"]) <= 60
    assert ("EXPOSE", str(facts["app_port"])) in instructions(folder / "Dockerfile")
    assert str(facts["app_port"]) in (folder / "app.py").read_text("utf-8")
    ast.parse((folder / "app.py").read_text("utf-8"))


@pytest.mark.skipif(os.name != "posix", reason="ends it by a signal")
def test_the_app_of_the_space_answers(tmp_path: Path) -> None:
    import socket

    (tmp_path / "app.py").write_bytes((EXAMPLES / "huggingface_space" / "app.py").read_bytes())
    save_small(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    environment = {**os.environ, "PORT": port, "HEADSTART_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
                assert json.loads(answer.read()) == {"status": "ready"}
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
