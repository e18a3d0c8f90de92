"""What a bundle says of itself: the manifest, read strictly.

Nothing that is named in a manifest is imported, joined to a path or fetched: architectures and files
are looked up in closed lists, and every number has a range.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast, get_args

from headstart.augment import POLICIES as TTA_POLICIES
from headstart.augment.warp import Interpolation, Policy
from headstart.data.colours import WHITE, Background
from headstart.errors import ConfigError
from headstart.evaluation import SET_METHODS, SetRule
from headstart.types import Size, Task

SCHEMA = 1

VIEWS = ("plain", "flips", "dihedral")
POLICIES = get_args(Policy)
INTERPOLATIONS = get_args(Interpolation)
HEADS = ("linear", "course")

MAX_CLASSES = 50_000
MAX_NAME = 1000
MAX_MEMBERS = 64

# timm's own spelling of a model, with an optional tag; it leaves no room for `hf-hub:` or a path.
_ARCH = re.compile(r"[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"model(-[0-9]{1,2})?\.safetensors")
_OWN_FILE = re.compile(rf"{_FILE.pattern}|novelty\.safetensors")
NOVELTY_FILE = "novelty.safetensors"
# Fields that came later, and what stands for them in a bundle that has none: they are written only where they
# say something else. So an older headstart reads whatever it understands, and refuses the rest by name.
_LATER: Mapping[str, object] = {"tta_policy": "flip", "scaling": None, "sets": None, "novelty": None}


@dataclass(frozen=True)
class Head:
    """The head's form: `kind` (`linear` or `course`), the widths of its hidden layers, its dropout."""

    kind: str = "linear"
    hidden: tuple[int, ...] = ()
    ps: float = 0.0


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input.

    `short_side`: what decoding reduces a picture towards, in pixels; `size`: (height, width) of the
    input; `policy`: what becomes of other shapes (`crop`, `squish`, `pad`); `crop_fraction` in (0, 1];
    `interpolation`: the name of the filter; `mean`, `std`: of red, green and blue on the scale 0 … 1.
    `background`: red, green and blue, 0 … 255, which transparency is laid on; white in bundles that were
    written before there was a choice.
    """

    size: Size
    short_side: int
    policy: Policy = "crop"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background: Background = WHITE


@dataclass(frozen=True)
class Provenance:
    """Where the pretrained weights came from: a hub name or a file's name, its SHA-256, its licence."""

    source: str = ""
    sha256: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Member:
    """One network of the bundle; an ensemble has several.

    `arch`: timm's name; `groups`: how many there are for training on; `file`: where its weights lie.
    """

    arch: str
    preprocessing: Preprocessing
    head: Head = field(default_factory=Head)
    groups: int = 3
    weights: Provenance = field(default_factory=Provenance)
    file: str = "model.safetensors"


