"""Models in service: loaded, run in batches, explained, and exchanged for others while requests go on."""

from __future__ import annotations

import asyncio
import copy
import functools
import io
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from headstart.deploy.bundle import Bundle, load_bundle
from headstart.deploy.predictor import Predictor
from headstart.deploy.service.answers import Said, said_of
from headstart.deploy.service.batching import Batcher
from headstart.deploy.service.gate import MAKING
from headstart.deploy.service.metrics import Metrics
from headstart.deploy.service.problems import FAILED, RefusedError
from headstart.deploy.service.settings import Settings
from headstart.errors import ConfigError, HeadstartError, UsageError
from headstart.storage import content_key
from headstart.types import Pixels

if TYPE_CHECKING:
    from headstart.evaluation import Explanation

log = logging.getLogger("headstart.service")

# So many failures in a row, and the model is not ready any more, until it answers again.
FAILURES = 3
# Heat maps are computed one at a time; so many requests may wait for theirs.
EXPLAINED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Loading:
    """How models are loaded: on which `device`, by which `engine`, with how many `threads`."""

    device: str = "auto"
    engine: str = "auto"
    threads: int | None = None
    batch_size: int = 32


class Hosted:
    """One model in service; made by `load_hosted`.

    `id` tells it from all other models: it is a hash of its manifest, which holds those of its weights.
    `engine`: what runs it. `failures`: how often in a row it failed.
    """

    def __init__(self, name: str, bundle: Bundle, predictor: Predictor, engine: str, device: str) -> None:
        self.name, self.bundle, self.predictor, self.engine = name, bundle, predictor, engine
        self.id = content_key("served", bundle.manifest.to_dict())[:12]
        self.failures = 0
        self._device, self._users, self._explaining = device, 0, 0
        self._batcher: Batcher[bytes, Said] | None = None
        self._explainer: Predictor | None = None
        self._method = ""
        self._one = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @property
    def ready(self) -> bool:
        """Whether it answers: it has not failed several times in a row."""
        return self.failures < FAILURES

    @property
    def batcher(self) -> Batcher[bytes, Said]:
        """What its pictures wait in; there once it was started."""
        assert self._batcher is not None
        return self._batcher

    def start(self, settings: Settings, metrics: Metrics) -> None:
        """Begin to take pictures; called on the event loop."""
        self._batcher = Batcher(
            self._work,
            size=settings.batch_size,
            limit=settings.queue,
            lanes=settings.lanes,
            linger=settings.linger,
            expecting=lambda: metrics.in_flight > 1,
            on_batch=metrics.batches.add,
        )

    def _work(self, pictures: list[bytes], tta: Hashable) -> Sequence[Said]:
        try:
            views = None if tta is None else tta != "none" and str(tta)
            with MAKING.passing():
                found = said_of(self.predictor.predict(pictures, tta=views))
        except Exception:
            self.failures += 1
            raise
        if any(said.status == FAILED for said in found):
            self.failures += 1
        elif any(not said.status for said in found):
            self.failures = 0
        return found

    @contextmanager
    def used(self) -> Iterator[Hosted]:
        """Keep it in service for as long as the block lasts, even where another takes its place."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1

    async def explain(self, picture: bytes, *, label: str | None, method: str) -> Explanation:
        """Return where the model finds what it says; raises `RefusedError` where too many ask for that."""
        if self._explaining >= EXPLAINED_AT_ONCE:
            raise RefusedError(
                503, "QUEUE_FULL", "too many ask for heat maps", "try again a little later", retry_after=2
            )
        self._explaining += 1
        loop = asyncio.get_running_loop()
        work = functools.partial(self._explained, picture, label, method)
        future = loop.run_in_executor(self._one, work)
        future.add_done_callback(self._explained_one)
        return await asyncio.shield(future)

    def _explained_one(self, future: asyncio.Future[Explanation]) -> None:
        self._explaining -= 1
        if not future.cancelled():
            future.exception()  # whoever asked may be gone

    def _explained(self, picture: bytes, label: str | None, method: str) -> Explanation:
        if self._explainer is None:
            # On weights of its own where batches run through PyTorch: what is watched inside a network
            # while its attentions are taken must not be seen by them, nor theirs by it.
            idle = self.engine == "onnxruntime"
            models = self.bundle.models if idle else copy.deepcopy(self.bundle.models)
            own = replace(self.bundle, models=models)
            self._explainer = Predictor(own, device=self._device, threads=1, batch_size=1, trusted=False)
        with MAKING.passing():
            if method == "auto":
                method = self._method = self._method or _method_for(self.bundle)
            (found,) = self._explainer.explain(picture, label=label, method=method)
        return found

    async def close(self) -> None:
        """Let go of it once nobody uses it."""
        while self._users:
            await asyncio.sleep(0.01)
        if self._batcher is not None:
            await self._batcher.close()
        self._one.shutdown(wait=False)
        self.predictor.close()
        if self._explainer is not None:
            self._explainer.close()


def _method_for(bundle: Bundle) -> str:
    from headstart.models import method_for

    return method_for(bundle.models[0])


def load_hosted(name: str, folder: Path, loading: Loading | None = None) -> Hosted:
    """Load a model for service and have it judge a blank picture, so that the first client need not wait.

    Pictures are decoded in child processes: a stranger's bytes may crash or hang no more than those.
    Raises as `load_bundle` does, `UsageError` for a device or an engine that cannot be used, and
    `ConfigError` where the model gives no finite numbers.
    """
    loading = loading or Loading()
    with MAKING.closed():
        bundle = load_bundle(folder)
    predictor = Predictor(
        bundle,
        device=loading.device,
        threads=loading.threads,
        batch_size=loading.batch_size,
        trusted=False,
        engine=loading.engine,
    )
    engine = " and ".join(sorted({choice.name for choice in predictor.prepare()}, reverse=True))
    _warm_up(predictor, folder)
    return Hosted(name, bundle, predictor, engine, loading.device)


def _warm_up(predictor: Predictor, folder: Path) -> None:
    height, width = predictor.manifest.members[0].preprocessing.size
    blank = np.full((height, width, 3), 127, np.uint8)
    # As a file, so that the process that decodes is there, too.
    found = predictor.predict(_png(blank))
    if not np.isfinite(found.probabilities).all():
        raise ConfigError(
            f"the model in {folder} gives no finite numbers", "export it again, or train it again"
        )


def _png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Models:
    """The models in service by their names; the first is the one that answers where none is named."""

    def __init__(self, folders: Mapping[str, Path], loading: Loading | None = None) -> None:
        if not folders:
            raise UsageError("there is no model to serve", "give one model folder, or several")
        self.loading = loading or Loading()
        self.folders = dict(folders)
        self._hosted = {name: load_hosted(name, folder, self.loading) for name, folder in folders.items()}
        self._begin: Callable[[Hosted], None] | None = None
        self._reloading = asyncio.Lock()

    def __iter__(self) -> Iterator[Hosted]:
        return iter(list(self._hosted.values()))

    def __len__(self) -> int:
        return len(self._hosted)

    @property
    def ready(self) -> bool:
        """Whether all of them answer."""
        return all(hosted.ready for hosted in self._hosted.values())

    def named(self, name: str | None) -> Hosted:
        """Return a model by its name; raises `RefusedError` (404) where there is none."""
        if name is None:
            return next(iter(self._hosted.values()))
        found = self._hosted.get(name)
        if found is None:
            raise RefusedError(
                404, "NO_SUCH_MODEL", "there is no model of that name here", "GET /models names them"
            )
        return found

    def start(self, settings: Settings, metrics: Metrics) -> None:
        """Begin to take pictures; called on the event loop."""
        self._begin = functools.partial(Hosted.start, settings=settings, metrics=metrics)
        for hosted in self._hosted.values():
            self._begin(hosted)

    async def reload(self) -> dict[str, str]:
        """Load all models anew from their folders, each beside the old one, which then takes its leave.

        Returns for each name what became of it: `unchanged`, `reloaded`, or why the old one stays. A model
        whose classes are others than before is not taken: who asks for it expects the old ones.
        """
        async with self._reloading:
            return {name: await self._reload_one(name) for name in self.folders}

    async def _reload_one(self, name: str) -> str:
        old = self._hosted[name]
        try:
            new = await asyncio.to_thread(load_hosted, name, self.folders[name], self.loading)
            if new.bundle.manifest.classes != old.bundle.manifest.classes:
                await new.close()
                raise ConfigError("its classes are others than before", "stop the service and start it again")
        except HeadstartError as error:
            log.error("%s stays as it is: error[%s]: %s", name, error.code, error)
            return f"error[{error.code}]: {error}"
        except Exception as error:  # whatever is wrong with a new model, the old one goes on
            log.error("%s stays as it is: %s", name, type(error).__name__)
            return f"error[INTERNAL]: {type(error).__name__}"
        if self._begin is not None:
            self._begin(new)
        self._hosted[name] = new
        await old.close()
        log.info("%s is now %s (it was %s)", name, new.id, old.id)
        return "unchanged" if new.id == old.id else "reloaded"

    async def close(self) -> None:
        """Let all finish what they are at, and let go of them."""
        for hosted in self._hosted.values():
            await hosted.close()
