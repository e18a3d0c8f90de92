"""All that a run of the eight steps knows between two moments, as JSON and tensors, and back.

This is the one place that knows what a run's state is: whoever gives `EightSteps` something more to
remember adds it to `state_of` and `take_state`. What a phase's callbacks remember is in its checkpoint
beside this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headstart.errors import ConfigError
from headstart.evaluation import Predictions
from headstart.inference import predictions_of
from headstart.models import Probe
from headstart.recipe.folder import plain
from headstart.recipe.probing import FirstLook
from headstart.recipe.result import StepResult
from headstart.training import Phase, Plan

if TYPE_CHECKING:
    from headstart.recipe.steps import EightSteps
    from headstart.training import Found

_BEST = "best/"


def state_of(steps: EightSteps) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state of a run as (what JSON can hold, tensors).

    Between two phases the best model is the one that the checkpoint holds anyway.
    """
    under_way = steps.under_way
    tensors = _predicted("best", steps.best.valid)
    if under_way is not None:
        tensors |= {_BEST + name: tensor for name, tensor in steps.best.state.items()}
    for number, member in enumerate(steps.best.members):
        tensors |= {f"member {number}/{name}": tensor for name, tensor in member.items()}
    state = {
        "phases_done": steps.phases_done,
        "under_way": None if under_way is None else Plan((under_way,), steps.plan.settings).to_yaml(),
        "epochs_before": steps.epochs_before,
        "steps": [step.to_dict() for step in steps.steps],
        "finders": steps.finders,
        "found_rates": [[line, list(size), rate] for (line, size), rate in steps.found_rates.items()],
        "best": {
            "name": steps.best.name,
            "size": list(steps.best.size),
            "members": len(steps.best.members),
        },
        "first": None,
        "arch": steps.body.arch,
        "weights": steps.learner.identity,
        "rows": steps.folder.own_rows(),
        "batch_size": steps.learner.data.batch_size,
        "frozen_line": steps.learner.model.frozen_line,
        "elapsed": steps.clock.elapsed,
    }
    if steps.first is not None:
        state["first"], looked = _first_look(steps.first)
        tensors |= looked
    return plain(state), tensors


def take_state(steps: EightSteps, found: Found, *, changed: bool = False) -> None:
    """Put a run where the checkpoint `found` left it; its learner is new.

    Between two phases the checkpoint is loaded; within one, that is left to the phase itself. Where the
    data has `changed`, the phase under way begins again, and what was predicted is predicted anew.
    """
    from headstart.recipe.steps import Best
    from headstart.training import History, load_checkpoint

    state, tensors = found.extra, found.extra_tensors()
    steps.phases_done = state["phases_done"]
    steps.epochs_before = state["epochs_before"]
    steps.steps = [StepResult.from_dict(step) for step in state["steps"]]
    steps.finders = list(state["finders"])
    steps.found_rates = {(line, (size[0], size[1])): rate for line, size, rate in state["found_rates"]}
    if steps.body.arch != state["arch"]:
        raise ConfigError(
            f"the checkpoint is of {state['arch']}, not of {steps.body.arch}", "begin a new run"
        )
    learner = steps.learner
    # Before anything is computed: the engine that ran the frozen part is to run it again.
    learner.run.adjustments = found.adjustments
    if learner.identity != state["weights"]:
        raise ConfigError(
            f"the weights are {learner.identity}, and the run began with {state['weights']}",
            "put the weights file back, or begin a new run",
        )
    steps.data = learner.data
    if learner.data.batch_size != state["batch_size"]:
        learner.data = learner.data.with_options(batch_size=state["batch_size"])
    if state["first"] is not None:
        steps.first = _first_look_again(steps, state["first"], tensors, changed)
    size = (state["best"]["size"][0], state["best"]["size"][1])
    if learner.data.image_size != size:
        learner.set_data(learner.data.resize(size))
    best = _named(_BEST, tensors)
    if state["under_way"] is None:
        load_checkpoint(found, learner.run)
        best = learner.state()
    elif changed:
        learner.run.step, learner.run.epoch = found.state["step"], found.state["epoch"]
        learner.run.history = History(found.state["history"])
        learner.set_state(best)
    else:
        steps.under_way = phase_of(state["under_way"])
    # What lies below the line is computed by another engine, with other last bits.
    learner.model.freeze_at(state["frozen_line"])
    members = tuple(_named(f"member {n}/", tensors) for n in range(state["best"]["members"]))
    valid = None if changed else _predictions("best", steps, tensors)
    if valid is None:
        valid = learner.predictions("valid")
        members = ()  # they were an ensemble on other pictures: the one to go on from stands alone
    steps.best = Best(valid, best, size, state["best"]["name"], members)
    steps.folder.take_back([(before, row) for before, row in state["rows"]], found.state["history"])


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def phase_of(text: str) -> Phase:
    """Return the only phase of a plan in YAML."""
    (phase,) = Plan.from_yaml(text).phases
    return phase


def _predicted(name: str, table: Predictions) -> dict[str, Tensor]:
    return {f"{name}_logits": torch.tensor(table.logits), f"{name}_index": torch.tensor(table.rows)}


def _predictions(name: str, steps: EightSteps, tensors: Mapping[str, Tensor]) -> Predictions | None:
    if f"{name}_logits" not in tensors:
        return None
    index, logits = tensors[f"{name}_index"].numpy(), tensors[f"{name}_logits"].numpy()
    return predictions_of(steps.data.samples, index, logits)


def _first_look(first: FirstLook) -> tuple[dict[str, Any], dict[str, Tensor]]:
    probe = first.probe
    tensors = {"probe_weight": torch.tensor(probe.weight), "probe_bias": torch.tensor(probe.bias)}
    if probe.penalties is not None:
        tensors["probe_penalties"] = torch.tensor(probe.penalties)
    tensors |= _predicted("first_valid", first.valid)
    if first.test is not None:
        tensors |= _predicted("first_test", first.test)
    figures = {
        "identity": first.identity,
        "skill": first.skill,
        "penalty": probe.penalty,
        "cross_validated_log_loss": probe.cross_validated_log_loss,
    }
    return figures, tensors


def _first_look_again(
    steps: EightSteps, figures: Mapping[str, Any], tensors: Mapping[str, Tensor], changed: bool
) -> FirstLook:
    """Return the first look; activations are found in the cache, or computed again to the same bits."""
    penalties = tensors.get("probe_penalties")
    loss = figures["cross_validated_log_loss"]
    probe = Probe(
        weight=tensors["probe_weight"].numpy(),
        bias=tensors["probe_bias"].numpy(),
        penalty=figures["penalty"],
        cross_validated_log_loss=np.nan if loss is None else loss,
        penalties=None if penalties is None else penalties.numpy(),
    )

    def look(split: str) -> Predictions | None:
        if not changed:
            return _predictions(f"first_{split}", steps, tensors)
        source = steps.learner.activations(split) if len(steps.data.rows(split)) else None
        if source is None:
            return None
        return predictions_of(steps.data.samples, source.index, probe.logits(source.features))

    valid = look("valid")
    assert valid is not None
    return FirstLook(
        engine=steps.learner.engine(),
        identity=figures["identity"],
        sources={},
        probe=probe,
        valid=valid,
        test=look("test"),
        skill=figures["skill"],
    )
