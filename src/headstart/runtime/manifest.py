"""What an export says of itself: `export.json`, read strictly; nothing that it names is joined to a path."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import ConfigError, InputMissingError
from headstart.storage import json_bytes, parse_json, read_capped, sha256_bytes
from headstart.types import Task

SCHEMA = 1
MANIFEST = "export.json"
FORMATS = ("onnx", "onnx-fp16", "onnx-int8", "torch", "executorch")
INPUTS = ("pictures", "prepared")
SET_METHODS = ("least", "adaptive")

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_CLASSES = 50_000
MAX_TEXT = 1000
MAX_GRAPHS = 64

_FILE = re.compile(r"(model|prepare)(-[0-9]{1,2})?\.(onnx|pt2|pte)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNSEALED = "0" * 64
_AGAIN = "fetch it again, or export again: it is not what was written"


@dataclass(frozen=True)
class GraphRecord:
    """One graph: its file, what it takes, and how a file's bytes become that.

    `size`: (height, width) of what the network sees; `short_side`, `background`: what decoding reduces a
    picture towards and lays transparency on; `prepare`: the file of the graph that makes decoded pictures
    ready, where the network takes prepared ones; None where it takes them as they are decoded.
    """

    file: str
    size: tuple[int, int]
    short_side: int
    background: tuple[int, int, int]
    prepare: str | None = None


@dataclass(frozen=True)
class Record:
    """The SHA-256 and the size in bytes that a file of the export must have."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class SetsRule:
    """How sets of classes are made of probabilities: see `evaluation.SetRule`."""

    method: str
    level: float
    limit: float


@dataclass(frozen=True)
class ExportManifest:
    """Everything about an export except its graphs.

    `format`, `input`: one of `FORMATS` and `INPUTS`. Of one graph the probabilities are final. Of several,
    each gives its own; their mean is what `temperature` and `scaling` (factors, offsets) are for, as with a
    bundle. `novelty`: whether the first graph gives a strangeness, of which more than 1 is none of the
    classes. `views`: how many views of each picture the graphs average. `verification`: the figures of the
    check that was passed.
    """

    format: str
    input: str
    classes: tuple[str, ...]
    task: Task
    graphs: tuple[GraphRecord, ...]
    temperature: float = 1.0
    scaling: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    thresholds: tuple[float, ...] | None = None
    sets: SetsRule | None = None
    novelty: bool = False
    views: int = 1
    headstart: str = ""
    files: Mapping[str, Record] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_bytes(self) -> bytes:
        """Return it as JSON that carries its own SHA-256 under `checksum`."""
        fields = {"schema": self.schema, **asdict(self), "task": str(self.task), "checksum": _UNSEALED}
        data = json_bytes(fields)
        return data.replace(_UNSEALED.encode(), sha256_bytes(data).encode())


def read_export(folder: Path) -> ExportManifest:
    """Read and check what an export says, and that its folder holds its files and nothing else.

    Raises `InputMissingError` when there is no such folder and `ConfigError` for anything that is not as it
    must be. Hashes are checked when the graphs are read.
    """
    sizes = _file_sizes(folder)
    if MANIFEST not in sizes:
        raise ConfigError(f"{folder} is no export: it has no {MANIFEST}", "give a folder that export wrote")
    path = folder / MANIFEST
    manifest = _read(_unsealed(read_capped(path, MAX_MANIFEST_BYTES), path))
    known = {*manifest.files, MANIFEST}
    if set(sizes) != known:
        odd = ", ".join(sorted(name[:60] for name in set(sizes) ^ known)[:5])
        raise ConfigError(f"{folder} does not hold what its {MANIFEST} says: {odd}", _AGAIN)
    for name, record in manifest.files.items():
        if sizes[name] != record.bytes:
            raise ConfigError(f"{folder / name} has {sizes[name]} bytes and not {record.bytes}", _AGAIN)
    return manifest


def read_graph(folder: Path, file: str, manifest: ExportManifest) -> bytes:
    """Return the bytes of a file of an export; raises `ConfigError` unless they are those that were
    written."""
    record = manifest.files[file]
    data = read_capped(folder / file, record.bytes)
    if sha256_bytes(data) != record.sha256:
        raise ConfigError(f"{folder / file} was altered: its SHA-256 is not the recorded one", _AGAIN)
    return data


def _file_sizes(folder: Path) -> dict[str, int]:
    try:
        found = {path.name: path.lstat() for path in folder.iterdir()}
    except OSError as error:
        raise InputMissingError(f"the export {folder} cannot be read: {error.strerror}") from error
    if strange := sorted(name[:60] for name, status in found.items() if not stat.S_ISREG(status.st_mode)):
        raise ConfigError(f"{folder} holds what is not a plain file: {', '.join(strange[:5])}", _AGAIN)
    return {name: status.st_size for name, status in found.items()}


def _unsealed(data: bytes, path: Path) -> Mapping[str, Any]:
    fields = parse_json(data, path)
    checksum = fields.pop("checksum", None) if isinstance(fields, dict) else None
    known = isinstance(checksum, str) and _SHA256.fullmatch(checksum)
    if not known or sha256_bytes(data.replace(str(checksum).encode(), _UNSEALED.encode())) != checksum:
        raise ConfigError(f"{path} was altered: its checksum does not fit", _AGAIN)
    found: dict[str, Any] = fields
    return found


