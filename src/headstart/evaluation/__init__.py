"""From predictions to numbers, pictures and words; knows no training, and imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.evaluation.calibration import (
        Calibration,
        ReliabilityBin,
        calibrate,
        cross_fitted,
        fit_temperature,
        reliability,
    )
    from headstart.evaluation.comparing import (
        Compared,
        Comparison,
        HeldOut,
        compare,
        compare_predictions,
        read_held_out,
    )
    from headstart.evaluation.conformal import (
        SET_METHODS,
        SetReport,
        SetRule,
        cross_fitted_sets,
        fit_sets,
        judge_sets,
        sets_of,
    )
    from headstart.evaluation.doubts import (
        constant_answer,
        missing_classes,
        smallest_difference,
        too_few_rows,
    )
    from headstart.evaluation.explanation import Explanation, area_of_half, overlay, share_of_heat
    from headstart.evaluation.explanation_page import write_explanations
    from headstart.evaluation.galleries import (
        plot_embeddings,
        plot_explanations,
        plot_slices,
        plot_top_losses,
        show_results,
    )
    from headstart.evaluation.interpret import Confusion, Example, Interpretation
    from headstart.evaluation.interpret_tags import TagConfusion, TagInterpretation, TagMistakes
    from headstart.evaluation.judging import (
        Evaluation,
        ViewsGain,
        gain_of_views,
        judge,
        metrics_for,
    )
    from headstart.evaluation.label_errors import LabelDoubts, confident_joint, label_doubts
    from headstart.evaluation.label_next import Rise, choose_next, rises, uncertainty
    from headstart.evaluation.metrics import (
        METRICS,
        ClassMetrics,
        Gain,
        Interval,
        Metric,
        confusion_matrix,
        f_beta,
        interval,
        measure,
        metric,
        paired,
        per_class,
        top_k,
        wilson,
    )
    from headstart.evaluation.mirror import MirrorFindings, Swap, mirror_check, refuse_mirrored
    from headstart.evaluation.novelty import Novelty, NoveltyReport, fit_novelty
    from headstart.evaluation.plots import (
        plot_confusion_matrix,
        plot_losses,
        plot_lr_find,
        plot_reliability,
        plot_schedule,
        show_pictures,
    )
    from headstart.evaluation.predictions import Predictions, average, concatenate
    from headstart.evaluation.projection import project
    from headstart.evaluation.records import Records
    from headstart.evaluation.report import rows_to_explain, rows_to_picture, write_report
    from headstart.evaluation.scaling import (
        ClassScaling,
        cross_scaled,
        fit_scaling,
        scale_classes,
    )
    from headstart.evaluation.slicing import Slice, false_discovery_rates, slices_of
    from headstart.evaluation.thresholds import cross_decided, decided_by, every_tag, fit_thresholds
    from headstart.evaluation.tradeoff import Point, best_for_their_cost, plot_tradeoff

_HOMES = {
    "calibration": (
        "Calibration",
        "ReliabilityBin",
        "calibrate",
        "cross_fitted",
        "fit_temperature",
        "reliability",
    ),
    "comparing": (
        "Compared",
        "Comparison",
        "HeldOut",
        "compare",
        "compare_predictions",
        "read_held_out",
    ),
    "conformal": (
        "SET_METHODS",
        "SetReport",
        "SetRule",
        "cross_fitted_sets",
        "fit_sets",
        "judge_sets",
        "sets_of",
    ),
    "judging": (
        "Evaluation",
        "ViewsGain",
        "gain_of_views",
        "judge",
        "metrics_for",
    ),
    "scaling": (
        "ClassScaling",
        "cross_scaled",
        "fit_scaling",
        "scale_classes",
    ),
    "doubts": ("constant_answer", "missing_classes", "smallest_difference", "too_few_rows"),
    "explanation": ("Explanation", "area_of_half", "overlay", "share_of_heat"),
    "explanation_page": ("write_explanations",),
    "galleries": (
        "plot_embeddings",
        "plot_explanations",
        "plot_slices",
        "plot_top_losses",
        "show_results",
    ),
    "interpret": (
        "Confusion",
        "Example",
        "Interpretation",
    ),
    "label_errors": ("LabelDoubts", "confident_joint", "label_doubts"),
    "label_next": ("Rise", "choose_next", "rises", "uncertainty"),
    "interpret_tags": ("TagConfusion", "TagInterpretation", "TagMistakes"),
    "metrics": (
        "METRICS",
        "ClassMetrics",
        "Gain",
        "Interval",
        "Metric",
        "confusion_matrix",
        "f_beta",
        "interval",
        "measure",
        "metric",
        "paired",
        "per_class",
        "top_k",
        "wilson",
    ),
    "mirror": ("MirrorFindings", "Swap", "mirror_check", "refuse_mirrored"),
    "novelty": ("Novelty", "NoveltyReport", "fit_novelty"),
    "plots": (
        "plot_confusion_matrix",
        "plot_losses",
        "plot_lr_find",
        "plot_reliability",
        "plot_schedule",
        "show_pictures",
    ),
    "predictions": (
        "Predictions",
        "average",
        "concatenate",
    ),
    "projection": ("project",),
    "records": ("Records",),
    "report": ("rows_to_explain", "rows_to_picture", "write_report"),
    "slicing": ("Slice", "false_discovery_rates", "slices_of"),
    "thresholds": ("cross_decided", "decided_by", "every_tag", "fit_thresholds"),
    "tradeoff": ("Point", "best_for_their_cost", "plot_tradeoff"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "METRICS",
    "SET_METHODS",
    "Calibration",
    "ClassMetrics",
    "ClassScaling",
    "Compared",
    "Comparison",
    "Confusion",
    "Evaluation",
    "Example",
    "Explanation",
    "Gain",
    "HeldOut",
    "Interpretation",
    "Interval",
    "LabelDoubts",
    "Metric",
    "MirrorFindings",
    "Novelty",
    "NoveltyReport",
    "Point",
    "Predictions",
    "Records",
    "ReliabilityBin",
    "Rise",
    "SetReport",
    "SetRule",
    "Slice",
    "Swap",
    "TagConfusion",
    "TagInterpretation",
    "TagMistakes",
    "ViewsGain",
    "area_of_half",
    "average",
    "best_for_their_cost",
    "calibrate",
    "choose_next",
    "compare",
    "compare_predictions",
    "concatenate",
    "confident_joint",
    "confusion_matrix",
    "constant_answer",
    "cross_decided",
    "cross_fitted",
    "cross_fitted_sets",
    "cross_scaled",
    "decided_by",
    "every_tag",
    "f_beta",
    "false_discovery_rates",
    "fit_novelty",
    "fit_scaling",
    "fit_sets",
    "fit_temperature",
    "fit_thresholds",
    "gain_of_views",
    "interval",
    "judge",
    "judge_sets",
    "label_doubts",
    "measure",
    "metric",
    "metrics_for",
    "mirror_check",
    "missing_classes",
    "overlay",
    "paired",
    "per_class",
    "plot_confusion_matrix",
    "plot_embeddings",
    "plot_explanations",
    "plot_losses",
    "plot_lr_find",
    "plot_reliability",
    "plot_schedule",
    "plot_slices",
    "plot_top_losses",
    "plot_tradeoff",
    "project",
    "read_held_out",
    "refuse_mirrored",
    "reliability",
    "rises",
    "rows_to_explain",
    "rows_to_picture",
    "scale_classes",
    "sets_of",
    "share_of_heat",
    "show_pictures",
    "show_results",
    "slices_of",
    "smallest_difference",
    "too_few_rows",
    "top_k",
    "uncertainty",
    "wilson",
    "write_explanations",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
