"""What strangers may try: each attempt gets the right answer, costs little, and harms nobody else."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.data.corpus import CASES, Case
from tests.unit.deploy.conftest import CLASSES
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.fuzz import MULTIPART_HEAD, alive, malformed, status_of
from tests.unit.deploy.service.running import Running, multipart

from headstart.deploy import Predictor
from headstart.deploy.service import Settings
from headstart.deploy.service.bodies import Upload
from headstart.deploy.service.problems import REASONS
from headstart.errors import UsageError

GOOD = file_of(1)
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture, service: Running) -> Iterator[None]:
    """Nothing here may be a fault of ours: no error is logged, and the next request is served."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
    assert alive(service)


# --- S04: bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        (b"Content-Length: -5\r\n", b"", {400}),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"12345", {400}),
        (b"Content-Length: many\r\n", b"", {400}),
        (b"Content-Length: 5368709120\r\nContent-Type: image/png\r\n", b"", {413}),
        (b"Content-Length: 1048577\r\nContent-Type: image/png\r\n", bytes(1048577), {413}),
        (b"Content-Type: image/png\r\n", b"", {400}),
        (b"Content-Length: 0\r\nContent-Type: image/png\r\n", b"", {400}),
        (
            b"Content-Type: image/png\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n",
            b"\x1f\x8b\x08\x00",
            {415},
        ),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"", {400, 501}),
        (b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n", b"zz\r\n", {400}),
        (b"Content-Type: multipart/form-data\r\nContent-Length: 4\r\n", b"none", {400}),
        (b"Content-Type: multipart/form-data; boundary=\r\nContent-Length: 4\r\n", b"none", {400}),
        (
            b"Content-Type: multipart/form-data; boundary=" + b"b" * 300 + b"\r\nContent-Length: 4\r\n",
            b"none",
            {400},
        ),
        (MULTIPART_HEAD + b"Content-Length: 4\r\n", b"none", {400}),
        (b"X-Long: " + b"x" * 100_000 + b"\r\n", b"", {400, 431}),
    ],
)
def test_s04_bodies_that_are_not_as_they_must_be_are_refused(
    service: Running, head: bytes, body: bytes, statuses: set[int]
) -> None:
    answer = service.raw(POST + head + b"\r\n" + body)
    assert status_of(answer) in statuses
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert set(said) == {"code", "message", "hint"}


def test_s04_an_endless_chunked_body_is_cut_off_soon_after_the_limit(service: Running) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(POST + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 2**16 + bytes(2**16) + b"\r\n"
        try:
            while sent < 2**28:
                connection.sendall(chunk)
                sent += 2**16
        except ConnectionError:
            pass
    # The limit, as much again that is thrown away so that the answer is seen, and what the system buffers.
    assert sent < 16 * service.settings.body_bytes


def test_s04_the_answer_to_a_body_that_is_too_large_reaches_who_sends_all_of_it(service: Running) -> None:
    body, headers = multipart(bytes(service.settings.body_bytes + 1000))
    answer = service.ask("POST", "/predict", body, headers)
    assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")
    assert "1 MB" in answer.json["message"]


def test_s04_parts_are_counted_and_their_heads_are_limited(service: Running) -> None:
    assert service.predict(*[GOOD] * 5).code == "TOO_MANY_PICTURES"
    assert service.predict(*[b"x"] * 1000).code == "TOO_MANY_PICTURES"
    assert service.predict(GOOD, name="n" * 9000).code == "BAD_MULTIPART"
    line = b"--b\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n"
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    assert service.ask("POST", "/predict", line, head).code == "BAD_MULTIPART"
    nameless = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n'
    assert service.ask("POST", "/predict", nameless, head).code == "UNKNOWN_FIELD"
    cut = multipart(GOOD)[0][:-20]
    assert service.ask("POST", "/predict", cut, multipart(GOOD)[1]).code == "BAD_MULTIPART"
    assert service.ask("POST", "/predict", b"--b--\r\n", head).status == 400


def test_s04_all_bodies_together_are_limited(two_models: dict[str, Path]) -> None:
    running = Running(two_models, Settings(held_bytes=50_000))
    try:
        answer = running.predict(bytes(60_000))
        assert (answer.status, answer.code) == (503, "BUSY")
        assert answer.headers["retry-after"] == "1"
        assert running.service.held.bytes == 0
        assert running.predict(GOOD).status == 200
    finally:
        running.stop()


def test_no_upload_touches_the_disk(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def refuse(*args: object, **options: object) -> object:
        made.append(str(args))
        raise AssertionError("a temporary file was asked for")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    with pytest.raises(AssertionError):
        tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the control: it would be seen
    made.clear()
    large = file_of(1, "BMP", height=500, width=600)
    assert len(large) > 2**19, "a usual server would have spooled it"
    assert service.predict(large).status == 200
    assert not made


# --- S05: nonsense ---------------------------------------------------------------------------------


def test_s05_nonsense_is_refused_and_never_answered_as_a_picture(service: Running) -> None:
    random = np.random.default_rng(0)
    statuses = [status_of(service.raw(data, timeout=5)) for data in malformed(random, 100)]
    assert all(status is None or 400 <= status < 500 for status in statuses), statuses
    assert len({status for status in statuses if status}) >= 4, "the nonsense is all of one kind"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), query=st.text(max_size=20))