def _read(fields: Mapping[str, Any]) -> ExportManifest:
    if fields.get("schema") != SCHEMA:
        raise ConfigError(
            f"the export has schema {str(fields.get('schema'))[:40]!r}; this headstart reads {SCHEMA}",
            "upgrade headstart",
        )
    _only(fields, ExportManifest, MANIFEST)
    classes = tuple(_text(name, "classes") for name in _list(fields["classes"], "classes", 1, MAX_CLASSES))
    _hold(len(set(classes)) == len(classes), "classes", "hold a name twice")
    files = {_name(name, "files"): _record(value) for name, value in _table(fields["files"], "files").items()}
    scaling, thresholds = fields["scaling"], fields["thresholds"]
    manifest = ExportManifest(
        format=_choice(fields["format"], "format", FORMATS),
        input=_choice(fields["input"], "input", INPUTS),
        classes=classes,
        task=Task(_choice(fields["task"], "task", tuple(Task))),
        graphs=tuple(_graph(value) for value in _list(fields["graphs"], "graphs", 1, MAX_GRAPHS)),
        temperature=_number(fields["temperature"], "temperature", 0.01, 100.0),
        scaling=None if scaling is None else _scaling(scaling, len(classes)),
        thresholds=None if thresholds is None else _numbers(thresholds, "thresholds", len(classes), 0.0, 1.0),
        sets=None if fields["sets"] is None else _sets(fields["sets"]),
        novelty=_boolean(fields["novelty"], "novelty"),
        views=_whole(fields["views"], "views", 1, 64),
        headstart=_text(fields["headstart"], "headstart", 0),
        files=files,
        verification=_table(fields["verification"], "verification"),
    )
    named = [name for graph in manifest.graphs for name in (graph.file, graph.prepare) if name is not None]
    _hold(sorted(set(named)) == sorted(files), "files", "are not those of the graphs")
    for graph in manifest.graphs:
        # A phone's program stands alone; beside the others lies the graph that makes pictures ready for them.
        alone = manifest.input == "pictures" or manifest.format == "executorch"
        _hold((graph.prepare is None) == alone, "graphs", "do not fit the input")
    return manifest


def _graph(value: object) -> GraphRecord:
    fields = _only(value, GraphRecord, "graphs")
    height, width = (_whole(side, "size", 8, 4096) for side in _list(fields["size"], "size", 2, 2))
    red, green, blue = (
        _whole(part, "background", 0, 255) for part in _list(fields["background"], "background", 3, 3)
    )
    prepare = fields["prepare"]
    return GraphRecord(
        file=_name(fields["file"], "graphs.file"),
        size=(height, width),
        short_side=_whole(fields["short_side"], "short_side", 8, 65_536),
        background=(red, green, blue),
        prepare=None if prepare is None else _name(prepare, "graphs.prepare"),
    )


def _record(value: object) -> Record:
    fields = _only(value, Record, "files")
    digest = fields["sha256"]
    _hold(isinstance(digest, str) and bool(_SHA256.fullmatch(digest)), "files.sha256", "is no SHA-256")
    return Record(digest, _whole(fields["bytes"], "files.bytes", 8, 2**34))


def _sets(value: object) -> SetsRule:
    fields = _only(value, SetsRule, "sets")
    return SetsRule(
        _choice(fields["method"], "sets.method", SET_METHODS),
        _number(fields["level"], "sets.level", 1e-3, 1 - 1e-6),
        _number(fields["limit"], "sets.limit", 0.0, 1.0),
    )


def _scaling(value: object, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    factors, offsets = _list(value, "scaling", 2, 2)
    return (
        _numbers(factors, "scaling[0]", count, 1e-3, 1e3),
        _numbers(offsets, "scaling[1]", count, -1e4, 1e4),
    )


def _hold(true: bool, name: str, fault: str) -> None:
    if not true:
        raise ConfigError(f"the {MANIFEST} is not valid: {name} {fault}", _AGAIN)


def _only(value: object, shape: type, name: str) -> Mapping[str, Any]:
    table = _table(value, name)
    wanted = set(shape.__dataclass_fields__)  # type: ignore[attr-defined]
    odd = ", ".join(sorted(key[:40] for key in wanted ^ set(table))[:5])
    _hold(wanted == set(table), name, f"lacks or has more: {odd}")
    return table


def _table(value: object, name: str) -> Mapping[str, Any]:
    _hold(isinstance(value, dict) and len(value) <= 1000, name, "is not a table")
    table: dict[str, Any] = value  # type: ignore[assignment]
    return table


def _list(value: object, name: str, shortest: int, longest: int) -> Sequence[Any]:
    _hold(
        isinstance(value, list) and shortest <= len(value) <= longest,
        name,
        f"is not a list of {shortest} to {longest}",
    )
    found: list[Any] = value  # type: ignore[assignment]
    return found


def _text(value: object, name: str, shortest: int = 1) -> str:
    _hold(isinstance(value, str) and shortest <= len(value) <= MAX_TEXT, name, "is not a text")
    return str(value)


def _name(value: object, name: str) -> str:
    _hold(
        isinstance(value, str) and bool(_FILE.fullmatch(value)),
        name,
        f"{json.dumps(str(value)[:60])} is no file of an export",
    )
    return str(value)


def _choice(value: object, name: str, choices: Sequence[str]) -> str:
    _hold(isinstance(value, str) and value in choices, name, f"is none of {', '.join(choices)}")
    return str(value)


def _boolean(value: object, name: str) -> bool:
    _hold(isinstance(value, bool), name, "is neither true nor false")
    return bool(value)


def _whole(value: object, name: str, low: int, high: int) -> int:
    _hold(type(value) is int and low <= value <= high, name, f"is not a whole number of {low} to {high}")
    assert isinstance(value, int)
    return value


def _number(value: object, name: str, low: float, high: float) -> float:
    known = type(value) in (int, float) and math.isfinite(float(str(value)))
    _hold(known and low <= float(str(value)) <= high, name, f"is not a number of {low} to {high}")
    return float(str(value))


def _numbers(value: object, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
    return tuple(_number(each, name, low, high) for each in _list(value, name, count, count))
