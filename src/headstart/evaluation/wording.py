"""Numbers and names as people read them in the report."""

from __future__ import annotations

import math
import unicodedata

NO_FIGURE = "–"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as `94.6 %`; a dash where it is undefined."""
    return NO_FIGURE if _missing(value) else f"{100 * float(value or 0):.{digits}f}{_SPACE}%"


def probability(value: float) -> str:
    """Return a probability as `73.6 %`; never as 0 or 100 %, which nothing is."""
    if value < 0.001:
        return f"<{_SPACE}0.1{_SPACE}%"
    return percent(value) if value < 0.9995 else f">{_SPACE}99.9{_SPACE}%"


def percent_range(low: float | None, high: float | None) -> str:
    """Return two shares as `92.1 to 96.4 %`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{100 * float(low or 0):.1f} to {percent(high)}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with a fixed number of digits, and a proper minus."""
    return NO_FIGURE if _missing(value) else f"{float(value or 0):.{digits}f}".replace("-", _MINUS)


def number_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return two figures as `0.120 to 0.180`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{number(low, digits)} to {number(high, digits)}"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign; what rounds to zero has none."""
    text = number(value, digits)
    if text == NO_FIGURE or text.startswith(_MINUS):
        return text if text.strip(f"{_MINUS}0.") or text == NO_FIGURE else text.removeprefix(_MINUS)
    return f"+{text}" if text.strip("0.") else text


def signed_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return two differences as `−0.010 to +0.052`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{signed(low, digits)} to {signed(high, digits)}"


def count(value: float | None) -> str:
    """Return a whole number with separated thousands."""
    return NO_FIGURE if _missing(value) else f"{int(value or 0):,}"


def plural(value: int, word: str, words: str | None = None) -> str:
    """Return `1 picture`, `3,670 pictures`."""
    return f"{count(value)}{_SPACE}{word if value == 1 else words or word + 's'}"


def duration(seconds: float | None) -> str:
    """Return `0.8 s`, `42 s`, `4 min 12 s` or `2 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NO_FIGURE
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def rate(value: float | None) -> str:
    """Return a learning rate with two digits: `0.0012`, `3e-06`."""
    return NO_FIGURE if _missing(value) else f"{float(value or 0):.2g}"


def wrong_in_words(accuracy: float) -> str:
    """Return what an accuracy means: `about one picture in 19 is called wrong`."""
    wrong = 1.0 - accuracy
    if wrong <= 0:
        return "no picture of this part was called wrong"
    if wrong > 0.4:
        return f"about {round(10 * wrong)} pictures in ten are called wrong"
    return f"about one picture in {round(1 / wrong)} is called wrong"


def visible(text: str) -> str:
    """Return a name with its control characters, lone surrogates and line breaks spelled out."""
    return "".join(_spelled(letter) for letter in str(text))


def _spelled(letter: str) -> str:
    # Joiners (Cf) belong to emoji and to Indic and Arabic writing; the page isolates directions.
    if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode()
    return letter


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