@dataclass(frozen=True)
class FileRecord:
    """The SHA-256 and the size in bytes that a file of the bundle must have."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class NoveltyRule:
    """By what a picture is called none of the classes; the numbers lie in a file of the bundle's own.

    `limit`: the distance from which on; `rate`: the share of known pictures that it turns away.
    """

    limit: float
    rate: float


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle except the weights.

    `classes`: in the order of the logits. `temperature` divides the logits. `thresholds`: one per
    class, for tags. `views`: what leaves a picture's class as it is (`plain`: nothing, `flips`, or the
    `dihedral` eight); `tta`: whether predictions are averaged over several views unless asked otherwise,
    and `tta_policy` over which (see `augment.POLICIES`). `scaling`: the factor and the offset of each
    class's logit after the temperature. `sets`: how sets of classes are made. `novelty`: by what a picture
    is called none of the classes.
    `metrics`: name → {"value", "low", "high"}, with the ends of the 95 % interval. `data`: the
    fingerprint of the pictures that it learned from.
    """

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    task: Task = Task.SINGLE_LABEL
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    views: str = "plain"
    tta: bool = False
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    data: str = ""
    headstart: str = ""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    schema: int = SCHEMA
    tta_policy: str = "flip"
    scaling: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    sets: SetRule | None = None
    novelty: NoveltyRule | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON can hold it; `manifest_from` reads it back."""
        fields = {"schema": self.schema, **asdict(self), "task": str(self.task)}
        return {name: value for name, value in fields.items() if (name, value) not in _LATER.items()}


def manifest_from(value: object) -> Manifest:
    """Read a manifest from parsed JSON.

    Raises `ConfigError` that names the field for whatever is missing, unknown, of the wrong type, out
    of its range, or at odds with another field.
    """
    if isinstance(value, dict) and value.get("schema") != SCHEMA:
        raise ConfigError(
            f"the bundle has schema {str(value.get('schema'))[:40]!r}; this headstart reads {SCHEMA}",
            "upgrade headstart",
        )
    fields = _fields(value, "manifest", Manifest, later=_LATER)
    classes = _classes(fields["classes"])
    thresholds = fields["thresholds"]
    manifest = Manifest(
        members=tuple(
            _member(item, f"members[{number}]")
            for number, item in enumerate(_list(fields["members"], "members", 1, MAX_MEMBERS))
        ),
        classes=classes,
        task=Task(_choice(fields["task"], "task", [str(task) for task in Task])),
        temperature=_number(fields["temperature"], "temperature", 0.01, 100.0),
        thresholds=None if thresholds is None else _numbers(thresholds, "thresholds", len(classes), 0.0, 1.0),
        views=_choice(fields["views"], "views", VIEWS),
        tta=_boolean(fields["tta"], "tta"),
        metrics=_metrics(fields["metrics"]),
        data=_text(fields["data"], "data"),
        headstart=_text(fields["headstart"], "headstart"),
        files=_files(fields["files"]),
        tta_policy=_choice(fields["tta_policy"], "tta_policy", tuple(TTA_POLICIES)),
        scaling=_scaling(fields["scaling"], len(classes)),
        sets=_sets(fields["sets"]),
        novelty=_novelty(fields["novelty"]),
    )
    _check_together(manifest)
    return manifest


def _check_together(manifest: Manifest) -> None:
    names = [member.file for member in manifest.members]
    names += [NOVELTY_FILE] if manifest.novelty is not None else []
    if len(set(names)) < len(names) or set(names) != set(manifest.files):
        raise _wrong("files", f"are not those of the members ({', '.join(names[:5])})")
    if manifest.task is Task.MULTI_LABEL and manifest.sets is not None:
        raise _wrong("sets", "have no meaning for tags")
    if manifest.task is Task.SINGLE_LABEL and len(manifest.classes) < 2:
        raise _wrong("classes", "are fewer than two")
    for member in manifest.members:
        # The head alone must fit in the file, so that a lie about its widths costs no memory.
        widths = [*member.head.hidden, len(manifest.classes)]
        least = sum(before * after for before, after in itertools.pairwise(widths))
        if 4 * max(least, len(manifest.classes)) > manifest.files[member.file].bytes:
            raise _wrong(f"head of {member.file}", "does not fit in the file")


def _member(value: object, name: str) -> Member:
    fields = _fields(value, name, Member)
    head = _fields(fields["head"], f"{name}.head", Head)
    weights = _fields(fields["weights"], f"{name}.weights", Provenance)
    return Member(
        arch=_matching(fields["arch"], f"{name}.arch", _ARCH),
        preprocessing=_preprocessing(fields["preprocessing"], f"{name}.preprocessing"),
        head=Head(
            kind=_choice(head["kind"], f"{name}.head.kind", HEADS),
            hidden=tuple(
                _whole(width, f"{name}.head.hidden", 1, 65_536)
                for width in _list(head["hidden"], f"{name}.head.hidden", 0, 8)
            ),
            ps=_number(head["ps"], f"{name}.head.ps", 0.0, 0.99),
        ),
        groups=_whole(fields["groups"], f"{name}.groups", 2, 1000),
        weights=Provenance(**{key: _text(text, f"{name}.weights.{key}") for key, text in weights.items()}),
        file=_matching(fields["file"], f"{name}.file", _FILE),
    )


def _preprocessing(value: object, name: str) -> Preprocessing:
    fields = _fields(value, name, Preprocessing, later={"background": list(WHITE)})
    height, width = (
        _whole(side, f"{name}.size", 8, 4096) for side in _list(fields["size"], f"{name}.size", 2, 2)
    )
    red, green, blue = _numbers(fields["mean"], f"{name}.mean", 3, -10.0, 10.0)
    red_std, green_std, blue_std = _numbers(fields["std"], f"{name}.std", 3, 1e-4, 100.0)
    red_below, green_below, blue_below = (
        _whole(part, f"{name}.background", 0, 255)
        for part in _list(fields["background"], f"{name}.background", 3, 3)
    )
    return Preprocessing(
        size=(height, width),
        short_side=_whole(fields["short_side"], f"{name}.short_side", 8, 65_536),
        policy=cast(Policy, _choice(fields["policy"], f"{name}.policy", POLICIES)),
        crop_fraction=_number(fields["crop_fraction"], f"{name}.crop_fraction", 0.05, 1.0),
        interpolation=cast(
            Interpolation, _choice(fields["interpolation"], f"{name}.interpolation", INTERPOLATIONS)
        ),
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        background=(red_below, green_below, blue_below),
    )


def _classes(value: object) -> tuple[str, ...]:
    names = tuple(_text(name, "classes", 1) for name in _list(value, "classes", 1, MAX_CLASSES))
    if len(set(names)) < len(names):
        raise _wrong("classes", "hold a name twice")
    return names


def _metrics(value: object) -> dict[str, dict[str, float | None]]:
    if not isinstance(value, dict) or len(value) > 1000:
        raise _wrong("metrics", "are not a table of up to 1000")
    ends = ("value", "low", "high")
    found: dict[str, dict[str, float | None]] = {}
    for name, interval in value.items():
        if not isinstance(interval, dict) or not set(interval) <= set(ends) or "value" not in interval:
            raise _wrong(f"metrics[{name[:40]!r}]", "is not a value with the ends of its interval")
        found[_text(name, "metrics", 1)] = {
            end: None if number is None else _number(number, "metrics", -1e30, 1e30)
            for end, number in interval.items()
        }
    return found


def _files(value: object) -> dict[str, FileRecord]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_MEMBERS + 1:
        raise _wrong("files", f"are not a table of 1 to {MAX_MEMBERS + 1}")
    records = {}
    for file, record in value.items():
        fields = _fields(record, "files", FileRecord)
        records[_matching(file, "files", _OWN_FILE)] = FileRecord(
            _matching(fields["sha256"], "files.sha256", _SHA256),
            _whole(fields["bytes"], "files.bytes", 8, 2**40),
        )
    return records


def _scaling(value: object, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if value is None:
        return None
    factors, offsets = _list(value, "scaling", 2, 2)
    return (
        _numbers(factors, "scaling[0]", count, 1e-3, 1e3),
        _numbers(offsets, "scaling[1]", count, -1e4, 1e4),
    )


def _sets(value: object) -> SetRule | None:
    if value is None:
        return None
    fields = _fields(value, "sets", SetRule)
    return SetRule(
        _choice(fields["method"], "sets.method", tuple(SET_METHODS)),
        _number(fields["level"], "sets.level", 1e-3, 1 - 1e-6),
        _number(fields["limit"], "sets.limit", 0.0, 1.0),
    )


def _novelty(value: object) -> NoveltyRule | None:
    if value is None:
        return None
    fields = _fields(value, "novelty", NoveltyRule)
    return NoveltyRule(
        _number(fields["limit"], "novelty.limit", 1e-9, 1e9),
        _number(fields["rate"], "novelty.rate", 0.0, 1.0),
    )


def _wrong(name: str, fault: str) -> ConfigError:
    return ConfigError(f"the bundle's manifest is not valid: {name} {fault}", "make the bundle again")


def _fields(
    value: object, name: str, shape: type, *, later: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The items of an object that must have exactly the fields of the dataclass `shape`.

    `later`: what stands for fields that older bundles of the same schema lack.
    """
    if not isinstance(value, dict):
        raise _wrong(name, "is not an object")
    value = {**(later or {}), **value}
    wanted = set(shape.__dataclass_fields__)  # type: ignore[attr-defined]
    if missing := sorted(wanted - set(value)):
        raise _wrong(name, f"lacks {', '.join(missing[:5])}")
    if unknown := sorted(set(value) - wanted):
        raise _wrong(name, f"has unknown fields: {', '.join(key[:40] for key in unknown[:5])}")
    return value


def _list(value: object, name: str, shortest: int, longest: int) -> Sequence[Any]:
    if not isinstance(value, list) or not shortest <= len(value) <= longest:
        raise _wrong(name, f"is not a list of {shortest} to {longest}")
    return value


def _text(value: object, name: str, shortest: int = 0) -> str:
    if not isinstance(value, str) or not shortest <= len(value) <= MAX_NAME:
        raise _wrong(name, f"is not a text of {shortest} to {MAX_NAME} characters")
    return value


def _matching(value: object, name: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(name, f"{str(value)[:60]!r} is not of the form {pattern.pattern}")
    return value


def _choice(value: object, name: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _wrong(name, f"{str(value)[:40]!r} is none of {', '.join(choices)}")
    return value


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "is neither true nor false")
    return value


def _whole(value: object, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _wrong(name, f"{str(value)[:40]} is not a whole number from {low} to {high}")
    return value


def _number(value: object, name: str, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):  # type: ignore[operator,arg-type]
        raise _wrong(name, f"{str(value)[:40]} is not a number from {low} to {high}")
    return float(value)  # type: ignore[arg-type]


def _numbers(value: object, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
    return tuple(_number(item, name, low, high) for item in _list(value, name, count, count))
