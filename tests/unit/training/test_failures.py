"""An error of somebody's code, at any moment: what was trained is kept, and goes on to the same bits."""

from __future__ import annotations

import itertools
import math
import signal
from pathlib import Path

import pytest
import torch
from tests.unit.training.faulty_disks import Failing

from headstart.errors import DataError, StorageError
from headstart.training import (
    EMA,
    Callback,
    Checkpointer,
    EarlyStop,
    KeepBest,
    ReduceOnPlateau,
    Snapshots,
    find_checkpoint,
    fit,
    load_checkpoint,
    loss_for,
    save_checkpoint,
    sgdr,
)
from headstart.training.checkpoint_folder import checkpoints
from headstart.training.run import Span
from headstart.types import Task

LOSS = loss_for(Task.SINGLE_LABEL)
OPTIONS = {"rates": [1e-3, 1e-2], "schedule": sgdr(3), "epochs": 3}
MOMENTS = (
    "before_fit", "before_epoch", "before_batch", "after_loss", "after_backward", "after_step",
    "before_validate", "after_validate", "after_epoch", "after_fit",
)  # fmt: skip


class Fault:
    """Raises an error where training comes by for the n-th time, until it is mended."""

    def __init__(self, at: int = 0, error: Exception | None = None) -> None:
        self.left, self.error = at, error or ValueError("a fault of one's own")

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


class Memory(Callback):
    """Changes training at each moment that may change it, by what it remembers of the moments before.

    It fails at one of them, before it has done anything.
    """

    def __init__(self, moment: str = "", fault: Fault | None = None) -> None:
        self.moment, self.fault = moment, fault or Fault()
        self.scale = torch.ones(())
        self.seen = {"steps": 0, "epochs": 0, "batches": 0}

    def _at(self, moment: str) -> None:
        if moment == self.moment:
            self.fault()

    def before_fit(self, run):
        self._at("before_fit")

    def before_epoch(self, run):
        self._at("before_epoch")

    def before_batch(self, run, batch):
        self._at("before_batch")
        self.seen["batches"] += 1
        return batch

    def after_loss(self, run, loss):
        self._at("after_loss")
        self.scale = self.scale * 1.05
        return loss * self.scale

    def after_backward(self, run):
        self._at("after_backward")
        run.model[4].bias.grad += 1e-3 * self.seen["batches"]

    def after_step(self, run):
        self._at("after_step")
        self.seen["steps"] += 1
        if self.seen["steps"] == 13:
            run.stop_reason = "thirteen steps are enough"

    def before_validate(self, run):
        self._at("before_validate")

    def after_validate(self, run, metrics):
        self._at("after_validate")
        metrics["seen"] = float(self.seen["steps"])

    def after_epoch(self, run, row):
        self._at("after_epoch")
        self.seen["epochs"] += 1

    def after_fit(self, run):
        self._at("after_fit")

    def state(self):
        return {"scale": self.scale, "seen": dict(self.seen)}

    def restore_state(self, state):
        self.scale, self.seen = state["scale"], dict(state["seen"])


class Counts(Callback):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told = {"steps": 0, "epochs": 0}

    def after_step(self, run):
        self.told["steps"] += 1

    def after_epoch(self, run, row):
        self.told["epochs"] += 1

    def state(self):
        return dict(self.told)

    def restore_state(self, state):
        self.told = dict(state)


def watchers(folder: Path, memory: Memory) -> list[Callback]:
    """All that remembers something, the one that fails in the middle."""
    return [Counts(), KeepBest(), ReduceOnPlateau(1, 0.5, min_delta=10.0), memory, EMA(0.9), EarlyStop(),
            Snapshots(folder / "snapshots"), Counts()]  # fmt: skip


def states(callbacks: list[Callback]) -> list[dict[str, object]]:
    return [
        {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in callback.state().items()}
        for callback in callbacks
    ]


def goes_on_as_if_nothing_had_been(given, folder: Path, error: Exception, break_it) -> None:
    """Train whole; train until `break_it` breaks it; go on from what was kept: all must be the same."""
    make_run, make_net, make_source, validate_with, bits, comparable = given
    source = make_source()
    whole, callbacks = make_run(), watchers(folder / "whole", Memory())
    fit(whole, source, **OPTIONS, loss=LOSS, validate=validate_with(whole, source), callbacks=callbacks)
    assert (whole.stop_reason, whole.step) == ("thirteen steps are enough", 13)

    broken = make_run()
    kept = folder / "checkpoints"
    writer = Checkpointer(kept, seconds=1e9, most_of_time=1e-12)
    writer._cost = 1e9  # nothing but the fault makes it write
    with pytest.raises(type(error)) as caught:
        break_it(broken, writer)
    assert caught.value is error
    assert any(str(kept) in note for note in error.__notes__)
    assert (broken.failure, writer.written) == (None, 1)
    found = find_checkpoint(kept)
    assert "a fault of one's own" in found.failure
    assert "in __call__" in found.failure, "the traceback is kept"
    assert found.notes == (f"training had been ended by {type(error).__name__}: a fault of one's own",)

    resumed = make_run(make_net(seed=9), seed=77)
    again = watchers(folder / "broken", Memory())
    load_checkpoint(found, resumed, callbacks=again)
    fit(resumed, source, **OPTIONS, loss=LOSS, validate=validate_with(resumed, source), callbacks=again,
        resume=True)  # fmt: skip
    assert bits(resumed) == bits(whole)
    assert comparable(resumed.history) == comparable(whole.history)
    assert states(again) == states(callbacks)
    assert (resumed.step, resumed.epoch, resumed.stop_reason) == (whole.step, whole.epoch, whole.stop_reason)


