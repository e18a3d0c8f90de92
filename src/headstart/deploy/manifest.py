"""What a bundle says of itself: the manifest, read strictly.

Nothing that is named in a manifest is imported, joined to a path or fetched: architectures and files
are looked up in closed lists, and every number has a range.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast, get_args

from headstart.augment import POLICIES as TTA_POLICIES
from headstart.augment.warp import Interpolation, Policy
from headstart.data.colours import WHITE, Background
from headstart.deploy import reading as read
from headstart.deploy.about import About, about_from
from headstart.errors import ConfigError
from headstart.evaluation import SET_METHODS, SetRule
from headstart.types import Size, Task

SCHEMA = 1

VIEWS = ("plain", "flips", "dihedral")
POLICIES = get_args(Policy)
INTERPOLATIONS = get_args(Interpolation)
HEADS = ("linear", "course")

MAX_CLASSES = 50_000
MAX_MEMBERS = 64

# timm's own spelling of a model, with an optional tag; it leaves no room for `hf-hub:` or a path.
ARCH = r"[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?"
_ARCH = re.compile(ARCH)
_SHA256 = re.compile(r"[0-9a-f]{64}")
FILE = r"model(-[0-9]{1,2})?\.safetensors"
_FILE = re.compile(FILE)
OWN_FILE = rf"{FILE}|novelty\.safetensors"
_OWN_FILE = re.compile(OWN_FILE)
NOVELTY_FILE = "novelty.safetensors"
# Fields that came later, and what stands for them in a bundle that has none: they are written only where they
# say something else. So an older headstart reads whatever it understands, and refuses the rest by name.
LATER: Mapping[str, object] = {
    "tta_policy": "flip",
    "scaling": None,
    "sets": None,
    "novelty": None,
    "about": None,
}


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
    fingerprint of the pictures that it learned from. `about`: what only people read: the model card says it.
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
    about: About | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON can hold it; `manifest_from` reads it back."""
        fields = {"schema": self.schema, **asdict(self), "task": str(self.task)}
        return {name: value for name, value in fields.items() if (name, value) not in LATER.items()}


def manifest_from(value: object) -> Manifest:
    """Read a manifest from parsed JSON.

    Raises `ConfigError` that names the field for whatever is missing, unknown, of the wrong type, out
    of its range, or at odds with another field.
    """
    # JSON's true equals 1.
    if isinstance(value, dict) and (type(value.get("schema")) is not int or value["schema"] != SCHEMA):
        raise ConfigError(
            f"the bundle has schema {str(value.get('schema'))[:40]!r}; this headstart reads {SCHEMA}",
            "upgrade headstart",
        )
    fields = read.fields(value, "manifest", Manifest, later=LATER)
    classes = _classes(fields["classes"])
    thresholds = fields["thresholds"]
    manifest = Manifest(
        members=tuple(
            _member(item, f"members[{number}]")
            for number, item in enumerate(read.several(fields["members"], "members", 1, MAX_MEMBERS))
        ),
        classes=classes,
        task=Task(read.choice(fields["task"], "task", [str(task) for task in Task])),
        temperature=read.number(fields["temperature"], "temperature", 0.01, 100.0),
        thresholds=None
        if thresholds is None
        else read.numbers(thresholds, "thresholds", len(classes), 0.0, 1.0),
        views=read.choice(fields["views"], "views", VIEWS),
        tta=read.boolean(fields["tta"], "tta"),
        metrics=read.figures(fields["metrics"], "metrics"),
        data=read.text(fields["data"], "data"),
        headstart=read.text(fields["headstart"], "headstart"),
        files=_files(fields["files"]),
        tta_policy=read.choice(fields["tta_policy"], "tta_policy", tuple(TTA_POLICIES)),
        scaling=_scaling(fields["scaling"], len(classes)),
        sets=_sets(fields["sets"]),
        novelty=_novelty(fields["novelty"]),
        about=about_from(fields["about"], len(classes)),
    )
    _check_together(manifest)
    return manifest


def _check_together(manifest: Manifest) -> None:
    names = [member.file for member in manifest.members]
    names += [NOVELTY_FILE] if manifest.novelty is not None else []
    if len(set(names)) < len(names) or set(names) != set(manifest.files):
        raise read.wrong("files", f"are not those of the members ({', '.join(names[:5])})")
    if manifest.task is Task.MULTI_LABEL and manifest.sets is not None:
        raise read.wrong("sets", "have no meaning for tags")
    if manifest.task is Task.SINGLE_LABEL and len(manifest.classes) < 2:
        raise read.wrong("classes", "are fewer than two")
    for member in manifest.members:
        # The head alone must fit in the file, so that a lie about its widths costs no memory.
        widths = [*member.head.hidden, len(manifest.classes)]
        least = sum(before * after for before, after in itertools.pairwise(widths))
        if 4 * max(least, len(manifest.classes)) > manifest.files[member.file].bytes:
            raise read.wrong(f"head of {member.file}", "does not fit in the file")


