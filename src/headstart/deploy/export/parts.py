"""A bundle taken apart for export: which networks share a graph, which views it averages, what it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.augment import EvalPrepare, policy_views
from headstart.augment.policies import Symmetries
from headstart.deploy.bundle import Bundle
from headstart.deploy.export.network import Deciding, Network, Whole
from headstart.deploy.export.preparing import Preparing
from headstart.deploy.manifest import Manifest, Preprocessing
from headstart.evaluation import Predictions, average
from headstart.models import Classifier
from headstart.types import Pixels


@dataclass(frozen=True, eq=False)
class GraphPart:
    """What becomes one graph: networks that see the same pictures, their views, and what is decided of
    them."""

    models: tuple[Classifier, ...]
    given: Preprocessing
    views: tuple[EvalPrepare, ...]
    network: Network
    deciding: Deciding

    @property
    def preparing(self) -> Preparing:
        """The plain view as tensor operations."""
        given = self.given
        return Preparing(given.size, given.policy, given.crop_fraction, given.interpolation).eval()

    @property
    def from_prepared(self) -> Whole:
        """Prepared pictures → probabilities."""
        return Whole(None, self.network, self.deciding).eval()

    @property
    def from_pictures(self) -> Whole:
        """Decoded pictures of any size → probabilities."""
        return Whole(self.preparing, self.network, self.deciding).eval()

    def prepared(self, picture: Pixels) -> Pixels:
        """Return a decoded picture as the loader makes it ready: the plain view."""
        return self.views[0](picture)


@dataclass(frozen=True, eq=False)
class Parts:
    """A bundle's graphs; `note` says what a graph cannot hold of what the bundle does, "" for nothing."""

    manifest: Manifest
    graphs: tuple[GraphPart, ...]
    note: str

    def reference(self, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        """Return the probabilities (rows, classes) that eager PyTorch gives decoded pictures.

        Pictures are made ready by the loader's own views, and the outputs averaged and scaled by
        `evaluation`: nothing of an export takes part.
        """
        tables: list[Predictions] = []
        for part in self.graphs:
            for model in part.models:
                for view in part.views:
                    inputs = np.stack([view(picture) for picture in pictures])
                    with torch.inference_mode():
                        logits = model(torch.from_numpy(inputs).permute(0, 3, 1, 2)).float().numpy()
                    tables.append(Predictions(logits, self.manifest.classes, task=self.manifest.task))
        whole = average(tables) if len(tables) > 1 else tables[0]
        scaled = whole.with_temperature(self.manifest.temperature).with_scaling(self.manifest.scaling)
        return scaled.probabilities


def parts_of(bundle: Bundle, *, tta: bool | None = None) -> Parts:
    """Take a bundle apart.

    Networks whose pictures are prepared alike go into one graph; otherwise each has its own, and the mean is
    for the runtime to take. `tta`: whether the graph averages the bundle's views (None: as the bundle says).
    Mirrored and turned views can lie in a graph; others cannot, and the graph then sees the plain view.
    """
    manifest = bundle.manifest
    averaged = manifest.tta if tta is None else tta
    models = [model.cpu().eval().requires_grad_(False) for model in bundle.models]
    alike = len({member.preprocessing for member in manifest.members}) == 1
    groups = [tuple(models)] if alike else [(model,) for model in models]
    graphs, left_out = [], False
    for number, group in enumerate(groups):
        given = manifest.members[number].preprocessing
        views, fewer = _views(manifest, given, averaged)
        left_out |= fewer
        novelty = bundle.novelty if number == 0 else None
        network = Network(group, [(view.turns, view.flip) for view in views], features=novelty is not None)
        deciding = (
            Deciding(manifest.task, manifest.temperature, manifest.scaling, novelty)
            if alike
            else Deciding(manifest.task, novelty=novelty)
        )
        graphs.append(GraphPart(group, given, views, network.eval(), deciding.eval()))
    note = (
        f"predictions of the bundle average the views of {manifest.tta_policy}, which a graph cannot hold: "
        "the export sees the plain view"
    )
    return Parts(manifest, tuple(graphs), note if left_out else "")


def _views(manifest: Manifest, given: Preprocessing, averaged: bool) -> tuple[tuple[EvalPrepare, ...], bool]:
    """The views that a graph averages, the plain one first, and whether the bundle has others."""
    plain = EvalPrepare(given.size, given.policy, given.crop_fraction, given.interpolation)
    if not averaged or (manifest.tta_policy == "flip" and manifest.views == "plain"):
        return (plain,), False
    wanted = policy_views(manifest.tta_policy, plain, cast(Symmetries, manifest.views)).views
    square = given.size[0] == given.size[1]
    held = [view for view in wanted if isinstance(view, EvalPrepare) and (square or view.turns % 2 == 0)]
    return (tuple(held), False) if len(held) == len(wanted) else ((plain,), True)
