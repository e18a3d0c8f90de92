"""A run folder such as the recipe leaves behind, made up from a seed, with names that bite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from headstart.evaluation import Predictions, calibrate, interval, paired
from headstart.evaluation.report import rows_to_picture

CLASSES = ("<script>alert(1)</script>", "=1+1", "daisy & co", "tulip\nlate", "🌻 sunflower", "ורד")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "expected_calibration_error")

MakeRun = Callable[..., Path]


def guessed(
    targets: NDArray[np.int64], count: int, skill: float, *, seed: int, sharpness: float = 1.6
) -> NDArray[np.float32]:
    """Logits of a model with some skill; neighbouring classes are mistaken for each other."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(targets), count))
    rows = np.arange(len(targets))
    logits[rows, targets] += skill * random.gamma(4.0, 0.5, size=len(targets))
    logits[rows, (targets + 1) % count] += 0.9 * random.gamma(1.0, 0.7, size=len(targets))
    return np.asarray(sharpness * logits, dtype=np.float32)


def step(number: int, name: str, reason: str, outcome: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "number": number,
        "name": name,
        "reason": reason,
        "kept": None,
        "outcome": outcome,
        "seconds": seconds,
        "epochs": 0,
        "metrics": {},
        "gain": None,
        "gain_accuracy": None,
        "verdict": None,
        **more,
    }


def measured(predictions: Predictions, names: Sequence[str] = METRICS) -> dict[str, Any]:
    return {name: interval(predictions, name, resamples=300).to_dict() for name in names}


def trained(
    before: Predictions, after: Predictions, *, kept: bool, epochs: int, verdict: tuple[str, str]
) -> dict[str, Any]:
    return {
        "kept": kept,
        "epochs": epochs,
        "metrics": measured(after, ("accuracy", "log_loss")),
        "gain": {"metric": "log_loss", **paired(before, after, "log_loss", resamples=300).to_dict()},
        "gain_accuracy": paired(before, after, "accuracy", resamples=300).to_dict(),
        "verdict": {"kind": verdict[0], "text": verdict[1]},
    }


def found(number: int, title: str, chosen: float) -> dict[str, Any]:
    rates = np.geomspace(1e-7, 10, 100)
    decades = np.log10(rates)
    smooth = 1.7 - 1.1 / (1 + np.exp(-2 * (decades - math.log10(chosen) - 0.4)))
    smooth += np.clip(decades - math.log10(chosen) - 1.5, 0, None) ** 2 * 2
    noise = np.random.default_rng(number).normal(size=100) * 0.07
    return {
        "step": number,
        "title": title,
        "rates": rates.tolist(),
        "losses": (smooth + noise).tolist(),
        "smoothed": smooth.tolist(),
        "suggestions": {"valley": chosen, "steep": chosen * 1.6, "minimum": chosen * 7, "slide": None},
        "chosen": chosen,
        "note": "the valley of the curve",
    }


def epochs(steps: Sequence[tuple[int, str, int]], batches: int = 46) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    rows: list[dict[str, Any]] = []
    for number, name, count in steps:
        for epoch in range(count):
            level = 0.16 + 0.75 * 0.72 ** len(rows)
            progress = (np.arange(batches) + 0.5) / batches
            peak = {3: 8e-3, 4: 5e-3, 8: 1e-3}[number]
            rates = peak * (1 + np.cos(np.pi * progress)) / 2
            losses = level * (1.25 - 0.2 * progress) + random.gamma(2.0, 0.03, size=batches)
            rows.append(
                {
                    "step": number,
                    "name": name,
                    "epoch": epoch,
                    "train_loss": float(losses.mean()),
                    "valid_loss": level * 1.04 + (0.03 if number == 8 and epoch == count - 1 else 0.0),
                    "accuracy": 1 - 0.36 * level,
                    "time": 14.2,
                    "seconds": 8.0 + 14.2 * len(rows),
                    "rates": [rates[-1] / 9, rates[-1] / 3, rates[-1]],
                    "batch_losses": losses.tolist(),
                    "batch_rates": rates.tolist(),
                }
            )
    return rows