def test_s05_any_bytes_in_a_part_and_any_query_give_an_answer_in_words(
    service: Running, body: bytes, query: str
) -> None:
    from urllib.parse import quote

    answer = service.predict(body, query=f"?top={quote(query)}")
    assert 400 <= answer.status < 500
    assert answer.json["message"]


# --- S06: patience ---------------------------------------------------------------------------------


def test_s06_slow_clients_are_let_go_and_keep_nobody_waiting(service: Running) -> None:
    slow = [socket.create_connection(("127.0.0.1", service.port), timeout=10) for _ in range(60)]
    half_body = POST + b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\nhalf"
    for number, connection in enumerate(slow):
        connection.sendall((b"", b"GET /health HT", half_body)[number % 3])
    times = []
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        before = time.monotonic()
        assert service.get("/health").status == 200
        times.append(time.monotonic() - before)
    assert np.median(times) < 0.1
    told = set()
    for connection in slow:
        try:
            told.add(status_of(connection.recv(2**16)))  # closed, or told so
        except ConnectionError:
            told.add(None)
        connection.close()
    assert told == {None, 408}


def test_s06_a_reader_that_does_not_read_is_let_go(two_models: dict[str, Path]) -> None:
    running = Running(two_models, Settings(answer_seconds=0.5))
    try:
        connection = socket.create_connection(("127.0.0.1", running.port), timeout=5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # The page many times over: more than the system buffers of answers that nobody reads.
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
        closed = threading.Event()

        def push() -> None:
            try:
                connection.sendall(request)
                while running.server.server_state.connections:
                    time.sleep(0.05)
            except OSError:
                pass
            closed.set()

        thread = threading.Thread(target=push)
        thread.start()
        assert closed.wait(20), "the connection is held for ever"
        thread.join()
        connection.close()
        assert running.get("/health").status == 200
    finally:
        running.stop()


def test_s06_who_only_holds_connections_keeps_nobody_out(two_models: dict[str, Path]) -> None:
    running = Running(two_models, Settings(connections=20))
    try:
        held = [socket.create_connection(("127.0.0.1", running.port), timeout=5) for _ in range(60)]
        judged = running.predict(GOOD).status
        count = len(running.server.server_state.connections)
        for connection in held:
            connection.close()
    finally:
        running.stop()
    assert judged == 200
    assert count <= 20


# --- S07: pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_s07_n09_each_odd_picture_is_served_as_it_is_predicted(
    service: Running, offline: Predictor, case: Case
) -> None:
    data = case.make()
    if len(data) > service.settings.body_bytes - 1000:
        pytest.skip("larger than this service lets in")
    started = time.monotonic()
    answer = service.predict(data)
    assert time.monotonic() - started < 10
    wanted = offline.predict(data)
    status = str(wanted.statuses[0])
    if status:
        assert answer.status == REASONS[status][0]
        assert answer.code == status
        assert answer.json["pictures"][0]["status"] == status
        return
    (row,) = answer.json["pictures"]
    found = {each["class"]: each["probability"] for each in row["classes"]}
    np.testing.assert_allclose([found[name] for name in CLASSES], wanted.probabilities[0], atol=1e-4)


