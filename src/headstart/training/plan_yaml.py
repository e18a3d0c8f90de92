"""Plans as YAML: read without running anything, and written so that they come back as they were."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.training import values
from headstart.training.plan import CHOICES, Phase, Plan, Rate, Settings
from headstart.training.schedules import Schedule

SCHEMA = 1
MAX_PLAN_BYTES = 256 * 2**10
PLAN_OF_A_RUN = "plan.yaml"


def plan_to_plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as YAML and JSON can hold it."""
    return {
        "headstart_plan": SCHEMA,
        "settings": {item.name: getattr(plan.settings, item.name) for item in fields(plan.settings)},
        "phases": [_phase_to_plain(phase) for phase in plan.phases],
    }


def plan_to_text(plan: Plan) -> str:
    """Return a plan as YAML."""
    import yaml

    text: str = yaml.safe_dump(plan_to_plain(plan), sort_keys=False, allow_unicode=True, width=100)
    return text


def read_plan(source: str | Path) -> Plan:
    """Read a plan from YAML text, or from a file or a run's folder at a `Path`; see `Plan.from_yaml`."""
    where = str(source) if isinstance(source, Path) else "the plan"
    return plan_from_plain(_parse_yaml(_read(source), where), where)


def plan_from_plain(content: Any, where: str = "the plan") -> Plan:
    """Return the plan that `plan_to_plain` gave; raises `ConfigError` that begins with `where`."""
    try:
        return _plan_from_plain(content)
    except HeadstartError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from error


def _phase_to_plain(phase: Phase) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for item in fields(phase):
        value = getattr(phase, item.name)
        if value is None:
            continue
        if isinstance(value, Schedule):
            value = value.to_plain()
        elif isinstance(value, slice):
            value = {"low": value.start, "high": value.stop} if value.start else {"high": value.stop}
        elif isinstance(value, tuple):
            value = list(value)
        plain[item.name] = value
    return plain


def _read(source: str | Path) -> str:
    if isinstance(source, str):
        data = source.encode("utf-8", errors="surrogateescape")
    else:
        try:
            with open(source / PLAN_OF_A_RUN if source.is_dir() else source, "rb") as stream:
                data = stream.read(MAX_PLAN_BYTES + 1)
        except OSError as error:
            raise InputMissingError(f"the plan {source} cannot be read: {error.strerror}") from error
    if len(data) > MAX_PLAN_BYTES:
        raise ConfigError(f"a plan has at most {MAX_PLAN_BYTES // 1024} kB of YAML; this has more")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"a plan is UTF-8 text; byte {error.start} is not") from error


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{where} is not plain YAML: {first}", "`headstart plan show` prints one that is"
        ) from error


def _plan_from_plain(content: Any) -> Plan:
    table = values.mapping(content, "a plan", ("headstart_plan", "settings", "phases"))
    if table.get("headstart_plan") != SCHEMA:
        raise ConfigError(f"headstart_plan must be {SCHEMA}", "is it a plan, and of this version?")
    phases = table.get("phases")
    if not isinstance(phases, list) or not 1 <= len(phases) <= 1000:
        raise ConfigError("phases must be a list of 1 … 1000 phases")
    return Plan(
        phases=tuple(_phase_from_plain(entry, f"phase {n}") for n, entry in enumerate(phases, start=1)),
        settings=_settings_from_plain(table.get("settings") or {}),
    )


def _settings_from_plain(content: Any) -> Settings:
    table = values.mapping(content, "settings", [item.name for item in fields(Settings)])
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name in ("balance", "ema") and value is None:
            given[name] = None
        elif name in ("mixing", "balance", *CHOICES):
            given[name] = values.text(value, f"settings: {name}")
        elif name in ("gradient_clip", "mixing_alpha", "micro_batch") and value is None:
            given[name] = None
        elif name == "micro_batch":
            given[name] = values.whole(value, "settings: micro_batch")
        elif name == "seed":
            given[name] = values.whole(value, "settings: seed")
        else:
            given[name] = float(values.number(value, f"settings: {name}"))
    return Settings(**given)


def _phase_from_plain(content: Any, where: str) -> Phase:
    table = values.mapping(content, where, [item.name for item in fields(Phase)])
    given: dict[str, Any] = {"name": where}
    for name, value in table.items():
        place = f"{where}: {name}"
        if value is None:
            continue
        if name in ("name", "reason", "mixing"):
            given[name] = values.text(value, place)
        elif name in ("epochs", "frozen_to", "batch_size", "reduce_on_plateau", "views", "step"):
            given[name] = values.whole(value, place)
        elif name in ("augment", "precompute", "stop_early"):
            given[name] = values.flag(value, place)
        elif name.endswith("schedule"):
            given[name] = Schedule.from_plain(value, place)
        elif name == "learning_rate":
            given[name] = _rate_from_plain(value, place)
        elif name in ("mixing_alpha", "weight_decay", "momentum"):
            given[name] = float(values.number(value, place))
        else:
            given[name] = values.size(value, place)
    if "epochs" not in given:
        fixed = given["schedule"].epochs if "schedule" in given else None
        if fixed is None:
            raise ConfigError(f"{where}: epochs is missing", "say how many passes over the data to make")
        given["epochs"] = fixed
    return Phase(**given)


def _rate_from_plain(content: Any, where: str) -> Rate:
    if isinstance(content, dict):
        table = values.mapping(content, where, ("low", "high"))
        low = None if table.get("low") is None else float(values.number(table["low"], where))
        return slice(low, float(values.number(table.get("high"), f"{where}: high")))
    if isinstance(content, list):
        return tuple(float(values.number(value, where)) for value in content[:1000])
    return float(values.number(content, where))
