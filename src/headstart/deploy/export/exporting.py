"""Export: a bundle becomes a folder of graphs that agree with it, or nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data import Colours, decode
from headstart.deploy.bundle import load_bundle
from headstart.deploy.export.formats import Format, format_named, runner
from headstart.deploy.export.parts import Parts, parts_of
from headstart.deploy.export.verifying import Verification, refuse_disagreement, verify
from headstart.deploy.pictures import Picture, items_of
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.runtime.manifest import INPUTS, MANIFEST, ExportManifest, GraphRecord, Record, SetsRule
from headstart.storage import folder_written_whole, sha256_bytes, write_atomic
from headstart.types import Pixels, Task

MOST_PICTURES = 500
"""So many pictures are looked at, evenly spread over those that are given."""

CALIBRATED_ON = 96


@dataclass(frozen=True)
class Exported:
    """An export as it was written: what it says of itself, the figures of its check, and what to know.

    `unread`: how many of the pictures could not be decoded.
    """

    folder: Path
    manifest: ExportManifest
    verification: Verification
    unread: int
    note: str


def export(
    bundle: str | Path,
    folder: str | Path,
    *,
    format: str = "onnx",
    pictures: Picture | Iterable[Picture],
    input: str = "pictures",
    tta: bool | None = None,
    replace_old: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write a bundle as graphs that hold everything from the decoded picture to the probabilities.

    `format`: a name in `FORMATS`. `pictures`: real ones that the export is checked on, and for `onnx-int8`
    calibrated with: the rest of them checks it, where that is enough. `input`: `pictures`, decoded ones of
    any size, or `prepared`, for those who resize by themselves; the graph that does it then lies beside.
    `tta`: see `parts_of`. Raises `ConfigError` (code EXPORT_DISAGREES) when the export does not agree with
    PyTorch, `InputMissingError` for too few pictures, `OutputError` when `folder` is there already and not
    to be replaced, and as `load_bundle` does; then nothing is left of it.
    """
    kind = format_named(format)
    if input not in INPUTS:
        raise UsageError(f"there is no input {input!r}", f"choose from {', '.join(INPUTS)}")
    prepared = input == "prepared" or kind.only_prepared
    with folder_written_whole(Path(folder), replace=replace_old) as temporary:
        loaded = load_bundle(Path(bundle))
        parts = parts_of(loaded, tta=tta)
        decoded, unread = _decoded(pictures, parts)
        calibration, checked = _divided(decoded, kind)
        manifest = _write(temporary, parts, format, kind, prepared, calibration)
        thresholds = parts.manifest.thresholds
        sizes = (
            sum(record.bytes for record in manifest.files.values()),
            sum(record.bytes for record in loaded.manifest.files.values()),
        )
        found = verify(
            runner(temporary, manifest, parts),
            parts.reference,
            checked,
            None if thresholds is None else np.array(thresholds),
            sizes=sizes,
            tags=manifest.task is Task.MULTI_LABEL,
            on_progress=on_progress,
        )
        refuse_disagreement(kind, found, format)
        manifest = replace(manifest, verification=found.to_dict())
        write_atomic(temporary / MANIFEST, manifest.to_bytes())
    return Exported(Path(folder), manifest, found, unread, parts.note)


def _decoded(pictures: Picture | Iterable[Picture], parts: Parts) -> tuple[list[Pixels], int]:
    """Some of the pictures, decoded as the first network wants them, and how many could not be."""
    items = list(items_of(pictures))
    if not items:
        raise InputMissingError(
            "there are no pictures to check the export on", "name a folder of them with --pictures"
        )
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST_PICTURES)).astype(int))
    given = parts.graphs[0].given
    decoded, unread = [], 0
    for number in chosen.tolist():
        try:
            data = items[number].read()
            pixels = decode(data, short_side=given.short_side, colours=Colours(given.background))
            decoded.append(pixels)
        except DataError:
            unread += 1
    return decoded, unread


def _divided(decoded: Sequence[Pixels], kind: Format) -> tuple[Sequence[Pixels], Sequence[Pixels]]:
    """Pictures to calibrate with, and those to check on: others, where enough remain."""
    if not kind.calibrated:
        return (), decoded
    if len(decoded) < kind.fewest:
        raise InputMissingError(
            f"{len(decoded)} pictures are too few for whole numbers: they take {kind.fewest}",
            "name a folder of more with --pictures",
        )
    count = min(CALIBRATED_ON, max(len(decoded) - kind.fewest, len(decoded) // 3))
    numbers = set(np.linspace(0, len(decoded) - 1, count).astype(int).tolist())
    rest = [picture for number, picture in enumerate(decoded) if number not in numbers]
    return [decoded[number] for number in sorted(numbers)], rest if len(rest) >= kind.fewest else decoded


def _write(
    folder: Path, parts: Parts, name: str, kind: Format, prepared: bool, calibration: Sequence[Pixels]
) -> ExportManifest:
    """Write the graphs and what they say of themselves, the check's figures still to come."""
    records, files = [], {}
    for number, part in enumerate(parts.graphs, 1):
        ending = f".{kind.suffix}" if len(parts.graphs) == 1 else f"-{number}.{kind.suffix}"
        made = kind.make(part, prepared, calibration)
        for stem, data in made.items():
            write_atomic(folder / f"{stem}{ending}", data)
            files[f"{stem}{ending}"] = Record(sha256_bytes(data), len(data))
        given = part.given
        prepare = f"prepare{ending}" if "prepare" in made else None
        records.append(GraphRecord(f"model{ending}", given.size, given.short_side, given.background, prepare))
    bundle = parts.manifest
    sets = bundle.sets
    manifest = ExportManifest(
        format=name,
        input="prepared" if prepared else "pictures",
        classes=bundle.classes,
        task=bundle.task,
        graphs=tuple(records),
        temperature=bundle.temperature,
        scaling=bundle.scaling,
        thresholds=bundle.thresholds,
        sets=None if sets is None else SetsRule(sets.method, sets.level, sets.limit),
        novelty=bundle.novelty is not None,
        views=len(parts.graphs[0].views),
        headstart=bundle.headstart,
        files=files,
    )
    write_atomic(folder / MANIFEST, manifest.to_bytes())
    return manifest
