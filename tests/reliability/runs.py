"""A small run of the recipe in a process of its own, to be killed; and what must come out of it all the same.

Two phases, the head and then everything, with mixup, EMA and snapshots. The parent imports torch once and
forks, so that a run costs its training alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstart.errors import HeadstartError
from headstart.imagedata import ImageData
from headstart.models import create_backbone
from headstart.recipe import Body, Journal, Narrator, RunFolder, Saving, go_on, run_steps
from headstart.storage import save_tensors
from headstart.training import Callback, Phase, Plan, Settings, sgdr
from headstart.training.interrupts import Terminated, termination_raised

ARCH = "test_resnet"
SIZE = 32
PER_CLASS = 24
CLASSES = ("ants", "bees")

# What the clock says, and what names the process that wrote it.
CLOCK = {"seconds", "time", "created", "command", "elapsed", "settings", "machine"}


@dataclass(frozen=True)
class Case:
    """Pictures and weights, made once."""

    root: Path

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def weights(self) -> Path:
        return self.root / f"{ARCH}.safetensors"


def make_case(root: Path) -> Case:
    """Write pictures that a network can learn to tell apart, and the weights of a body."""
    case = Case(root)
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (case.pictures / name).mkdir(parents=True)
        for picture in range(PER_CLASS):
            noise = random.integers(0, 160, (40, 40, 3))
            noise[..., number] += 40
            Image.fromarray(noise.astype(np.uint8)).save(case.pictures / name / f"{picture}.png")
    body = create_backbone(ARCH, from_scratch=True, image_size=SIZE).module
    save_tensors(case.weights, body.state_dict())
    return case


def make_plan() -> Plan:
    """Return two phases: the head, then everything, with mixup, an average of the weights and snapshots."""
    head = Phase("head", 3, sgdr(3), frozen_to=-1, step=4, reason="the head")
    whole = Phase(
        "whole network", 3, sgdr(2, 1, 2), learning_rate=(1e-3, 2e-3, 4e-3), frozen_to=0, stop_early=True,
        step=8, reason="everything",
    )  # fmt: skip
    return Plan((head, whole), Settings(seed=3, mixing="mixup", ema=0.9, snapshots="soup"))


class Ids(Callback):
    """Notes which rows each step saw."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def before_batch(self, run: Any, batch: Any) -> Any:
        with open(self.path, "a") as stream:
            stream.write(json.dumps([run.epoch, run.step, sorted(int(row) for row in batch.index)]) + "\n")
        return batch


class Noting(Narrator):
    """Says what it is told into a file, and notes the rows of each step."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def say(self, text: str) -> None:
        with open(self.out.with_suffix(".said"), "a") as stream:
            stream.write(text + "\n")

    def callbacks(self, metric: str) -> tuple[Callback, ...]:
        return (Ids(self.out.with_suffix(".ids")),)


def work(case: Case, out: Path, *, threads: int = 1, saving: Saving | None = None) -> int:
    """Begin the run in `out`, or go on with it; return the exit code."""
    narrator = Noting(out)
    data = ImageData.from_folder(case.pictures, image_size=SIZE, batch_size=8, seed=3, threads=threads)
    if (out / "run.json").is_file():
        journal = Journal.read(out)
        if journal.complete:
            return 0
        result = go_on(journal, data, narrator)
    else:
        folder = RunFolder(out, replace=True)
        body = Body(ARCH, case.weights)
        result = run_steps(data, make_plan(), body, folder, narrator, saving=saving or Saving(steps=2))
    return 0 if result.stop_signal is None else 128 + result.stop_signal


def forked(function: Callable[[], int]) -> int:
    """Run a function in a child of this process, and return the child's number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with termination_raised():
            code = function()
    except HeadstartError as error:
        code = error.exit_code
    except Terminated:
        code = 143
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Return how a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(child: int, seconds: float, number: int = signal.SIGKILL) -> int | None:
    """Send a child a signal after so many seconds and return how it ended; None where it had ended before."""
    time.sleep(seconds)
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert os.waitstatus_to_exitcode(status) == 0
        return None
    os.kill(child, number)
    return wait(child)


def without_clock(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: without_clock(part) for name, part in value.items() if name not in CLOCK}
    if isinstance(value, list):
        return [without_clock(part) for part in value]
    return value


def outcome(out: Path) -> dict[str, str]:
    """Return a hash of each thing that a run leaves and that must not depend on what happened on the way."""
    found = {}
    for name in ("model/model.safetensors", "predictions.csv", "probe_predictions.csv", "plan.yaml"):
        found[name] = sha256((out / name).read_bytes()).hexdigest()
    rows = [without_clock(json.loads(line)) for line in (out / "history.jsonl").read_text().splitlines()]
    # Whether the first look was told part by part depends on whether its features were in the cache.
    rows = [row for row in rows if not row.get("part")]
    texts = {"history": rows, "summary": without_clock(json.loads((out / "summary.json").read_text()))}
    texts["manifest"] = json.loads((out / "model" / "manifest.json").read_text())
    for name, content in texts.items():
        found[name] = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found


def check_ids(out: Path) -> None:
    """Each step saw the same rows, however often it was taken; each epoch saw each row once."""
    steps: dict[tuple[int, int], list[int]] = {}
    for line in out.with_suffix(".ids").read_text().splitlines():
        try:
            epoch, step, rows = json.loads(line)
        except ValueError:
            continue  # torn by a kill: the step is taken again
        assert steps.setdefault((epoch, step), rows) == rows, f"step {step} saw other rows"
    epochs: dict[int, list[int]] = {}
    for (epoch, _), rows in steps.items():
        epochs.setdefault(epoch, []).extend(rows)
    every = {tuple(sorted(rows)) for rows in epochs.values()}
    assert len(every) == 1, "an epoch saw other rows"
    (rows,) = every
    assert len(set(rows)) == len(rows), "a row was seen twice in an epoch"


def leftovers(out: Path) -> list[str]:
    """Return the files that a writer left half done."""
    return [str(path.relative_to(out)) for path in out.rglob(".*") if path.suffix in (".tmp", ".old")]


def import_everything() -> None:
    """Import what a run needs, so that a child that is forked need not."""
    import sklearn.linear_model  # noqa: F401
