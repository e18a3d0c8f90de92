"""The model after training: the bundle that leaves the building, and the predictor. Imports no training.

The names are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.deploy.about import About, TrainingStep
    from headstart.deploy.bundle import Bundle, load_bundle, member_of, pack, read_manifest, save_bundle
    from headstart.deploy.card import model_card
    from headstart.deploy.evaluating import Evaluated, evaluate
    from headstart.deploy.fetching import FetchRules, Url
    from headstart.deploy.hub import pull, push
    from headstart.deploy.inspecting import Inspection, inspect_bundle
    from headstart.deploy.jobs import JobResult
    from headstart.deploy.manifest import Head, Manifest, Member, Preprocessing, Provenance
    from headstart.deploy.predictor import Predictor, Seen, load_predictor

_HOMES = {
    "about": ("About", "TrainingStep"),
    "bundle": ("Bundle", "load_bundle", "member_of", "pack", "read_manifest", "save_bundle"),
    "fetching": ("FetchRules", "Url"),
    "hub": ("pull", "push"),
    "inspecting": ("Inspection", "inspect_bundle"),
    "jobs": ("JobResult",),
    "card": ("model_card",),
    "evaluating": ("Evaluated", "evaluate"),
    "manifest": ("Head", "Manifest", "Member", "Preprocessing", "Provenance"),
    "predictor": ("Predictor", "Seen", "load_predictor"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "About",
    "Bundle",
    "Evaluated",
    "FetchRules",
    "Head",
    "Inspection",
    "JobResult",
    "Manifest",
    "Member",
    "Predictor",
    "Preprocessing",
    "Provenance",
    "Seen",
    "TrainingStep",
    "Url",
    "evaluate",
    "inspect_bundle",
    "load_bundle",
    "load_predictor",
    "member_of",
    "model_card",
    "pack",
    "pull",
    "push",
    "read_manifest",
    "save_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
