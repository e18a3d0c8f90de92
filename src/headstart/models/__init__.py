"""Pixels to logits: bodies, heads, stages and the frozen line, engines, features, the probe.

The names that need torch are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.models.backbones import (
        Backbone,
        check_architecture,
        create_backbone,
        list_architectures,
    )
    from headstart.models.bodies import (
        BodyCost,
        BodyFacts,
        describe_body,
        known_cost,
        measure_body,
        suitable_bodies,
        weights_at_hand,
    )
    from headstart.models.classifier import Classifier, create_classifier
    from headstart.models.engine import (
        EagerEngine,
        Engine,
        GraphFacts,
        OnnxEngine,
        cached_engine,
        frozen_engine,
    )
    from headstart.models.featurecache import FeatureCache, keeps_half
    from headstart.models.features import ActivationSource, Features, TensorSource, ViewSource, materialise
    from headstart.models.heads import concat_pool, course_head, linear_head
    from headstart.models.heatmaps import HEAT_METHODS, heat_maps, method_for
    from headstart.models.knn import knn_logits
    from headstart.models.parts import Part, WithFeatures
    from headstart.models.probe import Probe, fit_probe
    from headstart.models.stages import Stage, cut
    from headstart.models.weights import (
        WeightsSource,
        cached_architectures,
        find_weights,
        weights_identity,
    )

_HOMES = {
    "backbones": ("Backbone", "check_architecture", "create_backbone", "list_architectures"),
    "bodies": (
        "BodyCost",
        "BodyFacts",
        "describe_body",
        "known_cost",
        "measure_body",
        "suitable_bodies",
        "weights_at_hand",
    ),
    "classifier": ("Classifier", "create_classifier"),
    "engine": ("EagerEngine", "Engine", "GraphFacts", "OnnxEngine", "cached_engine", "frozen_engine"),
    "featurecache": ("FeatureCache", "keeps_half"),
    "features": ("ActivationSource", "Features", "TensorSource", "ViewSource", "materialise"),
    "heads": ("concat_pool", "course_head", "linear_head"),
    "heatmaps": ("HEAT_METHODS", "heat_maps", "method_for"),
    "knn": ("knn_logits",),
    "parts": ("Part", "WithFeatures"),
    "probe": ("Probe", "fit_probe"),
    "stages": ("Stage", "cut"),
    "weights": ("WeightsSource", "cached_architectures", "find_weights", "weights_identity"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "HEAT_METHODS",
    "ActivationSource",
    "Backbone",
    "BodyCost",
    "BodyFacts",
    "Classifier",
    "EagerEngine",
    "Engine",
    "FeatureCache",
    "Features",
    "GraphFacts",
    "OnnxEngine",
    "Part",
    "Probe",
    "Stage",
    "TensorSource",
    "ViewSource",
    "WeightsSource",
    "WithFeatures",
    "cached_architectures",
    "cached_engine",
    "check_architecture",
    "concat_pool",
    "course_head",
    "create_backbone",
    "create_classifier",
    "cut",
    "describe_body",
    "find_weights",
    "fit_probe",
    "frozen_engine",
    "heat_maps",
    "keeps_half",
    "knn_logits",
    "known_cost",
    "linear_head",
    "list_architectures",
    "materialise",
    "measure_body",
    "method_for",
    "suitable_bodies",
    "weights_at_hand",
    "weights_identity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
