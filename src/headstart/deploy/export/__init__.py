"""A bundle leaves as a graph that holds everything: resize, crop, network, temperature, softmax or sigmoid.

The names are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.deploy.export.exporting import Exported, export
    from headstart.deploy.export.formats import FORMATS
    from headstart.deploy.export.triton import write_repository
    from headstart.deploy.export.verifying import Verification

_HOMES = {
    "FORMATS": "formats",
    "Exported": "exporting",
    "Verification": "verifying",
    "export": "exporting",
    "write_repository": "triton",
}

__all__ = ["FORMATS", "Exported", "Verification", "export", "write_repository"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
