"""A bundle goes to the hub and comes back; nothing but its own files is sent or taken."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headstart.deploy import load_bundle, load_predictor, pack, pull, push, read_manifest
from headstart.deploy.hub import HuggingFace, located
from headstart.errors import ConfigError, InputMissingError, StorageError, UsageError

from .conftest import CLASSES, Saved, picture

NAME = "anna/birds"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@dataclass
class FakeHub:
    """A hub in memory: commits of files, and what was asked of it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    private: bool = False

    def listing(self, name: str, revision: str | None) -> tuple[str, Mapping[str, int]]:
        commit = list(self.commits)[-1] if revision in (None, "main") else str(revision)
        return commit, {file: len(data) for file, data in self.commits[commit].items()}

    def fetch(self, name: str, commit: str, file: str, folder: Path) -> Path:
        self.asked.append(file)
        (folder / file).write_bytes(self.commits[commit][file])
        return folder / file

    def send(self, name: str, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
        data = {
            file: content if isinstance(content, bytes) else content.read_bytes()
            for file, content in files.items()
        }
        commit = hashlib.sha1(repr(sorted(data.items())).encode()).hexdigest()
        self.commits[commit], self.private = data, private
        return commit


@pytest.mark.parametrize("form", ["folder", "file"])
def test_what_was_sent_comes_back(saved: Saved, tmp_path: Path, form: str) -> None:
    hub, model = FakeHub(), saved.folder
    if form == "file":
        model = tmp_path / "m.headstart"
        pack(saved.folder, model)
    commit = push(model, NAME, private=True, hub=hub)
    assert hub.private
    assert sorted(hub.commits[commit]) == ["README.md", "manifest.json", "model.safetensors"]
    folder = pull(NAME, tmp_path / "back", hub=hub)
    assert load_bundle(folder).manifest == saved.manifest


def test_what_git_or_a_person_left_beside_is_not_sent(saved: Saved, tmp_path: Path) -> None:
    model = Path(shutil.copytree(saved.folder, tmp_path / "model"))
    (model / ".git").mkdir()
    (model / ".gitattributes").write_text("secret")
    hub = FakeHub()
    assert sorted(hub.commits[push(model, NAME, hub=hub)]) == [
        "README.md", "manifest.json", "model.safetensors",
    ]  # fmt: skip


def test_what_the_manifest_does_not_name_is_not_asked_for(saved: Saved, tmp_path: Path) -> None:
    hub = FakeHub()
    commit = push(saved.folder, NAME, hub=hub)
    hub.commits[commit] |= {"evil.py": b"import os", "pytorch_model.bin": b"\x80\x04", "../up": b"x"}
    pull(NAME, tmp_path / "back", hub=hub)
    assert sorted(hub.asked) == ["README.md", "manifest.json", "model.safetensors"]


def test_a_commit_is_fetched_once_and_then_needs_no_net(saved: Saved, tmp_path: Path) -> None:
    hub = FakeHub()
    commit = push(saved.folder, NAME, hub=hub)
    folder = pull(NAME, revision=commit, hub=hub)
    asked = len(hub.asked)
    assert pull(NAME, revision=commit, hub=FakeHub()) == folder
    assert located(f"hf://{NAME}@{commit}") == folder
    assert located(Path(f"hf://{NAME}@{commit}")) == folder
    assert pull(NAME, hub=hub) == folder
    assert len(hub.asked) == asked
    with load_predictor(f"hf://{NAME}@{commit}", device="cpu") as predictor:
        assert predictor.predict(picture(1)).classes == CLASSES


@pytest.mark.parametrize("what", ["altered", "shorter", "no manifest", "huge manifest", "pickle"])
def test_what_is_no_whole_bundle_is_refused_and_nothing_is_left(
    saved: Saved, tmp_path: Path, what: str
) -> None:
    hub = FakeHub()
    files = hub.commits[push(saved.folder, NAME, hub=hub)]
    weights = files["model.safetensors"]
    if what == "altered":
        files["manifest.json"] = files["manifest.json"].replace(b"cat", b"cow")
    elif what == "shorter":
        files["model.safetensors"] = weights[:-8]
    elif what == "no manifest":
        del files["manifest.json"]
    elif what == "huge manifest":
        files["manifest.json"] = bytes(17 * 2**20)
    else:
        files["manifest.json"] = b"\x80\x04cos\nsystem\n."
    with pytest.raises(ConfigError):
        pull(NAME, tmp_path / "back", hub=hub)
    assert not (tmp_path / "back").exists()
    assert "model.safetensors" not in hub.asked


@pytest.mark.parametrize(
    "name", ["birds", "a/b/c", "../x", "a/..", "https://x/y", "a b/c", "anna/bi--rds", ""]
)
def test_a_name_that_is_none_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a model"):
        pull(name, hub=FakeHub())
    with pytest.raises(UsageError):
        located(f"hf://{name}@@" if name else "hf://")


# --- through the hub's own client --------------------------------------------------------------------


@pytest.fixture
def endpoint(saved: Saved) -> Iterator[str]:
    """A server that answers as the hub does when a model is fetched."""
    commit = "c" * 40
    files = {path.name: path.read_bytes() for path in saved.folder.iterdir()} | {"evil.py": b"import os"}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            file = path.rpartition("/")[2]
            if path.startswith("/api/models/anna/birds"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                said = {"id": "anna/birds", "sha": commit, "siblings": siblings}
                self.answer(json.dumps(said).encode(), Content_Type="application/json")
            elif path.startswith(f"/anna/birds/resolve/{commit}/") and file in files:
                etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
                self.answer(files[file], ETag=etag, X_Repo_Commit=commit)
            elif path.startswith("/api/models/anna/broken"):
                self.answer(b"{}", 503)
            else:
                self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hubs_own_client_fetches_a_bundle(saved: Saved, tmp_path: Path, endpoint: str) -> None:
    folder = pull(NAME, tmp_path / "back", hub=HuggingFace(endpoint, token=None))
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "manifest.json",
        "model.safetensors",
    ]
    assert read_manifest(folder) == saved.manifest


def test_a_model_that_is_not_there_is_told(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(InputMissingError, match="no model anna/nothing"):
        pull("anna/nothing", tmp_path / "back", hub=HuggingFace(endpoint))


class Gone(FakeHub):
    """A hub that does not answer."""

    def listing(self, name: str, revision: str | None) -> tuple[str, Mapping[str, int]]:
        raise ConnectionError("no route")

    def send(self, name: str, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
        raise ConnectionError("no route")


def test_a_hub_that_cannot_be_reached_is_told(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be reached"):
        pull(NAME, tmp_path / "back", hub=Gone())
    with pytest.raises(StorageError, match="cannot be reached"):
        push(saved.folder, NAME, hub=Gone())


def test_what_is_offline_on_purpose_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="cannot be reached"):
        pull(NAME, tmp_path / "back")