def draw_flower(row: int, class_number: int, side: int = 224) -> Image.Image:
    """A flower with petals that tell its class, on a meadow that tells its row."""
    random = np.random.default_rng([row, class_number])
    ground = tuple(int(value) for value in random.integers((30, 70, 30), (90, 150, 90)))
    picture = Image.new("RGB", (side + 40 * (row % 3), side), ground)
    pen = ImageDraw.Draw(picture)
    middle = np.array([picture.width / 2, side / 2]) + random.normal(size=2) * 12
    petal = ((214, 69, 80), (238, 190, 60), (245, 245, 240), (200, 90, 190), (250, 170, 30), (230, 80, 120))
    count = 5 + 2 * class_number
    for turn in range(count):
        angle = 2 * math.pi * turn / count
        x, y = middle + 55 * np.array([math.cos(angle), math.sin(angle)])
        pen.ellipse((x - 28, y - 28, x + 28, y + 28), fill=petal[class_number % 6])
    pen.ellipse((middle[0] - 26, middle[1] - 26, middle[0] + 26, middle[1] + 26), fill=(110, 70, 30))
    return picture


def write_run(
    folder: Path,
    *,
    classes: Sequence[str] = CLASSES,
    valid: int = 320,
    test: int = 0,
    pictures: bool = True,
    side: int = 64,
) -> Path:
    """Write a whole run: the probe and the model on `valid` and `test` pictures of `classes`."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(classes)
    total = valid + test
    targets = np.arange(total) * 7919 % count
    names = [f"{classes[target]}/img {row:04d}.jpg" for row, target in enumerate(targets)]
    shared: dict[str, Any] = {
        "classes": tuple(classes),
        "targets": targets,
        "paths": names,
        "split": np.array(["valid"] * valid + ["test"] * test),
    }
    probe = Predictions(guessed(targets, count, 2.1, seed=1, sharpness=1.9), **shared)
    precomputed = Predictions(probe.logits * np.float32(1.15), **shared)
    augmented = Predictions(probe.logits + 0.2 * guessed(targets, count, 2.0, seed=2), **shared)
    whole = Predictions(augmented.logits + 0.25 * guessed(targets, count, 2.0, seed=3), **shared)
    v = [table.part("valid") for table in (probe, precomputed, augmented, whole)]
    calibration = calibrate(v[3])
    final = whole.with_temperature(calibration.temperature)
    steps = [
        step(
            0,
            "The probe",
            "A logistic regression on the frozen network's features: what every step must beat.",
            "92 % within nine seconds",
            7.4,
            kept=True,
            metrics=measured(v[0], ("accuracy", "log_loss")),
        ),
        step(1, "Data with augmentation", "Side-on photographs: flips, small turns, light.", "ready", 0.1),
        step(
            2,
            "Learning-rate finder",
            "The highest rate at which the loss still clearly improves.",
            "8.0e-03 for the head: the valley of the curve",
            3.1,
        ),
        step(
            3,
            "The head, on precomputed activations",
            "What is frozen gives the same output every time, so it is computed once.",
            "undone: the probe was better",
            1.9,
            **trained(v[0], v[1], kept=False, epochs=2, verdict=("neither", "Losses are close; go on.")),
        ),
        step(
            4,
            "The head, with augmentation",
            "Pictures that are a little different every time keep the head from learning them by heart.",
            "kept",
            41.6,
            **trained(
                v[0],
                v[2],
                kept=True,
                epochs=3,
                verdict=("under-fitting", "Training and validation loss are both high: train longer."),
            ),
        ),
        step(5, "Unfreeze", "From here on every layer may change.", "2.2 million parameters train", 0.0),
        step(6, "Rates per group", "Earlier layers know edges and colours already.", "ratio 3", 0.0),
        step(7, "Learning-rate finder, again", "Unfrozen layers stand other rates.", "1.0e-03", 11.8),
        step(
            8,
            "The whole network",
            "Cycles that double in length, until the validation loss stops falling for a whole one.",
            "kept the best epoch, 6 of 7",
            104.2,
            **trained(
                v[2],
                v[3],
                kept=True,
                epochs=7,
                verdict=("over-fitting", "Stronger augmentation, or smaller pictures first."),
            ),
        ),
    ]
    history = epochs(((3, "head, precomputed", 2), (4, "head", 3), (8, "whole network", 7)))
    parts = {"train": 4 * total, "valid": valid, "test": test}
    counts = {
        part: {name: number // count + (place < number % count) for place, name in enumerate(classes)}
        for part, number in parts.items()
        if number
    }
    summary = {
        "schema": 1,
        "headstart": "0.1.0",
        "created": "2026-05-03T14:21:09+00:00",
        "command": ["headstart", "train", "photos/my flowers", "--arch", "mobilenetv2_100"],
        "settings": {"image_size": [224, 224], "batch_size": 32, "seed": 0, "device": "cpu", "budget": None},
        "data": {
            "root": "/home/you/photos/my flowers",
            "line": f"{5 * total:,} pictures in {count} classes, from 40 to 61 each",
            "classes": list(classes),
            "task": "single-label",
            "counts": counts,
            "quarantined": [{"path": "daisy & co/<b>broken</b>.jpg", "code": "TRUNCATED"}],
            "quarantined_count": 1,
            "duplicates": 3,
            "notes": ["`tulip` and `Tulip` are two classes: their names differ in case only."],
        },
        "model": {
            "arch": "mobilenetv2_100",
            "weights": "mobilenetv2_100.safetensors",
            "licence": "Apache-2.0",
            "parameters": 2_231_558,
            "image_size": [224, 224],
            "groups": [
                {"name": "stem to block 3", "parameters": 112_000},
                {"name": "block 4 to the last", "parameters": 2_104_000},
                {"name": "head", "parameters": 15_366},
            ],
            "head": "linear",
        },
        "steps": steps,
        "finders": [
            found(2, "Learning-rate finder: head", 8e-3),
            found(7, "Learning-rate finder, again: whole network", 1e-3),
        ],
        "final": {
            "valid": measured(final.part("valid")),
            "test": measured(final.part("test")) if test else None,
            "note": "",
        },
        "tta": None,
        "calibration": calibration.to_dict(),
        "seconds": 178.3,
        "stop_reason": "",
        "versions": {"python": "3.11.9", "torch": "2.8.0", "timm": "1.0.19"},
        "machine": {"processor": "2 cores", "memory_gb": 8, "device": "cpu"},
    }
    (folder / "summary.json").write_text(json.dumps(summary, ensure_ascii=False), "utf-8")
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    (folder / "plan.yaml").write_text("phases:\n- name: head\n  epochs: 3\n  # <b>bold</b>\n", "utf-8")
    final.to_csv(folder / "predictions.csv")
    probe.to_csv(folder / "probe_predictions.csv")
    if pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        for row in rows_to_picture(final).tolist():
            picture = draw_flower(row, int(targets[row]))
            picture.thumbnail((side, side))
            picture.save(folder / "pictures" / f"{row}.jpg", quality=80)
        grid = Image.new("RGB", (4 * 224, 2 * 224), "white")
        for place in range(8):
            grid.paste(
                draw_flower(900 + place, place % 6).crop((0, 0, 224, 224)).rotate(4 * place),
                (place % 4 * 224, place // 4 * 224),
            )
        grid.save(folder / "augmentation.jpg", quality=80)
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run folder below `tmp_path`; see `write_run`."""

    def make(**options: Any) -> Path:
        return write_run(tmp_path / "run", **options)

    return make