@pytest.fixture
def given(make_run, make_net, make_source, validate_with, bits, comparable):
    return make_run, make_net, make_source, validate_with, bits, comparable


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_error_of_a_callback_at_any_moment_costs_nothing(
    given, make_source, validate_with, tmp_path, moment
) -> None:
    counts = {"before_fit": (1,), "after_fit": (1,), "before_epoch": (1, 2), "after_step": (1, 8, 10, 12)}
    for at in counts.get(moment, (1, 2) if moment in MOMENTS[6:] else (1, 7, 10)):
        fault, place, source = Fault(at), tmp_path / str(at), make_source()
        callbacks = watchers(place / "broken", Memory(moment, fault))

        def break_it(run, writer, source=source, callbacks=callbacks):
            fit(run, source, **OPTIONS, loss=LOSS, validate=validate_with(run, source),
                callbacks=[*callbacks, writer])  # fmt: skip

        goes_on_as_if_nothing_had_been(given, place, fault.error, break_it)


# Memory that runs out in a step has an answer of its own.
@pytest.mark.parametrize(
    ("part", "error"),
    [
        *itertools.product(("transform", "loss", "metric"), (ValueError, DataError, StorageError)),
        ("metric", MemoryError),
    ],
)
def test_an_error_of_a_transform_a_loss_or_a_metric_costs_nothing(
    given, make_source, validate_with, tmp_path, part, error
) -> None:
    fault = Fault(2 if part == "metric" else 8, error("a fault of one's own"))
    source = make_source()

    class Transformed:
        sample_count = source.sample_count

        def __len__(self):
            return len(source)

        def epoch(self, epoch, *, start=0):
            for batch in source.epoch(epoch, start=start):
                fault()
                yield batch

    def own_loss(logits, targets):
        fault()
        return LOSS(logits, targets)

    def break_it(run, writer):
        validate = validate_with(run, source)

        def own_metric():
            found = validate()
            fault()
            return found

        fit(run, Transformed() if part == "transform" else source, **OPTIONS,
            loss=own_loss if part == "loss" else LOSS,
            validate=own_metric if part == "metric" else validate,
            callbacks=[*watchers(tmp_path / "broken", Memory()), writer])  # fmt: skip

    goes_on_as_if_nothing_had_been(given, tmp_path, fault.error, break_it)


def test_a_checkpoint_written_in_the_middle_of_a_moment_would_give_other_bits(
    make_run, make_source, validate_with, bits, tmp_path
) -> None:
    source, whole = make_source(), make_run()
    own = {"validate": validate_with(whole, source), "loss": LOSS}

    class Saves(Callback):
        """Saves as it fails, when those after it have not been told yet."""

        others: tuple[Callback, ...] = ()

        def after_step(self, run):
            if run.step == 7:
                save_checkpoint(tmp_path, run, callbacks=self.others)

    saves = Saves()
    saves.others = (ema := EMA(0.9),)
    fit(whole, source, **OPTIONS, **own, callbacks=[saves, ema])
    resumed, again = make_run(), EMA(0.9)
    load_checkpoint(tmp_path, resumed, callbacks=[again])
    own["validate"] = validate_with(resumed, source)
    fit(resumed, source, **OPTIONS, **own, callbacks=[again], resume=True)
    assert bits(resumed) != bits(whole)


def test_a_reason_to_stop_that_was_given_before_the_error_still_holds(
    make_run, make_source, validate_with, bits, comparable, tmp_path
) -> None:
    class Stops(Callback):
        """Asks to stop with the last step of an epoch: it is validated all the same."""

        def after_step(self, run):
            if run.step == 10:
                run.stop_reason = "enough"

    class StopsLater(Callback):
        def after_epoch(self, run, row):
            if run.epoch == 2:
                run.stop_reason = "enough"

    for stops, moment, at in ((Stops, "after_step", 10), (StopsLater, "after_epoch", 2)):
        source, whole, broken, resumed = make_source(), make_run(), make_run(), make_run()
        fit(whole, source, **OPTIONS, loss=LOSS, validate=validate_with(whole, source),
            callbacks=[stops(), Memory()])  # fmt: skip
        with pytest.raises(ValueError, match="a fault of one's own"):
            fit(broken, source, **OPTIONS, loss=LOSS, validate=validate_with(broken, source),
                callbacks=[stops(), Memory(moment, Fault(at)), Checkpointer(tmp_path / moment)])  # fmt: skip
        again = [stops(), Memory()]
        load_checkpoint(tmp_path / moment, resumed, callbacks=again)
        fit(resumed, source, **OPTIONS, loss=LOSS, validate=validate_with(resumed, source), callbacks=again,
            resume=True)  # fmt: skip
        assert (resumed.stop_reason, resumed.step, len(resumed.history)) == ("enough", 10, 2)
        assert bits(resumed) == bits(whole)
        assert comparable(resumed.history) == comparable(whole.history)


