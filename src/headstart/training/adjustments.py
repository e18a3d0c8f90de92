"""What training changes by itself, in answer to the machine and to the losses; a part of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# As torch's GradScaler begins.
FIRST_LOSS_SCALE = 2.0**16


@dataclass
class Adjustments:
    """Written into checkpoints, so that a run that goes on does not have to find it again.

    `fits`: how many samples fit in memory at once, by what is done with samples of which shape.
    `loss_scale`: what float16 losses are multiplied by, and `scaled_steps` taken since it changed.
    `rate_factor`: what the phase's rates are multiplied by after `rollbacks` returns to good weights.
    `compiled`: for each phase, whether its network was compiled.
    `engines`: what runs the part below a frozen line, by body, line and size: the fastest was found by a
    trial, and another one gives other last bits.
    `notices`: what a person should know of, in the order in which it happened.
    """

    fits: dict[str, int] = field(default_factory=dict)
    loss_scale: float = FIRST_LOSS_SCALE
    scaled_steps: int = 0
    rate_factor: float = 1.0
    rollbacks: int = 0
    compiled: dict[str, bool] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Return the adjustments as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Adjustments:
        """Return the adjustments that `to_plain` gave."""
        return cls(**plain)
