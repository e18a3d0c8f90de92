"""What a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Body:
    """What to start from: a timm name and where its weights are."""

    arch: str = "resnet34"
    weights: str | Path | None = None
    from_scratch: bool = False
