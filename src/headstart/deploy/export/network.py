"""What an exported graph computes, in parts: prepared pictures → logits → probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from headstart.evaluation import Novelty
from headstart.models import Classifier
from headstart.types import Task

# As `Predictions` has it: the logarithm of a mean probability needs a floor.
_SMALLEST = 1e-37


class Network(nn.Module):
    """Prepared pictures, uint8 (batch, height, width, 3) → logits (looks, batch, classes) [, features].

    A look is one network's one view: `views` holds (quarter turns, mirrored) of each view, as `EvalPrepare`
    has them, the plain one first. Features (batch, features) are what enters the first network's head.
    """

    def __init__(
        self, models: Sequence[Classifier], views: Sequence[tuple[int, bool]], *, features: bool = False
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.views = tuple(views)
        self.with_features = features

    def forward(self, prepared: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and the features where they are wanted."""
        pictures = prepared.permute(0, 3, 1, 2)
        logits: list[torch.Tensor] = []
        features = None
        for model in self.models:
            assert isinstance(model, Classifier)
            for turns, mirrored in self.views:
                seen = torch.rot90(pictures, turns, (2, 3)) if turns else pictures
                inside = model.run_stages(
                    model.standardise(seen.flip(3) if mirrored else seen), 0, model.head_stage
                )
                logits.append(model.run_stages(inside, model.head_stage, len(model.stages)))
                features = inside.flatten(1) if features is None else features
        stacked = torch.stack(logits)
        if self.with_features and features is not None:
            return stacked, features
        return stacked


class Deciding(nn.Module):
    """Logits (looks, batch, classes) [, features] → probabilities (batch, classes) [, strangeness (batch,)].

    Several looks are averaged as `evaluation.average` does; then come the temperature, the scaling by class,
    and softmax (for tags: sigmoid). Strangeness above 1 is none of the classes.
    """

    def __init__(
        self,
        task: Task,
        temperature: float = 1.0,
        scaling: tuple[Sequence[float], Sequence[float]] | None = None,
        novelty: Novelty | None = None,
    ) -> None:
        super().__init__()
        self.tags = task is Task.MULTI_LABEL
        factors, offsets = scaling or ((1.0,), (0.0,))
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.float32) / temperature)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32))
        self.blocks = 0 if novelty is None else novelty.blocks
        if novelty is not None:
            self.limit = novelty.limit
            for name in ("mean", "scale", "axes"):
                self.register_buffer(name, torch.from_numpy(novelty.to_arrays()[name]))

    def forward(
        self, logits: torch.Tensor, features: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities, and the strangeness where features are given."""
        scaled = self._averaged(logits) * self.get_buffer("factors") + self.get_buffer("offsets")
        probabilities = torch.sigmoid(scaled) if self.tags else torch.softmax(scaled, 1)
        if features is None:
            return probabilities
        return probabilities, self._strangeness(features)

    def _averaged(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[0] == 1:
            return logits[0]
        if not self.tags:
            mean = torch.softmax(logits, 2).mean(0)
            return torch.log(torch.clamp(mean, min=_SMALLEST))
        mean, rest = torch.sigmoid(logits).mean(0), torch.sigmoid(-logits).mean(0)
        return torch.log(torch.clamp(mean, min=_SMALLEST)) - torch.log(torch.clamp(rest, min=_SMALLEST))

    def _strangeness(self, features: torch.Tensor) -> torch.Tensor:
        parts = features.chunk(self.blocks, 1)
        unit = torch.cat([_of_unit_length(part) for part in parts], 1)
        standard = (unit - self.get_buffer("mean")) * self.get_buffer("scale")
        axes = self.get_buffer("axes")
        outside = standard - torch.matmul(torch.matmul(standard, axes), axes.t())
        return torch.sqrt(outside.square().sum(1)) / self.limit


def _of_unit_length(rows: torch.Tensor) -> torch.Tensor:
    return rows / torch.clamp(torch.sqrt(rows.square().sum(1, keepdim=True)), min=1e-12)


class Whole(nn.Module):
    """All of it in one: pictures (batch, height, width, 3) → probabilities [, strangeness].

    `preparing` is None where pictures come prepared.
    """

    def __init__(self, preparing: nn.Module | None, network: Network, deciding: Deciding) -> None:
        super().__init__()
        self.preparing, self.network, self.deciding = preparing, network, deciding

    def forward(self, pixels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities, and the strangeness where the network gives features."""
        prepared = pixels if self.preparing is None else self.preparing(pixels)
        found = self.network(prepared)
        decided: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = (
            self.deciding(*found) if isinstance(found, tuple) else self.deciding(found)
        )
        return decided
