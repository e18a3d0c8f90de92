"""The manifest as a JSON Schema, for who reads or writes one without headstart.

`python -m headstart.deploy.schema` prints what lies in `docs/manifest.schema.json`. Whatever the reader takes
fits the schema. The reader alone checks what no schema can say: checksums, and that fields belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from headstart.augment import POLICIES as TTA_POLICIES
from headstart.deploy import about, manifest
from headstart.deploy.reading import ENDS, MAX_NAME
from headstart.evaluation import SET_METHODS, SetRule
from headstart.types import Task

Schema = dict[str, Any]


def manifest_schema() -> Schema:
    """Return the schema (draft 2020-12) of `manifest.json`."""
    members = _several(_member(), 1, manifest.MAX_MEMBERS)
    classes = {**_several(_text(1), 1, manifest.MAX_CLASSES), "uniqueItems": True}
    probabilities = _several(_number(0, 1), 1, manifest.MAX_CLASSES)
    scaling = {
        "type": "array",
        "prefixItems": [_several(_number(1e-3, 1e3), 1), _several(_number(-1e4, 1e4), 1)],
        "minItems": 2,
        "maxItems": 2,
    }
    content: Schema = {
        "schema": {"const": manifest.SCHEMA},
        "members": members,
        "classes": classes,
        "task": {"enum": [str(task) for task in Task]},
        "temperature": _number(0.01, 100),
        "thresholds": _or_null(probabilities),
        "views": {"enum": list(manifest.VIEWS)},
        "tta": {"type": "boolean"},
        "metrics": _figures(),
        "data": _text(),
        "headstart": _text(),
        "files": _files(),
        "tta_policy": {"enum": list(TTA_POLICIES)},
        "scaling": _or_null(scaling),
        "sets": _or_null(_sets()),
        "novelty": _or_null(_object(manifest.NoveltyRule, limit=_number(1e-9, 1e9), rate=_number(0, 1))),
        "about": _or_null(_about()),
        "checksum": _pattern("[0-9a-f]{64}"),
    }
    later = set(manifest.LATER)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The manifest of a headstart bundle",
        "type": "object",
        "properties": content,
        "required": [name for name in content if name not in later],
        "additionalProperties": False,
    }


def _member() -> Schema:
    sides = _several(_whole(8, 4096), 2, 2)
    preprocessing = _object(
        manifest.Preprocessing,
        optional=("background",),
        size=sides,
        short_side=_whole(8, 65_536),
        policy={"enum": list(manifest.POLICIES)},
        crop_fraction=_number(0.05, 1),
        interpolation={"enum": list(manifest.INTERPOLATIONS)},
        mean=_several(_number(-10, 10), 3, 3),
        std=_several(_number(1e-4, 100), 3, 3),
        background=_several(_whole(0, 255), 3, 3),
    )
    head = _object(
        manifest.Head,
        kind={"enum": list(manifest.HEADS)},
        hidden=_several(_whole(1, 65_536), 0, 8),
        ps=_number(0, 0.99),
    )
    return _object(
        manifest.Member,
        arch=_pattern(manifest.ARCH),
        preprocessing=preprocessing,
        head=head,
        groups=_whole(2, 1000),
        weights=_object(manifest.Provenance, source=_text(), sha256=_text(), licence=_text()),
        file=_pattern(manifest.FILE),
    )


def _files() -> Schema:
    record = _object(manifest.FileRecord, sha256=_pattern("[0-9a-f]{64}"), bytes=_whole(8, 2**40))
    return {
        "type": "object",
        "patternProperties": {f"^({manifest.OWN_FILE})$": record},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": manifest.MAX_MEMBERS + 1,
    }


def _sets() -> Schema:
    return _object(
        SetRule, method={"enum": list(SET_METHODS)}, level=_number(1e-3, 1 - 1e-6), limit=_number(0, 1)
    )


def _about() -> Schema:
    number = _whole(0, about.MOST_PICTURES)
    step = _object(
        about.TrainingStep,
        name=_text(1),
        kept=_or_null({"type": "boolean"}),
        epochs=_whole(0, 10**9),
        gain={"anyOf": [{"type": "object", "maxProperties": 0}, _figure()]},
    )
    words = {
        "type": "object",
        "propertyNames": _text(1),
        "additionalProperties": _text(),
        "maxProperties": about.MOST_WORDS,
    }
    return _object(
        about.About,
        pictures=_table(about.PARTS, number),
        counts=_table(about.PARTS, _several(number, 1, manifest.MAX_CLASSES)),
        out_of_fold={"type": "boolean"},
        note=_text(),
        decided=_table(about.DECIDED, _figure()),
        steps=_several(step, 0, about.MOST_STEPS),
        settings=words,
        versions=words,
    )


def _figure() -> Schema:
    value = _or_null(_number(-1e30, 1e30))
    return {
        "type": "object",
        "properties": dict.fromkeys(ENDS, value),
        "required": ["value"],
        "additionalProperties": False,
    }


def _figures() -> Schema:
    return {
        "type": "object",
        "propertyNames": _text(1),
        "additionalProperties": _figure(),
        "maxProperties": 1000,
    }


def _object(shape: type, *, optional: Sequence[str] = (), **properties: Schema) -> Schema:
    """An object with the fields of a dataclass, which must all be described."""
    names = [each.name for each in fields(shape)]
    if sorted(names) != sorted(properties):
        raise ValueError(f"{shape.__name__} has {names}, and described are {sorted(properties)}")
    return {
        "type": "object",
        "properties": {name: properties[name] for name in names},
        "required": [name for name in names if name not in optional],
        "additionalProperties": False,
    }


def _table(keys: Sequence[str], value: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": dict.fromkeys(keys, value), "additionalProperties": False}


def _several(item: Schema, least: int = 0, most: int | None = None) -> Schema:
    limits = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": item, **limits}


def _text(least: int = 0) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": MAX_NAME}


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def schema_text() -> str:
    """Return the schema as it lies in the docs."""
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
