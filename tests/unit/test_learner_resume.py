"""`learn.resume` goes on within a phase, to the same bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from headstart.augment import Own, side_on
from headstart.errors import ConfigError, DataError, InputMissingError
from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.models import frozen_engine
from headstart.training import Callback, Checkpointer, Phase, Settings, one_cycle, sgdr
from headstart.training.checkpoint_folder import checkpoints

PHASE = Phase("all", 2, sgdr(2), learning_rate=1e-3, frozen_to=0, stop_early=True)


class PowerCut(BaseException):
    """Nothing is saved on the way out."""


class Fall(Callback):
    """The machine falls over after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, run) -> None:
        if run.step == self.at:
            raise PowerCut


def learner(
    pictures, *, threads: int = 1, settings: Settings | None = None, change: Own | None = None
) -> Learner:
    augment = dataclasses.replace(side_on(), before=change)
    data = ImageData.from_folder(pictures, image_size=32, batch_size=8, threads=threads, augment=augment)
    return Learner(data, "test_resnet", from_scratch=True, settings=settings, callbacks=())


def test_it_goes_on_to_the_same_bits_with_other_threads(make_folder, tmp_path) -> None:
    pictures = make_folder({"a": 12, "b": 12})
    whole = learner(pictures)
    whole.run_phase(PHASE)
    broken = learner(pictures)
    with pytest.raises(PowerCut):
        broken.run_phase(PHASE, (Checkpointer(tmp_path / "c", steps=1), Fall(4)))
    resumed = learner(pictures, threads=2)
    computing = torch.get_num_threads()
    try:
        torch.set_num_threads(computing + 1)
        notes = resumed.resume(tmp_path / "c")
        assert torch.get_num_threads() == computing
    finally:
        torch.set_num_threads(computing)
    assert notes == (f"torch computes with {computing} threads, as it did, and not with {computing + 1}",)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert [row["batch_losses"] for row in resumed.run.history] == [
        row["batch_losses"] for row in whole.run.history
    ]
    assert len(checkpoints(tmp_path / "c")) == 2


def test_what_an_error_of_one_s_own_change_ended_goes_on_once_it_is_mended(make_folder, tmp_path) -> None:
    pictures = make_folder({"a": 12, "b": 12})
    calls = 0

    def change(image):
        nonlocal calls
        calls += 1
        if calls == 30:
            raise ZeroDivisionError("of one's own")
        return 255 - image

    whole = learner(pictures, change=Own(lambda image: 255 - image, "inverted"))
    whole.run_phase(PHASE)
    broken = learner(pictures, threads=0, change=Own(change, "inverted"))
    writer = Checkpointer(tmp_path / "c", seconds=1e9)
    with pytest.raises(DataError, match="ZeroDivisionError: of one's own") as caught:
        broken.run_phase(PHASE, (writer,))
    assert str(tmp_path / "c") in caught.value.__notes__[0]
    resumed = learner(pictures, change=Own(lambda image: 255 - image, "inverted"))
    notes = resumed.resume(tmp_path / "c")
    assert "ZeroDivisionError" in notes[0]
    assert resumed.run.step == whole.run.step
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("taken", ["eager", "onnxruntime"])
def test_the_engine_that_ran_the_frozen_part_runs_it_again(make_folder, tmp_path, taken) -> None:
    """Which one is faster is found by a trial, which may end differently on another day."""
    pictures = make_folder({"a": 12, "b": 12})
    head = Phase("head", 1, one_cycle(), learning_rate=1e-3, frozen_to=-1, precompute=True, augment=False)
    first = learner(pictures)
    first.freeze()
    first.adopt(frozen_engine(first.model, size=(32, 32), prefer=taken), {})
    first.run_phase(head, (Checkpointer(tmp_path / "c", steps=1),))
    assert list(first.run.adjustments.engines.values()) == [taken]
    resumed = learner(pictures)
    resumed.resume(tmp_path / "c")
    assert resumed.engine().name == taken
    assert resumed.run.adjustments.engines == first.run.adjustments.engines


def test_an_engine_that_is_not_to_be_had_any_more_is_replaced_with_a_word(make_folder, caplog) -> None:
    first = learner(make_folder({"a": 12, "b": 12}))
    first.freeze()
    chosen = first.engine().name
    (known,) = first.run.adjustments.engines
    second = learner(first.data.samples.root)
    second.freeze()
    second.run.adjustments.engines[known] = "of another day"
    with caplog.at_level("WARNING"):
        assert second.engine().name == chosen
    assert "of another day" in caplog.text


def test_what_does_not_fit_is_refused(make_folder, tmp_path) -> None:
    pictures = make_folder({"a": 12, "b": 12})
    first = learner(pictures)
    with pytest.raises(InputMissingError):
        first.resume(tmp_path / "none")
    first.save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="not written while a phase was trained"):
        first.resume(tmp_path / "saved")
    first.run_phase(PHASE, (Checkpointer(tmp_path / "c", steps=1),))
    with pytest.raises(ConfigError, match="settings"):
        learner(pictures, settings=Settings(weight_decay=0.5)).resume(tmp_path / "c")
    with pytest.raises(ConfigError, match="other classes"):
        learner(make_folder({"a": 12, "c": 12}, name="others")).resume(tmp_path / "c")
