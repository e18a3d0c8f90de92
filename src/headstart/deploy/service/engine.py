"""The networks of a bundle on whatever runs them fastest here: ONNX Runtime on a CPU, where that is PyTorch's
better.

This is the one place that knows; a predictor that chooses by itself makes it superfluous.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from headstart.deploy.bundle import Bundle
from headstart.errors import UsageError
from headstart.models import frozen_engine

if TYPE_CHECKING:
    from headstart.models import Classifier
    from headstart.models.engine import Engine

ENGINES = ("auto", "onnxruntime", "eager")


def with_engines(bundle: Bundle, *, prefer: str = "auto", threads: int | None = None) -> tuple[Bundle, str]:
    """Return a bundle that says the same and runs faster, where it can, and what runs it.

    `prefer`: see `models.frozen_engine`, which tries agreement and speed. `threads`: side by side in one
    call. The networks must lie on the CPU: on another device the bundle is returned as it is. Raises
    `UsageError` for an engine that there is not, or that was asked for by name and cannot run a network.
    """
    if prefer not in ENGINES:
        raise UsageError(f"there is no engine {prefer!r}", f"engines are {', '.join(ENGINES)}")
    if prefer == "eager":
        return bundle, "eager"
    engines = [
        frozen_engine(model, size=model.image_size, line=model.head_stage, prefer=prefer, threads=threads)
        for model in bundle.models
    ]
    names = sorted({engine.name for engine in engines}, reverse=True)
    if names == ["eager"]:
        return bundle, "eager"
    models = tuple(
        cast("Classifier", _Accelerated(model, engine)) if engine.name == "onnxruntime" else model
        for model, engine in zip(bundle.models, engines, strict=True)
    )
    return replace(bundle, models=models), " and ".join(names)


class _Accelerated(nn.Module):
    """A classifier whose body an engine runs; what predicting asks of a classifier, it has.

    Pixels are uint8 (batch, 3, height, width) in channels-last memory, as the prediction loop gives them.
    """

    def __init__(self, model: Classifier, engine: Engine) -> None:
        super().__init__()
        # In a tuple, so that the body, which is not used, is not moved and switched with the rest.
        self._model, self._engine = (model,), engine
        self.head_stage, self.stages = model.head_stage, model.stages
        self.eval()

    def standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels as they are: the engine's graph does this, too."""
        return pixels

    def run_stages(self, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Run the body by the engine, from pixels, and the head by itself."""
        if first == 0:
            values = torch.from_numpy(self._engine(values.permute(0, 2, 3, 1).numpy()))
        if last > self.head_stage:
            values = self._model[0].run_stages(values, self.head_stage, last)
        return values

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes)."""
        return self.run_stages(pixels, 0, len(self.stages))
