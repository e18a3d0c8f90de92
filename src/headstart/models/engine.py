"""Inference engines for what is frozen: ONNX Runtime on a CPU where it is faster, PyTorch elsewhere.

Below the line nothing is differentiated, so it runs as an inference engine would run it. Measured
for mobilenetv2_100 at batch 32 on two AVX-512 cores: ONNX Runtime 274 pictures a second, eager
float32 62, eager bfloat16 182. Which is faster differs between bodies and machines, so both are
timed on a few pictures when a graph is made, and the result is kept beside it. This module loads
torch only where a graph must be made; a graph made before is found again by `cached_engine` without it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.environment import core_count
from headstart.errors import ConfigError, HeadstartError, InputMissingError, UsageError
from headstart.faults import in_parts
from headstart.ordering import batch_bounds
from headstart.pruning import drop_least_recent, mark_used
from headstart.storage import cache_dir, content_key, read_json, sha256_bytes, write_atomic, write_json
from headstart.types import Batch, Size

if TYPE_CHECKING:
    import torch

    from headstart.models.classifier import Classifier
    from headstart.models.parts import Part

# Part of every cache key: a graph made by another version of this module is not used.
ENGINE_VERSION = 4
# Largest difference from eager PyTorch that is let pass, relative to the largest activation.
TOLERANCE = 1e-3
# bfloat16 has 8 significant bits, of which a deep network loses two or three.
HALF_TOLERANCE = 5e-2
# How many pictures agreement is checked and speed is measured on.
CHECKED = 4
# How many pictures a thread runs at a time. The activations of two stay in the processor's cache; those of
# a batch of 32 fill 400 MB, whose pages are new to the process. Processor time a picture on two busy cores,
# with two threads inside a call on 32 at once, and with one on each two: mobilenetv2_100 10.3 ms (14.0 in
# the first batch, for its page faults) and 8.1, resnet34 74 and 72. Of one at a time convnext_tiny gave
# other last bits.
AT_ONCE = 2
# Eager PyTorch must be faster by this factor to be taken: a graph spares later runs the import of torch.
CLEARLY = 1.1
# Compiling takes about a minute, and saves a part of each picture's time: it pays from so many on.
COMPILE_FROM = 500_000
ENGINES = ("auto", "onnxruntime", "eager", "compiled")
# What the cached graphs together may take on the disk.
CACHE_BYTES = 4 * 2**30

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Turns pictures into the activations at a frozen line."""

    @property
    def name(self) -> str:
        """What runs it, in a word or two."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return activations (batch, …) of pictures (batch, height, width, 3)."""