def test_s07_bombs_beside_good_pictures_do_not_delay_them_for_long(service: Running) -> None:
    bombs = [case.make() for case in CASES if case.id in ("C01", "C03", "C06", "C07")]
    alone = sorted(_seconds(service, GOOD) for _ in range(10))[5]
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda b=bomb: codes.append(service.predict(b).status)) for bomb in bombs * 8
    ]
    for thread in threads:
        thread.start()
    beside = sorted(_seconds(service, GOOD) for _ in range(10))[5]
    for thread in threads:
        thread.join()
    assert set(codes) == {413}
    assert beside < 20 * alone + 0.5


def _seconds(service: Running, picture: bytes) -> float:
    started = time.monotonic()
    assert service.predict(picture).status == 200
    return time.monotonic() - started


# --- S08: types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "application/xml", "video/mp4", "", "multipart/mixed"]
)
def test_s08_other_types_of_bodies_are_refused(service: Running, kind: str) -> None:
    answer = service.ask("POST", "/predict", GOOD, {"Content-Type": kind})
    assert (answer.status, answer.code) == (415, "UNSUPPORTED_BODY")


def test_s08_what_a_picture_is_its_bytes_say(service: Running) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    assert service.ask("POST", "/predict", svg, {"Content-Type": "image/svg+xml"}).status == 415
    assert service.ask("POST", "/predict", GOOD, {"Content-Type": "image/jpeg"}).status == 200


@pytest.mark.parametrize(
    "content",
    [
        {"pictures": ["not base64!"]},
        {"pictures": [base64.b64encode(GOOD).decode()[:-1]]},
        {"pictures": ["data:image/png;base64," + base64.b64encode(GOOD).decode()]},
        {"pictures": [{"data": 5}]},
        {"pictures": [{"name": "a"}]},
        {"pictures": [{"data": "", "more": 1}]},
        {"pictures": [[]]},
        {"pictures": "text"},
        {"picture": "text"},
        [],
        "text",
        None,
    ],
)
def test_s08_json_of_another_form_is_refused_without_its_echo(service: Running, content: object) -> None:
    answer = service.send_json(content)
    assert (answer.status, answer.code) == (422, "BAD_FIELD")
    assert "not base64!" not in answer.body.decode()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_s08_json_that_is_none_or_too_deep_is_refused(service: Running) -> None:
    for body in (b"{", b"\xff", b"[" * 200_000, b'{"pictures": [' + b"[" * 100_000):
        answer = service.ask("POST", "/predict", body, {"Content-Type": "application/json"})
        assert (answer.status, answer.code) == (400, "BAD_JSON")
    assert service.send_json({"pictures": []}).code == "NO_PICTURE"
    assert service.send_json({"pictures": [""]}).code == "EMPTY_FILE"


def test_names_lose_their_folders_and_what_no_screen_shows(service: Running) -> None:
    bad = base64.b64encode(b"x").decode()
    said = service.send_json({"pictures": [{"name": "../a\\b/c\x1b[31m\r\n\ud800.png", "data": bad}]})
    assert said.json["pictures"][0]["name"] == "c\ufffd[31m\ufffd\ufffd\ufffd.png"
    assert Upload("a", b"") == Upload("a", b"")


