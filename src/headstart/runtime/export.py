"""An exported model at work: files, bytes or arrays → what they show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from headstart.data.colours import Colours
from headstart.data.images import decode
from headstart.environment import core_count
from headstart.errors import ConfigError, DataError, InputMissingError, UsageError
from headstart.runtime.deciding import combined, set_of, tags_of
from headstart.runtime.manifest import ExportManifest, GraphRecord, read_export, read_graph
from headstart.runtime.onnxfile import check_onnx
from headstart.types import Pixels, Task

Picture: TypeAlias = str | Path | bytes | NDArray[np.uint8]
"""A file, a file's bytes, or decoded pixels, uint8 (height, width, 3)."""

AT_ONCE = 16
"""So many pictures are held, and so many of one size seen by the network, at a time."""

_OUTPUTS = {False: ("probabilities",), True: ("probabilities", "strangeness")}


class Export:
    """A model that `export` wrote as ONNX, loaded by `load_export`; safe to use from several threads.

    `manifest`: what the export says of itself.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        self.manifest: ExportManifest = read_export(folder)
        if not self.manifest.format.startswith("onnx"):
            raise UsageError(
                f"{folder} is an export for {self.manifest.format}, which ONNX Runtime does not run",
                "export with --format onnx for this runtime",
            )
        count = threads or core_count()
        self._graphs = [_Graph(folder, record, self.manifest, count) for record in self.manifest.graphs]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return self.manifest.classes

    def predict(self, pictures: Picture | Iterable[Picture]) -> list[dict[str, Any]]:
        """Return for each picture, in order, what it shows: a dictionary.

        `path` ("" for one in memory) and `status` ("", or the code of what is wrong with the file); then,
        where it could be read, `probabilities` by class, and `label` with its `probability` or `tags`; and
        `set` and `none_of_these` where the model was given rules for them. A folder is not looked into.
        Raises `InputMissingError` for a file that is not there, `UsageError` for what is no picture.
        """
        return list(self.stream(pictures))

    def stream(self, pictures: Picture | Iterable[Picture]) -> Iterator[dict[str, Any]]:
        """Yield what `predict` returns, a few pictures at a time: memory stays bounded for any number."""
        one = isinstance(pictures, str | Path | bytes | np.ndarray)
        several = cast(Iterable[Picture], [pictures] if one else pictures)
        waiting: list[Picture] = []
        for picture in several:
            waiting.append(picture)
            if len(waiting) == AT_ONCE:
                yield from self._predicted(waiting)
                waiting = []
        if waiting:
            yield from self._predicted(waiting)

    def probabilities(
        self, pictures: Sequence[Pixels]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return (rows, classes) and, where the model tells it, the strangeness (rows,) of decoded pictures.

        `pictures`: uint8 (height, width, 3), of any sizes, upright. Raises `UsageError` for other arrays.
        """
        for picture in pictures:
            _check_pixels(picture)
        return self._of_decoded([list(pictures)] * len(self._graphs))

    def _of_decoded(
        self, decoded: Sequence[Sequence[Pixels]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        found = [graph.run(pictures) for graph, pictures in zip(self._graphs, decoded, strict=True)]
        strangeness = found[0][1] if self.manifest.novelty else None
        return combined([part for part, _ in found], self.manifest), strangeness

    def _predicted(self, pictures: Sequence[Picture]) -> Iterator[dict[str, Any]]:
        decoded: list[list[Pixels]] = []
        rows: list[dict[str, Any]] = []
        for picture in pictures:
            row: dict[str, Any] = {
                "path": str(picture) if isinstance(picture, str | Path) else "",
                "status": "",
            }
            rows.append(row)
            try:
                decoded.append(self._decoded(picture))
            except DataError as error:
                row["status"] = error.code
        good = [row for row in rows if not row["status"]]
        if good:
            by_graph = [list(each) for each in zip(*decoded, strict=True)]
            probabilities, strangeness = self._of_decoded(by_graph)
            for number, row in enumerate(good):
                row.update(self._answer(probabilities[number]))
                if strangeness is not None:
                    row["none_of_these"] = bool(strangeness[number] > 1.0)
        yield from rows

    def _decoded(self, picture: Picture) -> list[Pixels]:
        """The picture as each graph wants it decoded."""
        if isinstance(picture, np.ndarray):
            _check_pixels(picture)
            return [picture] * len(self._graphs)
        if not isinstance(picture, str | Path | bytes):
            raise UsageError(
                f"a {type(picture).__name__} is no picture",
                "give paths, bytes or uint8 arrays (height, width, 3)",
            )
        data = picture if isinstance(picture, bytes) else _read(Path(picture))
        ways = {(graph.record.short_side, graph.record.background) for graph in self._graphs}
        found = {
            way: decode(data, short_side=way[0], colours=Colours(background=way[1])) for way in sorted(ways)
        }
        return [found[graph.record.short_side, graph.record.background] for graph in self._graphs]

    def _answer(self, probabilities: NDArray[np.float64]) -> dict[str, Any]:
        manifest = self.manifest
        answer: dict[str, Any] = {
            "probabilities": dict(zip(self.classes, probabilities.tolist(), strict=True))
        }
        if manifest.task is Task.MULTI_LABEL:
            said = tags_of(probabilities, manifest)
            return answer | {"tags": [name for name, yes in zip(self.classes, said, strict=True) if yes]}
        best = int(probabilities.argmax())
        answer |= {"label": self.classes[best], "probability": float(probabilities[best])}
        if manifest.sets is not None:
            inside = set_of(probabilities, manifest.sets)
            answer["set"] = [name for name, yes in zip(self.classes, inside, strict=True) if yes]
        return answer


class _Graph:
    """One graph and its sessions."""

    def __init__(self, folder: Path, record: GraphRecord, manifest: ExportManifest, threads: int) -> None:
        self.record = record
        # Of several graphs only the first one is asked for the strangeness.
        wanted = _OUTPUTS[manifest.novelty and record == manifest.graphs[0]]
        self._run = _session(folder, record.file, manifest, ("pixels",), wanted, threads)
        self._prepare = None
        if record.prepare is not None:
            self._prepare = _session(folder, record.prepare, manifest, ("pixels",), ("prepared",), threads)

    def run(self, pictures: Sequence[Pixels]) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """Return the probabilities (rows, classes), and the strangeness (rows,), of decoded pictures."""
        ready = pictures
        if self._prepare is not None:
            ready = [self._prepare.run(None, {"pixels": picture[None]})[0][0] for picture in pictures]
        found: dict[int, list[NDArray[np.float32]]] = {}
        for numbers in _of_one_size(ready):
            outputs = self._run.run(None, {"pixels": np.stack([ready[number] for number in numbers])})
            for place, number in enumerate(numbers):
                found[number] = [output[place] for output in outputs]
        rows = [found[number] for number in range(len(ready))]
        strangeness = [row[1] for row in rows if len(row) > 1]
        return np.stack([row[0] for row in rows]), np.array(strangeness, np.float64) if strangeness else None


def load_export(folder: str | Path, *, threads: int | None = None) -> Export:
    """Load an exported model; needs NumPy, Pillow and ONNX Runtime, and no torch.

    `threads`: how many ONNX Runtime works with (None: one a core). Raises `InputMissingError` when there is
    no such folder, and `ConfigError` for whatever is not as it was written: an altered byte, a link, a file
    too many, a graph that names other files or holds what is not ONNX's own.

    >>> load_export("export/").predict("flower.jpg")[0]["label"]  # doctest: +SKIP
    'daisy'
    """
    return Export(Path(folder), threads=threads)


def _session(
    folder: Path,
    file: str,
    manifest: ExportManifest,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    threads: int,
) -> Any:
    import onnxruntime

    data = read_graph(folder, file, manifest)
    ports = check_onnx(data, str(folder / file))
    if ports.inputs != inputs or ports.outputs != outputs:
        raise ConfigError(
            f"{folder / file} takes {ports.inputs} and gives {ports.outputs}, not {inputs} and {outputs}",
            "export the model again",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception of its own for each status
        raise ConfigError(
            f"ONNX Runtime cannot read {folder / file}: {str(error)[:200]}", "export the model again"
        ) from error


def _of_one_size(pictures: Sequence[Pixels]) -> list[list[int]]:
    """The numbers of the pictures in groups of one size, of at most `AT_ONCE`."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(number)
    return [
        group[start : start + AT_ONCE] for group in groups.values() for start in range(0, len(group), AT_ONCE)
    ]


def _check_pixels(picture: NDArray[Any]) -> None:
    whole = picture.ndim == 3 and picture.shape[2] == 3 and 0 not in picture.shape
    if picture.dtype != np.uint8 or not whole:
        raise UsageError(
            f"an array of {picture.dtype} and shape {picture.shape} is no decoded picture",
            "give uint8 values 0 … 255 as (height, width, 3)",
        )


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputMissingError(f"there is no picture {path}", "give files of pictures")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", code="UNREADABLE") from error
