"""Claim: the service answers at least as many pictures a second as a bare handler around the same engine.

With 64 clients, without an error and with a bounded 99th percentile; and at least 85 % of what the same
predictor does in its own process.

    python benchmarks/serve.py [--seconds 20] [--repeats 3]
    python benchmarks/serve.py --seconds 4 --repeats 1 --results /tmp    # to try it

Three sides, in turn, with 1, 8 and 64 clients that each ask again as soon as they are answered:

- `headstart serve`, as it is: strangers' bytes are decoded in child processes;
- `bare`: one FastAPI handler under uvicorn that decodes in its own process, prepares the picture and runs the
  same engine on it, one picture at a time: the least that one would write;
- `in process`: the service's own predictor on a list of the same pictures.

Pictures are JPEGs of `flowers` and `catsdogs`, the body is mobilenetv2_100 at 224. Clients are threads of one
further process, with a connection each; they take their share of the processor on both sides. Also told: what
comes of twice as many clients as may wait, and the greatest difference of any probability from the
predictor's own.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from folds import shared_folder
from harness import RESULTS, spread, write_row

CLAIM = (
    "with 64 clients `headstart serve` answers at least as many pictures a second as a bare FastAPI handler "
    "around the same engine, with no error, and at least 85 % of what its predictor does in process"
)
CLIENTS = (1, 8, 64)
ARCHITECTURE = "mobilenetv2_100"
CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")


def picture_files() -> list[Path]:
    """128 pictures, the larger ones first: a photo costs what a photo costs."""
    data = shared_folder() / "data"
    found = [path for name in ("catsdogs", "flowers") for path in sorted((data / name).rglob("*.jpg"))[:400]]
    return sorted(found, key=lambda path: -path.stat().st_size)[:128]


def make_model(folder: Path) -> Path:
    """A bundle of the shared weights with a head of its own."""
    from headstart.augment import EvalPrepare
    from headstart.deploy import Manifest, member_of, save_bundle
    from headstart.models import create_classifier

    weights = shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    model = create_classifier(ARCHITECTURE, len(CLASSES), weights=weights, image_size=224)
    member = member_of(model, EvalPrepare((224, 224)), short_side=256, background=(255, 255, 255))
    save_bundle(folder, [model], Manifest(members=(member,), classes=CLASSES))
    return folder


# ---- the bare side --------------------------------------------------------------------------------


def bare(model: Path, port: int) -> None:
    """Serve the least that one would write, until killed."""
    import torch
    import uvicorn
    from starlette.concurrency import run_in_threadpool

    from headstart.augment import EvalPrepare
    from headstart.data import decode
    from headstart.deploy import load_bundle
    from headstart.models import frozen_engine

    bundle = load_bundle(model)
    classifier, given = bundle.models[0], bundle.manifest.members[0].preprocessing
    engine = frozen_engine(classifier, size=classifier.image_size, line=classifier.head_stage)
    prepare = EvalPrepare(given.size, given.policy, given.crop_fraction, given.interpolation)
    head = classifier.upper(classifier.head_stage)

    def judge(data: bytes) -> list[dict[str, Any]]:
        pixels = prepare(decode(data, short_side=given.short_side), 0, 0)
        with torch.inference_mode():
            (logits,) = head(torch.from_numpy(engine(pixels[None])))
            probabilities = torch.softmax(logits, 0).tolist()
        return [{"class": c, "probability": p} for c, p in zip(CLASSES, probabilities, strict=True)]

    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return {"pictures": [{"classes": await run_in_threadpool(judge, await request.body())}]}

    config = uvicorn.Config(app, port=port, http="h11", log_level="error", access_log=False)
    asyncio.run(uvicorn.Server(config).serve())


# ---- clients --------------------------------------------------------------------------------------


def load(port: int, clients: int, seconds: float) -> None:
    """Ask with so many clients for so long, and print what came of it."""
    pictures = [path.read_bytes() for path in picture_files()]
    numbers = itertools.count()
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    answered = [0]
    # What is answered in the window counts, whenever it was asked: a queue of 64 is seconds long.
    begin = time.perf_counter() + seconds
    end = begin + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < end:
            data = pictures[next(numbers) % len(pictures)]
            started = time.perf_counter()
            connection.request("POST", "/predict", data, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            answered[0] += 1
            finished = time.perf_counter()
            if begin <= finished <= end:
                statuses[answer.status] += 1
                if answer.status == 200:
                    taken.append(finished - started)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(taken, [50, 99]) if taken else (float("nan"), float("nan"))
    found = {
        "a_second": round(len(taken) / seconds, 2),
        "p50_ms": round(1000 * float(p50), 1),
        "p99_ms": round(1000 * float(p99), 1),
        "answered": answered[0],
        "statuses": {str(status): count for status, count in statuses.items()},
    }
    print(json.dumps(found))


def under_load(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients in a process of their own."""
    command = [sys.executable, __file__, "load", "--port", str(port), "--clients", str(clients)]
    said = subprocess.run(
        [*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True
    ).stdout
    return dict(json.loads(said))


def processor_seconds(pid: int) -> float:
    """Processor time of a process and of its living children, as Linux counts it."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if folder.name == str(pid) or fields[1] == str(pid):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(command: Sequence[str], port: int) -> Iterator[int]:
    """Run a side until the block ends; begins when it answers."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            _wait_for(port, running)
            yield running.pid
        finally:
            running.terminate()


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    data = picture_files()[0].read_bytes()
    for _ in range(600):
        if running.poll() is not None:
            raise SystemExit(f"a side ended with {running.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/predict", data, {"Content-Type": "image/jpeg"})
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise SystemExit("a side does not answer")


def in_process(model: Path, seconds: float) -> tuple[float, dict[str, dict[str, float]]]:
    """Pictures a second of the service's own predictor, and what it says of each picture."""
    from headstart.deploy.service import load_hosted

    files = picture_files()
    pictures = [path.read_bytes() for path in files]
    with load_hosted("model", model).predictor as predictor:
        found = predictor.predict(pictures)
        said = {
            path.name: dict(zip(CLASSES, row, strict=True))
            for path, row in zip(files, found.probabilities.tolist(), strict=True)
        }
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            predictor.predict(pictures)
            count += len(pictures)
        return count / (time.perf_counter() - started), said


def largest_difference(port: int, said: dict[str, dict[str, float]]) -> float:
    """How far any probability of the service is from the predictor's own; it rounds to six digits."""
    differences = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for path in picture_files():
        connection.request("POST", "/predict", path.read_bytes(), {"Content-Type": "image/jpeg"})
        (row,) = json.loads(connection.getresponse().read())["pictures"]
        own = said[path.name]
        differences += [abs(each["probability"] - own[each["class"]]) for each in row["classes"]]
    connection.close()
    return max(differences)


def measure(options: argparse.Namespace, model: Path) -> None:
    """Take turns, and write the row."""
    ours, theirs = options.port, options.port + 1
    serve = [sys.executable, "-m", "headstart", "serve", str(model), "--port", str(ours)]
    alone = [sys.executable, __file__, "bare", "--model", str(model), "--port", str(theirs)]
    rows: dict[str, list[dict[str, Any]]] = {}
    inside = []
    said: dict[str, dict[str, float]] = {}
    for _ in range(options.repeats):
        speed, said = in_process(model, options.seconds)
        inside.append(speed)
        for clients in CLIENTS:
            for name, command, port in (("headstart serve", serve, ours), ("bare", alone, theirs)):
                with process(command, port) as pid:
                    before, row = processor_seconds(pid), under_load(port, clients, options.seconds)
                    spent = processor_seconds(pid) - before
                    row["processor_ms_each"] = round(1000 * spent / max(1, row.pop("answered")), 2)
                    rows.setdefault(f"{name}, {clients} clients", []).append(row)
    with process([*serve, "--queue", "16"], ours):
        overload = under_load(ours, 64, options.seconds)
        difference = largest_difference(ours, said)
    best = {name: max(row["a_second"] for row in found) for name, found in rows.items()}
    served = best["headstart serve, 64 clients"]
    results = {
        "in process, pictures a second": [round(speed, 2) for speed in inside],
        "rounds": rows,
        "overload, a queue of 16 and 64 clients": overload,
        "largest difference from the predictor": difference,
        "pictures": len(said),
        "of the bare handler, 64 clients": round(served / best["bare, 64 clients"], 3),
        "of in process, 64 clients": round(served / max(inside), 3),
    }
    spreads = {name: spread([row["a_second"] for row in found]) for name, found in rows.items()}
    spreads["in process"] = spread(inside)
    write_row(CLAIM, results, n=options.repeats, name="serve", spreads=spreads, folder=options.results)


def main() -> None:
    """Measure all sides in turn; or be one of the further processes."""
    parser = argparse.ArgumentParser(description="The service beside a bare handler and the predictor.")
    parser.add_argument("part", nargs="?", choices=("measure", "bare", "load"), default="measure")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--port", type=int, default=18_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    # As the command line has it, for all sides.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.part == "bare":
        bare(options.model, options.port)
    elif options.part == "load":
        load(options.port, options.clients, options.seconds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, make_model(Path(folder) / "model"))


if __name__ == "__main__":
    main()
