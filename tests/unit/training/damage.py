"""Checkpoints damaged in all the ways that disks and people have, and what finds out."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import ConfigError
from headstart.storage import load_tensors
from headstart.training import find_checkpoint
from headstart.training.checkpoint_folder import FILES, checkpoints

HOLE = 4096


@dataclass
class Damage:
    """What was counted: damages, those that were noticed, and flips in tensors that load all the same."""

    damaged: int = 0
    noticed: int = 0
    loads_all_the_same: int = 0


def damage(place: Path, drawn: random.Random, how: str) -> str:
    """Damage one file of a checkpoint, and return its name."""
    name = drawn.choice((*FILES, "manifest.json"))
    file = place / name
    data = bytearray(file.read_bytes())
    match how:
        case "flip":
            data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        case "cut":
            del data[drawn.randrange(len(data)) :]
        case "hole":
            start = drawn.randrange(len(data))
            hole = slice(start, start + HOLE)
            if not any(data[hole]):
                data.append(0)
            data[hole] = bytes(len(data[hole]))
        case "longer":
            data += b"\0" * drawn.randrange(1, 9)
        case "empty":
            data = bytearray()
        case "gone":
            file.unlink()
            return name
    file.write_bytes(data)
    return name


def damage_again_and_again(folder: Path, how: str, count: int, *, seed: int) -> Damage:
    """Damage the newest of two checkpoints so many times, each time from whole, and count what is noticed.

    Noticed: the one before is taken instead, and one line names both.
    """
    newest, older = checkpoints(folder)[:2]
    whole = {name: (newest / name).read_bytes() for name in (*FILES, "manifest.json")}
    drawn, counted = random.Random(f"{how} {seed}"), Damage()
    for _ in range(count):
        name = damage(newest, drawn, how)
        counted.damaged += 1
        found = find_checkpoint(folder)
        named = len(found.notes) == 1 and all(path.name in found.notes[0] for path in (newest, older))
        counted.noticed += found.path == older and named
        if how == "flip" and name.endswith(".safetensors"):
            counted.loads_all_the_same += _loads(newest / name)
        (newest / name).write_bytes(whole[name])
    return counted


def _loads(file: Path) -> bool:
    try:
        load_tensors(file)
    except ConfigError:
        return False
    return True