# --- S09, S10: paths and addresses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%252e%252e/etc/passwd", "//etc/passwd",
        "/\\..\\..\\windows", "/%00", "/static/..%2fpyproject.toml", "/page.html", "/CON", "/aux.txt",
        "/Predict", "/predict/", "/docs", "/redoc", "/admin", "/reload", "/models/..", "/index.html/",
        "http://169.254.169.254/", "*",
    ],
)  # fmt: skip
def test_s09_no_path_leads_to_a_file(service: Running, path: str) -> None:
    answer = service.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) in (400, 404, 307)
    assert b"root:" not in answer
    assert service.ask("PUT", "/predict").status == 405
    assert service.ask("GET", "/predict").code == "WRONG_METHOD"


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest", "http://127.0.0.1:1/", "http://[::1]/", "http://0x7f000001/",
        "file:///etc/passwd", "gopher://127.0.0.1/",
    ],
)  # fmt: skip
def test_s10_addresses_are_never_fetched(
    service: Running, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: opened.append(args) or [])
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.sock = socket.socket()
    connection.sock.connect(("127.0.0.1", service.port))
    for content in ({"url": address}, {"pictures": [{"url": address}]}, {"pictures": [address]}):
        connection.request("POST", "/predict", json.dumps(content), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 422
        answer.read()
    connection.request("POST", f"/predict?url={address}", b"x", {"Content-Type": "image/png"})
    assert connection.getresponse().status == 415
    connection.close()
    assert not opened
    monkeypatch.undo()


# --- S13: who may ----------------------------------------------------------------------------------


def test_s13_a_token_is_asked_for_where_there_is_one(two_models: dict[str, Path]) -> None:
    running = Running(two_models, Settings(token="correct-horse"))
    body, headers = multipart(GOOD)
    try:
        wrong = ("Bearer wrong", "Basic correct-horse", "correct-horse", "Bearer correct-hors\xe9", "")
        for said in wrong:
            answer = running.ask("POST", "/predict", body, headers | {"Authorization": said})
            assert (answer.status, answer.code) == (401, "NO_TOKEN")
            assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer correct-horse"}
        assert running.ask("POST", "/predict", body, headers | right).status == 200
        assert running.get("/models").status == 401
        assert running.get("/metrics").status == 401
        assert running.get("/models", **right).status == 200
        for path in ("/", "/health", "/ready", "/openapi.json"):
            assert running.get(path).status == 200
    finally:
        running.stop()


@pytest.mark.parametrize("token", ["short", "schlüssel-mit-ü", "with\nnewline"])
def test_s13_a_token_that_is_none_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(UsageError, match="token"):
        Settings(token=token)


def test_s13_other_sites_and_other_names_are_turned_away(two_models: dict[str, Path]) -> None:
    running = Running(two_models, Settings(hosts=("localhost", "127.0.0.1", "::1")))
    body, headers = multipart(GOOD)
    own = f"http://127.0.0.1:{running.port}"
    try:
        assert running.ask("POST", "/predict", body, headers | {"Origin": own}).status == 200
        for other in ("https://evil.example", "null", f"http://127.0.0.1:{running.port + 1}"):
            assert running.ask("POST", "/predict", body, headers | {"Origin": other}).code == "OTHER_ORIGIN"
        for name in ("evil.example", "127.0.0.1.evil.example", "[", ""):
            answer = running.ask("POST", "/predict", body, headers | {"Host": name})
            assert answer.code == "WRONG_HOST"
        assert running.ask("GET", "/health", None, {"Host": "[::1]:80"}).status == 200
    finally:
        running.stop()


def test_s13_answers_to_faults_hold_neither_paths_nor_the_programs_inside(service: Running) -> None:
    for answer in (service.predict(b"x"), service.get("/nowhere"), service.predict(GOOD, query="?top=a")):
        text = answer.body.decode()
        assert "/" not in text.replace("GET /openapi.json", "").replace("GET /models", "").replace(
            "image/", ""
        )
        assert "Traceback" not in text
