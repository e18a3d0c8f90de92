"""What the report says of slices, of labels in doubt, and of what the model decides beyond one class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headstart.evaluation.metrics import Interval
from headstart.evaluation.report import figures, wording
from headstart.evaluation.report.pictures import Pictures

MOST_SLICES = 100
MOST_DOUBTS = 12

Summary = Mapping[str, Any]


def slices(summary: Summary) -> dict[str, Any] | None:
    """How the pictures fare by the columns of their table, in the order in which they were judged."""
    found = [each for each in summary.get("slices") or [] if isinstance(each, dict)]
    if not found:
        return None
    shown = found[:MOST_SLICES]
    known = [figure for each in shown if (figure := _interval(each.get("accuracy"))) is not None]
    limits = figures.share_limits(known)
    return {
        "rows": [_slice(each, limits) for each in shown],
        "more": len(found) - len(shown),
        "worse": sum(bool(each.get("worse")) for each in found),
        "from": f"{100 * limits[0]:.0f}",
    }


def _slice(each: Mapping[str, Any], limits: tuple[float, float]) -> dict[str, Any]:
    accuracy, loss = _interval(each.get("accuracy")), each.get("log_loss") or {}
    return {
        "column": each.get("column") or "",
        "value": str(each.get("value") or ""),
        "count": each.get("count") or 0,
        "accuracy": wording.percent(accuracy.value if accuracy else None),
        "range": wording.percent_range(accuracy.low, accuracy.high) if accuracy else "",
        "bar": figures.share_bar(accuracy, limits) if accuracy else "",
        "rest": wording.percent(each.get("rest_accuracy")),
        "loss": wording.number(loss.get("value"), 2),
        "rest_loss": wording.number(each.get("rest_log_loss"), 2),
        "q": _small(each.get("q_value")),
        "worse": bool(each.get("worse")),
    }


def _small(value: float | None) -> str:
    if value is not None and value < 0.001:
        return "<\N{NO-BREAK SPACE}0.001"
    return wording.number(value)


def doubts(summary: Summary, pictures: Pictures) -> dict[str, Any] | None:
    """Which labels are probably wrong, and how many."""
    found = summary.get("doubts")
    if not isinstance(found, dict):
        return None
    examples = [each for each in found.get("examples") or [] if isinstance(each, dict)][:MOST_DOUBTS]
    expected = float(found.get("expected") or 0.0)
    return {
        "pictures": found.get("pictures") or 0,
        "expected": f"{expected:.1f}" if 0 < expected < 9.5 else wording.count(round(expected)),
        "any": expected > 0 or bool(examples),
        "cards": [
            {
                "image": _picture(each.get("picture"), pictures),
                "path": str(each.get("path") or ""),
                "label": str(each.get("label") or ""),
                "suggested": str(each.get("suggested") or ""),
                "probability": _probability(each.get("probability")),
                "label_probability": _probability(each.get("label_probability")),
            }
            for each in examples
        ],
    }


def _picture(name: object, pictures: Pictures) -> str:
    # A summary could name any file; only what a run writes is read.
    return pictures.file(str(name)) if re.fullmatch(r"doubts/[0-9]{1,6}\.jpg", str(name)) else ""


def _probability(value: float | None) -> str:
    return wording.NO_FIGURE if value is None else wording.probability(float(value))


def decisions(summary: Summary) -> list[dict[str, Any]]:
    """What sets of classes, `none of these`, several views and a scaling by class give: cards with facts."""
    cards = (
        _sets(summary.get("sets")),
        _strangers(summary.get("none_of_these")),
        _views(summary.get("tta")),
        _scaling(summary.get("scaling")),
    )
    return [card for card in cards if card is not None]


def _sets(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    coverage = found.get("coverage") or {}
    return {
        "title": "Sets of classes",
        "figure": wording.percent(coverage.get("value")),
        "words": f"of the sets hold the right class ({_range(coverage)}); {_share(found.get('level'))} were "
        "asked for. Where the model is unsure, it answers with several classes.",
        "facts": [
            ("Classes in a set, mean", wording.number(found.get("mean_size"), 2)),
            ("Sets of one class", wording.percent(found.get("single"))),
            ("Of those, right", wording.percent(found.get("single_accuracy"))),
        ],
    }


def _strangers(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    away = found.get("turned_away") or {}
    return {
        "title": "None of these",
        "figure": wording.percent(away.get("value")),
        "words": f"of pictures that are of a class are turned away as strange ({_range(away)}); "
        f"{_share(found.get('rate'))} were allowed. What is far from all training pictures is called none of "
        "these.",
        "facts": [],
    }


def _views(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    gain = found.get("gain") or {}
    points = found.get("gain_accuracy") or {}
    kept = bool(found.get("kept"))
    facts = [("Gain in log loss", f"{wording.signed(gain.get('value'))} ({_signed_range(gain)})")]
    if points.get("value") is not None:
        value, low, high = (_times_100(points.get(name)) for name in _ENDS)
        facts.append(("Points", f"{wording.signed(value, 1)} ({wording.signed_range(low, high, 1)})"))
    facts.append(("Cost here", wording.duration(found.get("seconds"))))
    verdict = (
        "It pays, so the model does it." if kept else "It does not clearly pay, so the model takes one view."
    )
    return {
        "title": "Several views of a picture",
        "figure": "kept" if kept else "not kept",
        "words": f"{wording.visible(str(found.get('reason') or ''))} {verdict}".strip(),
        "facts": facts,
    }


def _scaling(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    gain, kept = found.get("gain") or {}, bool(found.get("kept"))
    return {
        "title": "A scaling for each class",
        "figure": "kept" if kept else "not kept",
        "words": "Beyond one temperature, each class can have a scale and a shift of its own. "
        + (
            "It pays on rows that it was not fitted on."
            if kept
            else "It does not clearly pay, so there is none."
        ),
        "facts": [("Gain in log loss", f"{wording.signed(gain.get('value'))} ({_signed_range(gain)})")],
    }


_ENDS = ("value", "low", "high")


def _range(figure: Mapping[str, Any]) -> str:
    return wording.percent_range(figure.get("low"), figure.get("high"))


def _signed_range(figure: Mapping[str, Any]) -> str:
    return wording.signed_range(figure.get("low"), figure.get("high"))


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _share(value: float | None) -> str:
    return wording.percent(value, 0)


def _interval(figure: Mapping[str, Any] | None) -> Interval | None:
    if not figure or any(figure.get(name) is None for name in _ENDS):
        return None
    return Interval(*(float(figure[name]) for name in _ENDS))