def _member(value: object, name: str) -> Member:
    fields = read.fields(value, name, Member)
    head = read.fields(fields["head"], f"{name}.head", Head)
    weights = read.fields(fields["weights"], f"{name}.weights", Provenance)
    return Member(
        arch=read.matching(fields["arch"], f"{name}.arch", _ARCH),
        preprocessing=_preprocessing(fields["preprocessing"], f"{name}.preprocessing"),
        head=Head(
            kind=read.choice(head["kind"], f"{name}.head.kind", HEADS),
            hidden=tuple(
                read.whole(width, f"{name}.head.hidden", 1, 65_536)
                for width in read.several(head["hidden"], f"{name}.head.hidden", 0, 8)
            ),
            ps=read.number(head["ps"], f"{name}.head.ps", 0.0, 0.99),
        ),
        groups=read.whole(fields["groups"], f"{name}.groups", 2, 1000),
        weights=Provenance(
            **{key: read.text(text, f"{name}.weights.{key}") for key, text in weights.items()}
        ),
        file=read.matching(fields["file"], f"{name}.file", _FILE),
    )


def _preprocessing(value: object, name: str) -> Preprocessing:
    fields = read.fields(value, name, Preprocessing, later={"background": list(WHITE)})
    height, width = (
        read.whole(side, f"{name}.size", 8, 4096)
        for side in read.several(fields["size"], f"{name}.size", 2, 2)
    )
    red, green, blue = read.numbers(fields["mean"], f"{name}.mean", 3, -10.0, 10.0)
    red_std, green_std, blue_std = read.numbers(fields["std"], f"{name}.std", 3, 1e-4, 100.0)
    red_below, green_below, blue_below = (
        read.whole(part, f"{name}.background", 0, 255)
        for part in read.several(fields["background"], f"{name}.background", 3, 3)
    )
    return Preprocessing(
        size=(height, width),
        short_side=read.whole(fields["short_side"], f"{name}.short_side", 8, 65_536),
        policy=cast(Policy, read.choice(fields["policy"], f"{name}.policy", POLICIES)),
        crop_fraction=read.number(fields["crop_fraction"], f"{name}.crop_fraction", 0.05, 1.0),
        interpolation=cast(
            Interpolation, read.choice(fields["interpolation"], f"{name}.interpolation", INTERPOLATIONS)
        ),
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        background=(red_below, green_below, blue_below),
    )


def _classes(value: object) -> tuple[str, ...]:
    names = tuple(read.text(name, "classes", 1) for name in read.several(value, "classes", 1, MAX_CLASSES))
    if len(set(names)) < len(names):
        raise read.wrong("classes", "hold a name twice")
    return names


def _files(value: object) -> dict[str, FileRecord]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_MEMBERS + 1:
        raise read.wrong("files", f"are not a table of 1 to {MAX_MEMBERS + 1}")
    records = {}
    for file, record in value.items():
        fields = read.fields(record, "files", FileRecord)
        records[read.matching(file, "files", _OWN_FILE)] = FileRecord(
            read.matching(fields["sha256"], "files.sha256", _SHA256),
            read.whole(fields["bytes"], "files.bytes", 8, 2**40),
        )
    return records


def _scaling(value: object, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if value is None:
        return None
    factors, offsets = read.several(value, "scaling", 2, 2)
    return (
        read.numbers(factors, "scaling[0]", count, 1e-3, 1e3),
        read.numbers(offsets, "scaling[1]", count, -1e4, 1e4),
    )


def _sets(value: object) -> SetRule | None:
    if value is None:
        return None
    fields = read.fields(value, "sets", SetRule)
    return SetRule(
        read.choice(fields["method"], "sets.method", tuple(SET_METHODS)),
        read.number(fields["level"], "sets.level", 1e-3, 1 - 1e-6),
        read.number(fields["limit"], "sets.limit", 0.0, 1.0),
    )


def _novelty(value: object) -> NoveltyRule | None:
    if value is None:
        return None
    fields = read.fields(value, "novelty", NoveltyRule)
    return NoveltyRule(
        read.number(fields["limit"], "novelty.limit", 1e-9, 1e9),
        read.number(fields["rate"], "novelty.rate", 0.0, 1.0),
    )
