"""headstart: from a folder of your own pictures to a trained, explained, exported classifier.

>>> import headstart as hs
>>> result = hs.train("photos/", out="runs/photos")                      # doctest: +SKIP
>>> hs.load("runs/photos/model").predict(["a.jpg", "b.jpg"]).to_frame()  # doctest: +SKIP

The names below are loaded when they are first used: importing headstart imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart import augment as augment
    from headstart import evaluation as evaluation
    from headstart.data import Rules as Rules
    from headstart.data import Samples as Samples
    from headstart.data import Table as Table
    from headstart.deploy import Predictor as Predictor
    from headstart.deploy import Url as Url
    from headstart.deploy import load_predictor as load
    from headstart.deploy import pack as pack
    from headstart.deploy import pull as pull
    from headstart.deploy import push as push
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.evaluation import Interpretation as Interpretation
    from headstart.evaluation import Predictions as Predictions
    from headstart.imagedata import ImageData as ImageData
    from headstart.learner import Learner as Learner
    from headstart.models import Classifier as Classifier
    from headstart.models import create_classifier as create_classifier
    from headstart.recipe import eight_steps as eight_steps
    from headstart.recipe import resume as resume
    from headstart.recipe import train as train
    from headstart.training import Callback as Callback
    from headstart.training import Checkpointer as Checkpointer
    from headstart.training import Phase as Phase
    from headstart.training import Plan as Plan
    from headstart.training import Schedule as Schedule
    from headstart.training import Settings as Settings

_PLACES = {
    "Callback": ("training", "Callback"),
    "Checkpointer": ("training", "Checkpointer"),
    "Classifier": ("models", "Classifier"),
    "HeadstartError": ("errors", "HeadstartError"),
    "ImageData": ("imagedata", "ImageData"),
    "Interpretation": ("evaluation", "Interpretation"),
    "Learner": ("learner", "Learner"),
    "Phase": ("training", "Phase"),
    "Plan": ("training", "Plan"),
    "Predictions": ("evaluation", "Predictions"),
    "Predictor": ("deploy", "Predictor"),
    "Rules": ("data", "Rules"),
    "Samples": ("data", "Samples"),
    "Schedule": ("training", "Schedule"),
    "Settings": ("training", "Settings"),
    "Table": ("data", "Table"),
    "Url": ("deploy", "Url"),
    "augment": ("augment", ""),
    "create_classifier": ("models", "create_classifier"),
    "eight_steps": ("recipe", "eight_steps"),
    "evaluation": ("evaluation", ""),
    "load": ("deploy", "load_predictor"),
    "pack": ("deploy", "pack"),
    "pull": ("deploy", "pull"),
    "push": ("deploy", "push"),
    "resume": ("recipe", "resume"),
    "train": ("recipe", "train"),
}

__all__ = [  # noqa: RUF022
    "train",
    "resume",
    "load",
    "pack",
    "push",
    "pull",
    "ImageData",
    "Learner",
    "augment",
    "evaluation",
    "eight_steps",
    "Plan",
    "Phase",
    "Schedule",
    "Settings",
    "Callback",
    "Checkpointer",
    "Samples",
    "Table",
    "Rules",
    "Predictions",
    "Interpretation",
    "Predictor",
    "Url",
    "Classifier",
    "create_classifier",
    "HeadstartError",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    room, inside = _PLACES[name]
    module = importlib.import_module(f"headstart.{room}")
    return getattr(module, inside) if inside else module


def __dir__() -> list[str]:
    return sorted(__all__)