@dataclass(frozen=True)
class GraphFacts:
    """What a cached graph expects and gives; enough to prepare pictures for it without torch."""

    arch: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float
    image_size: Size
    shape: tuple[int, ...]

    @property
    def feature_count(self) -> int:
        """The number of activations per picture."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Speeds:
    """Pictures a second that ONNX Runtime and eager PyTorch did here."""

    onnxruntime: float
    eager: float

    @property
    def reason(self) -> str:
        """Why eager PyTorch is taken; empty where ONNX Runtime is."""
        if self.eager <= CLEARLY * self.onnxruntime:
            return ""
        return (
            f"it does {self.eager:.3g} pictures a second here, "
            f"and ONNX Runtime does {self.onnxruntime:.3g} of them"
        )


class OnnxEngine:
    """Runs a graph by ONNX Runtime on the CPU; outputs do not depend on how pictures are batched.

    `graph` is a file or its bytes; `threads` is how many run pictures side by side in one call, a few
    each (default: one per core); `speeds` are those measured when the graph was made. Raises `ConfigError`
    when ONNX Runtime cannot read the graph.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graph: Path | bytes,
        *,
        threads: int | None = None,
        facts: GraphFacts | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Each thread runs a few pictures alone: none waits for another one at each of the layers.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        model = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception of its own for each status
            raise ConfigError(f"ONNX Runtime cannot read the graph: {str(error)[:200]}") from error
        self._input = self._session.get_inputs()[0].name
        self.threads = threads or core_count()
        self._pool = ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="engine")
        self.facts, self.speeds = facts, speeds

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return activations (batch, …) of uint8 pictures (batch, height, width, 3)."""
        if len(pixels) <= AT_ONCE:
            return self._run(pixels)
        waiting = deque(enumerate(pairwise(batch_bounds(len(pixels), AT_ONCE).tolist())))
        done: dict[int, NDArray[np.float32]] = {}

        def work() -> None:
            while True:
                try:
                    number, (begin, end) = waiting.popleft()
                except IndexError:  # another thread took the last ones
                    return
                done[number] = self._run(pixels[begin:end])

        # The caller works, too: a few small pictures are done before another thread is awake.
        helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(waiting)) - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        return np.concatenate([done[number] for number in sorted(done)])

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        (output,) = self._session.run(None, {self._input: np.ascontiguousarray(pixels)})
        return np.asarray(output, np.float32)


class EagerEngine:
    """Runs the lower part of a classifier as it is, in channels-last memory, without gradients.

    On a GPU that supports it, convolutions run in bfloat16 and activations come back as float32.
    `reason` says why no faster engine was taken, where that was tried.
    """

    name = "eager"

    def __init__(self, part: torch.nn.Module, *, reason: str = "") -> None:
        import torch

        self._part = part
        self.reason = reason
        first = next(iter(part.parameters()), torch.zeros(()))
        self._device = first.device
        self._fits: dict[str, int] = {}
        self._bfloat16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return activations (batch, …) of uint8 pictures (batch, height, width, 3)."""
        rows = np.arange(len(pixels))
        return in_parts(
            self._of_parts, Batch(pixels, rows, rows), self._device, fits=self._fits, key="pictures"
        )

    def _of_parts(self, parts: list[Batch]) -> NDArray[np.float32]:
        found = [self._of_part(part) for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _of_part(self, part: Batch) -> NDArray[np.float32]:
        import torch

        from headstart.models.backbones import evaluating

        inputs = torch.as_tensor(part.inputs).permute(0, 3, 1, 2).to(self._device, non_blocking=True)
        half = (
            torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else contextlib.nullcontext()
        )
        with evaluating(self._part), torch.inference_mode(), half:
            activations: NDArray[np.float32] = self._part(inputs).float().cpu().numpy()
        return activations


def frozen_engine(
    classifier: Classifier,
    *,
    size: Size,
    line: int | None = None,
    identity: str | None = None,
    prefer: str = "auto",
    threads: int | None = None,
    pictures: NDArray[np.uint8] | None = None,
    ahead: int = 0,
) -> Engine:
    """Return an engine for what lies below `line` (default: the classifier's frozen line).

    It takes pictures of `size`. `identity` (see `weights_identity`) is given only for a body that
    is as its weights file is: then the graph is kept in the cache and found again. `prefer` is
    `auto`, `onnxruntime`, `compiled` or `eager`; `auto` takes ONNX Runtime on a CPU where the export
    succeeds, agrees with eager PyTorch and is not clearly slower, and on a GPU what `torch.compile` makes
    where `ahead` pictures are enough to pay for it, and that agrees. `pictures` (uint8, of `size`) are what
    agreement and speed are tried on (a batch; on a CPU the first few of it); noise where none are given.
    The classifier's modes are left as they are. Raises `UsageError` when nothing is frozen, when the body
    does not take pictures of `size`, when batch norm below the line still collects statistics, or when
    `onnxruntime` or `compiled` is asked for and cannot run the body.
    """
    if prefer not in ENGINES:
        raise UsageError(f"there is no engine {prefer!r}", f"engines are {', '.join(ENGINES)}")
    if classifier.frozen_batch_norm == "train":
        raise UsageError(
            "batch norm below the line is set to train, so its output changes",
            "set frozen_batch_norm to 'eval'",
        )
    line = classifier.frozen_line if line is None else line
    part = classifier.lower(line)
    facts = _facts(classifier, line, size)
    if pictures is None:
        pictures = np.random.default_rng(0).integers(0, 256, (CHECKED, *size, 3), np.uint8)
    on_cpu = classifier.pixel_mean.device.type == "cpu"
    if prefer == "compiled" or (prefer == "auto" and not on_cpu and ahead >= COMPILE_FROM):
        return _compiled(part, pictures, must=prefer == "compiled")
    if prefer == "eager" or (prefer == "auto" and not on_cpu):
        return EagerEngine(part)
    key = _key(identity, size, None if line == classifier.head_stage else line) if identity else None
    try:
        engine = _graph_engine(part, facts, key, pictures, threads)
    except Exception as error:  # an exporter may raise anything about a body that it does not know
        if prefer == "onnxruntime":
            reason = _first_line(error)
            raise UsageError(f"{part.arch} cannot be run by ONNX Runtime: {reason}") from error
        return _eager_after_all(part, _first_line(error))
    if prefer == "auto" and engine.speeds is not None and engine.speeds.reason:
        return _eager_after_all(part, engine.speeds.reason)
    return engine


def _graph_engine(
    part: Part, facts: GraphFacts, key: str | None, pictures: NDArray[np.uint8], threads: int | None
) -> OnnxEngine:
    """Find the graph of a part in the cache, or make, check and time one, and keep it where it has a key."""
    from headstart.models.graph import content_of, export_graph

    content = content_of(part)
    known = _load(key, threads, content=content) if key else None
    if known is not None:
        return known
    graph = export_graph(part, facts.image_size)
    trial = OnnxEngine(graph, threads=threads, facts=facts)
    speeds = _compare(trial, EagerEngine(part), pictures[:CHECKED], TOLERANCE, timed=AT_ONCE * trial.threads)
    if key:
        _store(key, graph, facts, content, speeds)
    trial.speeds = speeds
    return trial


def _compiled(part: Part, pictures: NDArray[np.uint8], *, must: bool) -> Engine:
    from headstart.models.compiled import CompiledEngine

    try:
        engine = CompiledEngine(part)
        # All of them: the first batch decides the size that is compiled for.
        _compare(engine, EagerEngine(part), pictures, HALF_TOLERANCE)
    except Exception as error:  # a compiler may raise anything about a body that it does not know
        if must:
            raise UsageError(f"{part.arch} cannot be compiled: {_first_line(error)}") from error
        return _eager_after_all(part, _first_line(error))
    return engine


def _eager_after_all(part: Part, reason: str) -> EagerEngine:
    log.info("%s runs in eager PyTorch: %s", part.arch, reason)
    return EagerEngine(part, reason=reason)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def cached_engine(
    identity: str, size: Size, line: int | None = None, *, threads: int | None = None
) -> OnnxEngine | None:
    """Return the engine that `frozen_engine` made for these weights before, or None; loads no torch.

    `line` is a stage number, or None for the line at the head. The graph's SHA-256 is checked: an
    altered one is not used. None, too, where eager PyTorch was clearly faster.
    """
    known = _load(_key(identity, size, line), threads)
    return None if known is None or (known.speeds is not None and known.speeds.reason) else known


def _key(identity: str, size: Size, line: int | None) -> str:
    # Agreement and speed were those of one version of the runtime.
    runtime = version("onnxruntime")
    place = "head" if line is None else line
    return content_key("graph", ENGINE_VERSION, runtime, identity, list(size), place)


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_dir() / "graphs"
    return folder / f"{key}.onnx", folder / f"{key}.json"


def _load(key: str, threads: int | None, *, content: str | None = None) -> OnnxEngine | None:
    """The cached graph, if it is whole and (where that is known) made from tensors of this content."""
    path, sidecar = _paths(key)
    try:
        said = read_json(sidecar)
        graph = path.read_bytes()
        if sha256_bytes(graph) != said["sha256"] or (content and said["content"] != content):
            return None
        speeds = Speeds(*(float(said["speeds"][name]) for name in ("onnxruntime", "eager")))
        engine = OnnxEngine(graph, threads=threads, facts=_read_facts(said["facts"]), speeds=speeds)
    except (OSError, InputMissingError, ConfigError, KeyError, TypeError, ValueError):
        return None
    mark_used(path)
    mark_used(sidecar)
    return engine


def _store(key: str, graph: bytes, facts: GraphFacts, content: str, speeds: Speeds) -> None:
    path, sidecar = _paths(key)
    said = {"sha256": sha256_bytes(graph), "content": content}
    try:
        write_atomic(path, graph)
        write_json(sidecar, said | {"facts": asdict(facts), "speeds": asdict(speeds)})
        drop_least_recent(path.parent, CACHE_BYTES)
    except HeadstartError as error:  # a cache that cannot be written costs time, not the run
        log.warning("the graph could not be cached: %s", error)


def _read_facts(said: Mapping[str, Any]) -> GraphFacts:
    return GraphFacts(
        arch=str(said["arch"]),
        mean=_three(said["mean"]),
        std=_three(said["std"]),
        interpolation=str(said["interpolation"]),
        crop_fraction=float(said["crop_fraction"]),
        image_size=(int(said["image_size"][0]), int(said["image_size"][1])),
        shape=tuple(int(side) for side in said["shape"]),
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return (float(red), float(green), float(blue))


def _facts(classifier: Classifier, line: int, size: Size) -> GraphFacts:
    info = classifier.info
    return GraphFacts(
        arch=info.arch,
        mean=info.mean,
        std=info.std,
        interpolation=info.interpolation,
        crop_fraction=info.crop_fraction,
        image_size=size,
        shape=classifier.activation_shape(line, size),
    )


def _compare(
    engine: Engine, eager: EagerEngine, pixels: NDArray[np.uint8], tolerance: float, *, timed: int = 1
) -> Speeds:
    """Return how fast both are on a few pictures; raise `ValueError` where what they give differs.

    `timed`: on how many at least, so that every thread has some, as in a batch.
    """
    ours, theirs = engine(pixels), eager(pixels)
    if ours.shape != theirs.shape:
        raise ValueError(f"{engine.name} gives {ours.shape}, PyTorch {theirs.shape}")
    difference = float(np.abs(ours - theirs).max()) / (float(np.abs(theirs).max()) + 1e-12)
    if not difference <= tolerance:
        raise ValueError(f"{engine.name} and PyTorch differ by {difference:.1e} of the largest activation")
    pixels = np.resize(pixels, (max(timed, len(pixels)), *pixels.shape[1:]))
    return Speeds(len(pixels) / _seconds(engine, pixels), len(pixels) / _seconds(eager, pixels))


def _seconds(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """The better of two runs; the first ever, which allocates, has been."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        engine(pixels)
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)
