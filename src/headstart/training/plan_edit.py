"""A plan with some of its values changed, given as text: `phases.2.epochs=4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart.errors import ConfigError
from headstart.training.curves import SCHEDULES
from headstart.training.plan import Plan
from headstart.training.plan_yaml import plan_from_plain
from headstart.training.values import unknown_name

EXAMPLE = "write for example phases.2.epochs=4, phases.3.schedule=cosine or settings.seed=1"


def edited(plan: Plan, assignments: Sequence[str]) -> Plan:
    """Return the plan with each `place=value` set; places are as in the YAML, phases counted from 1.

    A value is YAML; `null` gives the default, and takes a phase away where the place is a whole phase.
    One phase more than there are may be named, which adds it. A change of a schedule that fixes its
    epochs changes them too, unless they are set as well. Raises `ConfigError` that names the place, and
    what a plan that cannot be raises.
    """
    content = plan.to_plain()
    changed: set[tuple[str, ...]] = set()
    for text in assignments:
        place, equals, value = text.partition("=")
        path = tuple(part.strip() for part in place.split("."))
        if not equals or not all(path):
            raise ConfigError(f"{text[:80]!r} sets nothing", EXAMPLE)
        _set(content, path, _read_value(value, place), place)
        changed.add(path[:3])
    for number, phase in enumerate(content["phases"], start=1):
        fixes = ("phases", str(number), "schedule") in changed and isinstance(phase, dict)
        if fixes and ("phases", str(number), "epochs") not in changed and _fixes_epochs(phase["schedule"]):
            phase.pop("epochs", None)
    content["phases"] = [phase for phase in content["phases"] if phase is not None]
    return plan_from_plain(content, "the edited plan")


def _fixes_epochs(schedule: Any) -> bool:
    return schedule == "sgdr" or (isinstance(schedule, dict) and schedule.get("name") == "sgdr")


def _read_value(text: str, place: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text[:4000])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{place}: {text[:60]!r} is not a value", EXAMPLE) from error


def _set(content: dict[str, Any], path: tuple[str, ...], value: Any, place: str) -> None:
    if path[0] == "settings" and len(path) == 2:
        _assign(content["settings"], path[1], value)
    elif path[0] == "phases" and len(path) in (2, 3, 4):
        _set_in_phase(content["phases"], path[1:], value, place)
    elif path[0] in ("settings", "phases"):
        raise ConfigError(f"{place} is no place in a plan", EXAMPLE)
    else:
        raise unknown_name("part of a plan", path[0], ("settings", "phases"))


def _set_in_phase(phases: list[Any], path: tuple[str, ...], value: Any, place: str) -> None:
    number = int(path[0]) if path[0].isdecimal() and len(path[0]) < 6 else 0
    if not 1 <= number <= len(phases) + 1:
        raise ConfigError(
            f"{place}: there is no phase {path[0][:20]!r}", f"give 1 … {len(phases)}, or one more"
        )
    if number > len(phases):
        phases.append({})
    if len(path) == 1:
        phases[number - 1] = value
        return
    phase = phases[number - 1]
    if not isinstance(phase, dict):
        raise ConfigError(f"{place}: phase {number} was taken away", "leave one of the two out")
    if len(path) == 2:
        _assign(phase, path[1], value)
        return
    inner = phase.get(path[1])
    inner = {"name": inner} if isinstance(inner, str) else inner if isinstance(inner, dict) else {}
    if path[2] == "name":
        # The parameters of another curve are not those of this one.
        known = SCHEDULES[value].parameters if value in list(SCHEDULES) else {}
        inner = {name: kept for name, kept in inner.items() if name in known}
    _assign(inner, path[2], value)
    phase[path[1]] = inner


def _assign(table: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
