"""The house stands on floors: a room imports only what lies below it.

The imports are read from the syntax tree, so that one inside a function or under `TYPE_CHECKING`
counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "headstart"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {"types", "errors", "storage", "pruning", "ordering", "environment", "faults", "lock", "processes"}
    ),
    frozenset({"data", "augment", "models", "evaluation"}),
    frozenset({"inference", "resident", "runtime"}),
    frozenset({"imagedata", "training", "deploy"}),
    frozenset({"activations"}),
    frozenset({"learner"}),
    frozenset({"recipe", "compat"}),
    frozenset({"cli"}),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Training knows no images: it meets them only as batches.
CLOSED_TO_TRAINING = frozenset({"data", "augment"})

# `headstart` itself and `python -m headstart` are doors, not rooms: they may open on any floor.
DOORS = frozenset({"__init__", "__main__"})


def room_of(module: str) -> str:
    """The room of a dotted module name: `headstart.data.images` -> `data`, `headstart` -> ``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_name(file: Path, package: Path = PACKAGE) -> str:
    parts = ["headstart", *file.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything of headstart that `source` imports, wherever it does."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from headstart import data` imports a room by name; `from headstart.data import x` names it.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "headstart" else [base]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "headstart")


def broken_directions(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What in `source` leads upwards, sideways or out by the front door; empty where all is well."""
    room = room_of(module)
    broken = []
    for line, name in imported_modules(source, module, is_package=is_package):
        other = room_of(name)
        if other == room:
            continue
        if other not in FLOOR:
            fault = "is no room: import from the room that defines it"
        elif FLOOR[other] == FLOOR[room] == 0:
            continue  # the ground floor is one room in several files
        elif FLOOR[other] >= FLOOR[room]:
            fault = f"is not below {room}"
        elif room == "training" and other in CLOSED_TO_TRAINING:
            fault = "is closed to training, which knows no images"
        else:
            continue
        broken.append(f"{module}:{line}: {name} {fault}")
    return broken


def source_files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if room_of(module_name(file)) not in {"", *DOORS})


def test_every_module_has_a_floor() -> None:
    rooms = {room_of(module_name(file)) for file in source_files()}
    assert rooms, "no modules were found: the test looks in the wrong place"
    assert rooms <= FLOOR.keys()


def test_every_room_imports_only_from_the_floors_below() -> None:
    broken = [
        fault
        for file in source_files()
        for fault in broken_directions(
            file.read_text("utf-8"), module_name(file), is_package=file.name == "__init__.py"
        )
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from headstart.models import Classifier", "headstart.data.loader"),
        ("import headstart.learner", "headstart.training.loop"),
        ("def f():\n    from headstart.training import fit", "headstart.deploy.predictor"),
        ("if TYPE_CHECKING:\n    from headstart.data import Samples", "headstart.augment.prepare"),
        ("from ..evaluation import metrics", "headstart.models.probe"),
        ("from headstart import data", "headstart.evaluation.report"),
        ("from headstart import train", "headstart.learner"),
        ("import headstart", "headstart.data.audit"),
        ("from headstart.data import Samples", "headstart.training.loop"),
        ("from headstart.recipe import Recipe", "headstart.compat.v1"),
        ("from headstart.data import decode", "headstart.storage"),
    ],
)
def test_a_wrong_direction_is_found(source: str, module: str) -> None:
    assert broken_directions(source, module)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from headstart.errors import DataError\nimport numpy", "headstart.data.images"),
        ("from .images import decode", "headstart.data.cache"),
        ("from headstart.errors import UsageError", "headstart.types"),
        ("from headstart import inference, errors", "headstart.deploy.predictor"),
        ("from headstart.inference import predict", "headstart.training.loop"),
        ("from headstartling import x\nimport os", "headstart.types"),
        ("from headstart.training import Plan", "headstart.recipe"),
    ],
)
def test_a_right_direction_passes(source: str, module: str) -> None:
    assert broken_directions(source, module) == []


def test_relative_imports_of_a_package_are_resolved_from_the_package_itself() -> None:
    inside = list(imported_modules("from .bundle import x", "headstart.deploy", is_package=True))
    assert inside == [(1, "headstart.deploy.bundle")]
    assert list(imported_modules("from ..data import x", "headstart.deploy.bundle")) == [
        (1, "headstart.data")
    ]
