"""Training: schedules, plans, the loop and what watches it. Knows tensors and time, not pictures.

The names are loaded when they are first used: a plan can be read and printed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.training.callbacks import Callback as Callback
    from headstart.training.callbacks import EarlyStop as EarlyStop
    from headstart.training.callbacks import HistoryWriter as HistoryWriter
    from headstart.training.callbacks import KeepBest as KeepBest
    from headstart.training.checkpoint import Restored as Restored
    from headstart.training.checkpoint import load_checkpoint as load_checkpoint
    from headstart.training.checkpoint import save_checkpoint as save_checkpoint
    from headstart.training.finder import FinderResult as FinderResult
    from headstart.training.finder import lr_find as lr_find
    from headstart.training.guard import NonFiniteError as NonFiniteError
    from headstart.training.loop import fit as fit
    from headstart.training.losses import Loss as Loss
    from headstart.training.losses import binary_cross_entropy as binary_cross_entropy
    from headstart.training.losses import cross_entropy as cross_entropy
    from headstart.training.losses import loss_for as loss_for
    from headstart.training.optim import group_rates as group_rates
    from headstart.training.optim import make_optimizer as make_optimizer
    from headstart.training.optim import move_line as move_line
    from headstart.training.plan import Phase as Phase
    from headstart.training.plan import Plan as Plan
    from headstart.training.plan import Settings as Settings
    from headstart.training.precision import autocast_for as autocast_for
    from headstart.training.precision import resolve_precision as resolve_precision
    from headstart.training.progress import ProgressTable as ProgressTable
    from headstart.training.rollback import DivergedError as DivergedError
    from headstart.training.rollback import Rollback as Rollback
    from headstart.training.rollback import guess_loss as guess_loss
    from headstart.training.run import History as History
    from headstart.training.run import Run as Run
    from headstart.training.run import Span as Span
    from headstart.training.schedules import SCHEDULES as SCHEDULES
    from headstart.training.schedules import Schedule as Schedule
    from headstart.training.schedules import constant as constant
    from headstart.training.schedules import cosine as cosine
    from headstart.training.schedules import exponential as exponential
    from headstart.training.schedules import flat_cos as flat_cos
    from headstart.training.schedules import linear as linear
    from headstart.training.schedules import one_cycle as one_cycle
    from headstart.training.schedules import sgdr as sgdr

_HOMES = {
    "callbacks": ("Callback", "EarlyStop", "HistoryWriter", "KeepBest"),
    "checkpoint": ("Restored", "load_checkpoint", "save_checkpoint"),
    "finder": ("FinderResult", "lr_find"),
    "guard": ("NonFiniteError",),
    "loop": ("fit",),
    "losses": ("Loss", "binary_cross_entropy", "cross_entropy", "loss_for"),
    "optim": ("group_rates", "make_optimizer", "move_line"),
    "plan": ("Phase", "Plan", "Settings"),
    "precision": ("autocast_for", "resolve_precision"),
    "progress": ("ProgressTable",),
    "rollback": ("DivergedError", "Rollback", "guess_loss"),
    "run": ("History", "Run", "Span"),
    "schedules": (
        "SCHEDULES",
        "Schedule",
        "constant",
        "cosine",
        "exponential",
        "flat_cos",
        "linear",
        "one_cycle",
        "sgdr",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
