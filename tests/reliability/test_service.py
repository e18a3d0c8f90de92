"""The service for long: nonsense by the thousand, models exchanged again and again, signals."""

from __future__ import annotations

import http.client
import logging
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.end_to_end.test_serve import POSIX, served
from tests.unit.data.corpus import CASES
from tests.unit.deploy.conftest import save_small
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.fuzz import alive, malformed, status_of
from tests.unit.deploy.service.running import Running, usage

from headstart.deploy import load_predictor
from headstart.deploy.service import Settings
from headstart.deploy.service.hosting import Loading

GOOD = file_of(1)
REQUESTS = 1000
RELOADS = 20
PARITY = 512


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    running = Running(
        {"model": save_small(tmp_path / "model", seed=1)},
        Settings(body_bytes=2**20, header_seconds=5.0, body_seconds=2.0),
    )
    yield running
    running.stop()


def test_a_thousand_requests_that_are_none_and_bombs_between_them(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(6)
    bombs = [data for case in CASES if case.id.startswith("C") and len(data := case.make()) < 2**20 - 1000]
    for bomb in bombs:
        service.predict(bomb)
    before = usage()
    requests = list(malformed(random, REQUESTS))
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        statuses = Counter(map(status_of, pool.map(lambda data: service.raw(data, timeout=20), requests)))
        told = Counter(pool.map(lambda k: service.predict(bombs[k % len(bombs)]).status, range(200)))
    print(f"{REQUESTS} requests: {dict(statuses)}; {200} bombs and odd shapes: {dict(told)}")
    assert all(status is None or 400 <= status < 500 for status in statuses)
    assert set(told) <= {200, 413, 415, 422}
    assert not caplog.records, caplog.text
    after = usage()
    assert after.bytes < before.bytes + 50 * 2**20
    assert after.files <= before.files + 4
    assert alive(service)


def test_twenty_reloads_under_load_lose_nothing_and_leave_one_model_in_memory(
    service: Running, tmp_path: Path
) -> None:
    folder = service.models.folders["model"]
    others = {seed: save_small(tmp_path / f"other {seed}", seed=seed) for seed in (1, 2)}
    wanted = {}
    for seed, other in others.items():
        with load_predictor(other, device="cpu", threads=1) as predictor:
            wanted[seed] = predictor.predict(GOOD).confidence[0]
    ids = {service.models.named(None).id: 1}
    found: Counter[tuple[int, str, float]] = Counter()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answer = service.predict(GOOD)
            said = answer.json
            model, best = said["model"]["id"], said["pictures"][0]["classes"][0]["probability"]
            found[answer.status, model, round(best, 4)] += 1

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    sizes = []
    for number in range(RELOADS):
        seed = 2 - number % 2
        shutil.rmtree(folder)
        shutil.copytree(others[seed], folder)
        service.on_loop(service.service.reload())
        ids[service.models.named(None).id] = seed
        sizes.append(usage())
    over.set()
    for thread in clients:
        thread.join()
    print(f"{sum(found.values())} requests through {RELOADS} reloads")
    assert {status for status, _, _ in found} == {200}
    for _, model, best in found:
        assert best == pytest.approx(wanted[ids[model]], abs=1e-4)
    assert service.service.metrics.reloads == {"reloaded": RELOADS}
    assert sizes[-1].files <= sizes[3].files + 8
    assert sizes[-1].threads <= sizes[3].threads + 8
    assert sizes[-1].bytes < 1.05 * sizes[3].bytes + 2**25


def test_n09_real_pictures_are_served_as_pytorch_judges_them(shared: Path, tmp_path: Path) -> None:
    """Eight at a time and one at a time, through ONNX Runtime, beside the predictor on PyTorch."""
    folder = save_small(tmp_path / "model", seed=3)
    files = sorted((shared / "data" / "flowers").rglob("*.jpg"))[:PARITY]
    data = [path.read_bytes() for path in files]
    with load_predictor(folder, device="cpu", threads=1) as predictor:
        wanted = predictor.predict(data).probabilities
        classes = predictor.classes
    running = Running(
        {"model": folder}, Settings(pictures=8), Loading(device="cpu", engine="onnxruntime", threads=1)
    )
    try:
        assert running.models.named(None).engine == "onnxruntime"
        for size in (1, 8):
            rows = []
            for first in range(0, len(data), size):
                rows += running.predict(*data[first : first + size]).json["pictures"]
            said = [{each["class"]: each["probability"] for each in row["classes"]} for row in rows]
            found = np.array([[row[name] for name in classes] for row in said])
            assert np.abs(found - wanted).max() <= 1e-4
            ordered = np.sort(wanted, axis=1)
            clear = ordered[:, -1] - ordered[:, -2] > 1e-3
            assert (found.argmax(1) == wanted.argmax(1))[clear].all()
            print(
                f"{len(files)} pictures, {size} at a time: {np.abs(found - wanted).max():.1e} apart at most"
            )
    finally:
        running.stop()


@POSIX
def test_a_second_signal_ends_it_at_once_while_a_slow_client_holds_it(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "model")
    with served(str(folder)) as (process, port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"half")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "it did not wait for what was under way"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=5)
        connection.close()
