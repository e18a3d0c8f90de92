"""Training: schedules, plans, the loop and what watches it. Knows tensors and time, not pictures.

The names are loaded when they are first used: a plan can be read and printed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.training.adjusting import ReduceOnPlateau as ReduceOnPlateau
    from headstart.training.adjusting import Scheduled as Scheduled
    from headstart.training.advice import RateWarning as RateWarning
    from headstart.training.averages import EMA as EMA
    from headstart.training.averages import SWA as SWA
    from headstart.training.batchnorm import RecalibrateBatchNorm as RecalibrateBatchNorm
    from headstart.training.batchnorm import recalibrate_batch_norm as recalibrate_batch_norm
    from headstart.training.callbacks import Callback as Callback
    from headstart.training.callbacks import EarlyStop as EarlyStop
    from headstart.training.callbacks import HistoryWriter as HistoryWriter
    from headstart.training.callbacks import KeepBest as KeepBest
    from headstart.training.checkpoint import Found as Found
    from headstart.training.checkpoint import Restored as Restored
    from headstart.training.checkpoint import find_checkpoint as find_checkpoint
    from headstart.training.checkpoint import load_checkpoint as load_checkpoint
    from headstart.training.checkpoint import save_checkpoint as save_checkpoint
    from headstart.training.checkpoint import set_threads as set_threads
    from headstart.training.checkpointer import Checkpointer as Checkpointer
    from headstart.training.curves import SCHEDULES as SCHEDULES
    from headstart.training.deadline import Deadline as Deadline
    from headstart.training.finder import FinderResult as FinderResult
    from headstart.training.finder import lr_find as lr_find
    from headstart.training.guard import NonFiniteError as NonFiniteError
    from headstart.training.loggers import BoardLogger as BoardLogger
    from headstart.training.loggers import CSVLogger as CSVLogger
    from headstart.training.loggers import MLflowLogger as MLflowLogger
    from headstart.training.loggers import TensorBoardLogger as TensorBoardLogger
    from headstart.training.loggers import WandbLogger as WandbLogger
    from headstart.training.loggers import closing_loggers as closing_loggers
    from headstart.training.loggers import make_loggers as make_loggers
    from headstart.training.loop import fit as fit
    from headstart.training.losses import LabelCounts as LabelCounts
    from headstart.training.losses import Loss as Loss
    from headstart.training.losses import binary_cross_entropy as binary_cross_entropy
    from headstart.training.losses import binary_focal as binary_focal
    from headstart.training.losses import class_weights as class_weights
    from headstart.training.losses import cross_entropy as cross_entropy
    from headstart.training.losses import focal as focal
    from headstart.training.losses import logit_shifts as logit_shifts
    from headstart.training.losses import loss_for as loss_for
    from headstart.training.losses import tag_weights as tag_weights
    from headstart.training.notebook import NotebookTable as NotebookTable
    from headstart.training.notebook import progress_for as progress_for
    from headstart.training.optim import group_rates as group_rates
    from headstart.training.optim import layer_decay as layer_decay
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
    from headstart.training.schedules import Schedule as Schedule
    from headstart.training.schedules import constant as constant
    from headstart.training.schedules import cosine as cosine
    from headstart.training.schedules import exponential as exponential
    from headstart.training.schedules import flat_cos as flat_cos
    from headstart.training.schedules import linear as linear
    from headstart.training.schedules import one_cycle as one_cycle
    from headstart.training.schedules import one_cycle_1x as one_cycle_1x
    from headstart.training.schedules import polynomial as polynomial
    from headstart.training.schedules import sequence as sequence
    from headstart.training.schedules import sgdr as sgdr
    from headstart.training.schedules import step_decay as step_decay
    from headstart.training.schedules import warm_up as warm_up
    from headstart.training.schedules import warm_up_stable_decay as warm_up_stable_decay
    from headstart.training.snapshots import Snapshots as Snapshots
    from headstart.training.trials import Trial as Trial
    from headstart.training.trials import TrialsResult as TrialsResult
    from headstart.training.trials import try_rates as try_rates
    from headstart.training.unfreezing import gradual_unfreezing as gradual_unfreezing

_HOMES = {
    "adjusting": ("ReduceOnPlateau", "Scheduled"),
    "advice": ("RateWarning",),
    "averages": ("EMA", "SWA"),
    "batchnorm": ("RecalibrateBatchNorm", "recalibrate_batch_norm"),
    "callbacks": ("Callback", "EarlyStop", "HistoryWriter", "KeepBest"),
    "checkpoint": (
        "Found",
        "Restored",
        "find_checkpoint",
        "load_checkpoint",
        "save_checkpoint",
        "set_threads",
    ),
    "checkpointer": ("Checkpointer",),
    "curves": ("SCHEDULES",),
    "deadline": ("Deadline",),
    "finder": ("FinderResult", "lr_find"),
    "guard": ("NonFiniteError",),
    "loggers": (
        "BoardLogger",
        "CSVLogger",
        "MLflowLogger",
        "TensorBoardLogger",
        "WandbLogger",
        "closing_loggers",
        "make_loggers",
    ),
    "loop": ("fit",),
    "losses": (
        "LabelCounts",
        "Loss",
        "binary_cross_entropy",
        "binary_focal",
        "class_weights",
        "cross_entropy",
        "focal",
        "logit_shifts",
        "loss_for",
        "tag_weights",
    ),
    "notebook": ("NotebookTable", "progress_for"),
    "optim": ("group_rates", "layer_decay", "make_optimizer", "move_line"),
    "plan": ("Phase", "Plan", "Settings"),
    "precision": ("autocast_for", "resolve_precision"),
    "progress": ("ProgressTable",),
    "rollback": ("DivergedError", "Rollback", "guess_loss"),
    "run": ("History", "Run", "Span"),
    "snapshots": ("Snapshots",),
    "schedules": (
        "Schedule",
        "constant",
        "cosine",
        "exponential",
        "flat_cos",
        "linear",
        "one_cycle",
        "sgdr",
        "warm_up_stable_decay",
        "warm_up",
        "step_decay",
        "sequence",
        "polynomial",
        "one_cycle_1x",
    ),
    "trials": ("Trial", "TrialsResult", "try_rates"),
    "unfreezing": ("gradual_unfreezing",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
