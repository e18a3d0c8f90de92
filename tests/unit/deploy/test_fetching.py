"""Pictures on the web are fetched within limits, and never from behind our own door."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from headstart.deploy import Predictor, load_predictor
from headstart.deploy.fetching import FetchRules, Url, fetch, is_public
from headstart.errors import DataError, UsageError

from .conftest import Saved, picture

OPEN = FetchRules(allow_private=True, seconds=2, bytes=100_000)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(2, 30, 40)).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """A server of pictures and of mischief."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        answer = getattr(self, "do_" + self.path.strip("/").split(".")[0], None)
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def send(self, data: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_good(self) -> None:
        self.send(png())

    def do_short(self) -> None:
        self.send(png()[:50], length=200)

    def do_large(self) -> None:
        self.send(b"", length=10**9)

    def do_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(bytes(65536))
        except OSError:
            return

    def do_slow(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            return

    def do_packed(self) -> None:
        self.send(png(), Content_Encoding="gzip")

    def redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_round(self) -> None:
        self.redirect("/round")

    def do_file(self) -> None:
        self.redirect("file:///etc/passwd")

    def do_on(self) -> None:
        self.redirect("/good.png")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_lies_there_is_fetched(site: str) -> None:
    assert fetch(f"{site}/good.png", OPEN) == png()
    assert fetch(f"{site}/on.png?a=1", OPEN) == png()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("nowhere", "VANISHED"),
        ("short", "URL_FAILED"),
        ("large", "TOO_MANY_BYTES"),
        ("endless", "TOO_MANY_BYTES"),
        ("packed", "URL_REFUSED"),
        ("round", "URL_REFUSED"),
        ("file", "URL_REFUSED"),
    ],
)
def test_mischief_has_a_code(site: str, path: str, code: str) -> None:
    with pytest.raises(DataError) as refused:
        fetch(f"{site}/{path}", OPEN)
    assert refused.value.code == code


def test_a_byte_now_and_then_does_not_keep_us(site: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError) as refused:
        fetch(f"{site}/slow", FetchRules(allow_private=True, seconds=0.4))
    assert refused.value.code == "URL_TIMEOUT"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f000001"])
def test_our_own_machine_is_not_asked_unless_it_may_be(site: str, host: str) -> None:
    with pytest.raises(DataError) as refused:
        fetch(f"http://{host}:{site.rpartition(':')[2]}/good.png", FetchRules(seconds=2))
    assert refused.value.code == "URL_REFUSED"


@pytest.mark.parametrize(
    "place",
    [
        "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::",
    ],
)  # fmt: skip
def test_private_addresses_are_known_in_every_disguise(place: str) -> None:
    assert not is_public(place)


@pytest.mark.parametrize("place", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(place: str) -> None:
    assert is_public(place)


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://a.b/c", "gopher://a", "http://", "https://a b", "http://u:p@a.b/", "a.jpg",
     "http://a.b:99999/", "http://a.b:0/", "http://a.b/\r\nX: y"],
)  # fmt: skip
def test_what_is_no_web_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(UsageError):
        Url(address)


# --- what a predictor takes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(saved: Saved) -> Iterator[Predictor]:
    with load_predictor(saved.folder, device="cpu", engine="eager", trusted=True) as found:
        yield found


def test_addresses_are_pictures_and_failures_have_a_status(predictor: Predictor, site: str) -> None:
    given = [Url(f"{site}/{name}", OPEN) for name in ("good.png", "nowhere")]
    found = predictor.predict([*given, Url(f"{site}/good.png"), png()])
    assert found.statuses.tolist() == ["", "VANISHED", "URL_REFUSED", ""]
    assert found.paths is not None
    assert found.paths[0] == f"{site}/good.png"
    np.testing.assert_allclose(found.logits[0], found.logits[3], atol=1e-5)


def test_a_text_is_never_fetched(predictor: Predictor, site: str) -> None:
    for given in (f"{site}/good.png", [f"{site}/good.png"], iter([f"{site}/good.png"])):
        with pytest.raises(UsageError, match=r"web address, and a text is a path"):
            predictor.predict(given)


def test_a_table_with_a_column_of_paths_is_pictures(predictor: Predictor, pictures: list[Path]) -> None:
    names = [str(path) for path in pictures]
    wanted = predictor.predict(pictures)
    for table in (
        pd.DataFrame({"label": "x", "path": names}),
        pd.DataFrame({"image": names, "label": "x"}),
        pd.DataFrame({"anything": names}),
        pd.Series(names),
    ):
        found = predictor.predict(table)
        assert found.paths == wanted.paths
        np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)
    with pytest.raises(UsageError, match="no column of paths: it has a, b"):
        predictor.predict(pd.DataFrame({"a": names, "b": names}))
    with pytest.raises(UsageError, match="row 0 of the table"):
        predictor.predict(pd.DataFrame({"path": [3]}))
