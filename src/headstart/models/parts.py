"""Parts of a classifier: what lies below a line, and what lies above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from headstart.models.classifier import Classifier


class WithFeatures(nn.Module):
    """A classifier whose outputs are its logits and, after them, what entered its head.

    Pixels (batch, 3, height, width) in 0 … 255 become (batch, classes + features).
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.train(classifier.training)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes + features): features are flattened."""
        whole = self.classifier
        inside = whole.run_stages(whole.standardise(pixels), 0, whole.head_stage)
        logits = whole.run_stages(inside, whole.head_stage, len(whole.stages))
        return torch.cat([logits, inside.flatten(1)], 1)


class Part(nn.Module):
    """A run of a classifier's stages that shares its parameters; made by `lower` and `upper`."""

    def __init__(self, classifier: Classifier, first: int, last: int) -> None:
        super().__init__()
        # In a tuple, so that the classifier does not become a child and its parameters ours.
        self._whole = (classifier,)
        self._first, self._last = first, last
        for name, module in classifier.stage_modules(first, last).items():
            self.add_module(name.replace(".", "_"), module)
        held = {id(parameter) for parameter in self.parameters()}
        for name, parameter in classifier.stage_parameters(first, last).items():
            if id(parameter) not in held:
                self.register_parameter(name.replace(".", "_"), parameter)
        self.training = classifier.training

    @property
    def arch(self) -> str:
        """The name of the classifier's body."""
        return self._whole[0].arch

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Run the stages: from pixels in 0 … 255 for a lower part, from activations for an upper one."""
        whole = self._whole[0]
        if self._first == 0:
            values = whole.standardise(values)
        return whole.run_stages(values, self._first, self._last)

    def train(self, mode: bool = True) -> Self:
        """Switch the shared stages; what lies below the frozen line stays in evaluation."""
        super().train(mode)
        if mode:
            self._whole[0].hold_modes()
        return self