def written_after(run, source, folder: Path, callbacks, loss=LOSS, disk=None, error=ValueError):
    writer = Checkpointer(folder, seconds=1e9, warn=lambda text: None, disk=disk)
    writer._cost = 1e9
    with pytest.raises(error) as caught:
        fit(run, source, **OPTIONS, loss=loss, callbacks=[*callbacks, writer])
    return writer.written, getattr(caught.value, "__notes__", [])


def test_weights_that_are_not_finite_are_not_saved(make_run, make_source, tmp_path) -> None:
    class Spoils(Callback):
        def after_step(self, run):
            if run.step == 4:
                with torch.no_grad():
                    run.model[0].weight[0, 0] = math.nan
                raise ValueError("and fails")

    written, notes = written_after(make_run(), make_source(), tmp_path / "c", [Spoils()])
    assert written == 0
    assert "not finite: step 4" in notes[0]
    assert not checkpoints(tmp_path / "c")


def stop_half_done(run, monkeypatch, before=lambda: None) -> None:
    """Let the optimiser fail once the weights have moved in step 4, `before` being called first."""
    step = run.optimizer.step

    def fails(*arguments):
        step()
        if run.step == 4:
            before()
            raise ValueError("half done")

    monkeypatch.setattr(run.optimizer, "step", fails)


def test_a_step_that_the_optimiser_had_begun_is_not_saved(
    make_run, make_source, monkeypatch, tmp_path
) -> None:
    run = make_run()
    stop_half_done(run, monkeypatch)
    assert written_after(run, make_source(), tmp_path / "c", []) == (0, [])
    assert run.stop_reason == "failed"


def test_a_disk_that_fails_as_well_does_not_hide_the_error(make_run, make_source, tmp_path) -> None:
    written, _ = written_after(
        make_run(),
        make_source(),
        tmp_path / "c",
        [Memory("after_step", Fault(4))],
        disk=Failing(0, 28, full=True),
    )
    assert written == 0


def test_a_callback_whose_state_fails_as_well_does_not_hide_the_error(
    make_run, make_source, tmp_path
) -> None:
    class Worse(Callback):
        def after_step(self, run):
            if run.step == 3:
                raise ValueError("bad")

        def state(self):
            raise KeyError("worse")

    written, notes = written_after(make_run(), make_source(), tmp_path / "c", [Worse()])
    assert written == 0
    assert "could not be saved" in notes[0]


def test_one_that_fails_at_the_end_keeps_the_others_from_nothing(make_run, make_source, tmp_path) -> None:
    ended = []

    class Ends(Callback):
        def after_fit(self, run):
            ended.append(run.step)
            raise OSError("also")

    class Fails(Memory):
        def after_fit(self, run):
            raise KeyError("the end")

    # What ended training is raised, with notes of what failed after it.
    _, notes = written_after(
        make_run(), make_source(), tmp_path / "a", [Fails("after_step", Fault(4)), Ends()]
    )
    assert ended == [4]
    assert [note.split(" failed")[0] for note in notes[:2]] == ["Fails.after_fit", "Ends.after_fit"]
    # Where all went well until then, the first that fails is raised, and what was trained is kept.
    written, _ = written_after(make_run(), make_source(), tmp_path / "b", [Fails(), Ends()], error=KeyError)
    assert (ended, written) == ([4, 13], 1)


def test_what_is_on_disk_already_is_not_written_again(make_run, make_source, tmp_path) -> None:
    writer = Checkpointer(tmp_path, steps=1)
    source = make_source()
    whole = source.epoch

    def fails(epoch, *, start=0):
        for number, batch in enumerate(whole(epoch, start=start)):
            if number == 3:
                raise ValueError("a fault")
            yield batch

    source.epoch = fails
    with pytest.raises(ValueError, match="a fault") as caught:
        fit(make_run(), source, **OPTIONS, loss=LOSS, callbacks=[writer])
    assert writer.written == 3
    assert "until step 3 is kept" in caught.value.__notes__[0]


def test_an_error_at_the_optimiser_s_step_and_a_signal_save_nothing_half_done(
    make_run, make_source, monkeypatch, tmp_path
) -> None:
    run = make_run()
    stop_half_done(run, monkeypatch, before=lambda: signal.raise_signal(signal.SIGINT))
    assert written_after(run, make_source(), tmp_path / "c", [])[0] == 0


def test_the_span_of_a_checkpoint_from_before_there_were_these_words_is_read(make_run, make_source) -> None:
    run = make_run()
    fit(run, make_source(), **OPTIONS, loss=LOSS)
    plain = run.span.to_plain()
    for name in ("broken_off", "told", "asked"):
        del plain[name]
    assert Span.from_plain(plain) == run.span
