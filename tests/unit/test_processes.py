"""Two processes train as one does: same batches, same losses, same weights; and none is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.training import ranks as alone

from headstart.data.threads import thread_count
from headstart.errors import UsageError
from headstart.inference import choose_device
from headstart.processes import ALONE, Ranks, current, in_order_of, joined, started_with_others
from headstart.training.seeding import step_seed
from headstart.types import World

UNEVEN, EMPTY = str(alone.UNEVEN), str(alone.EMPTY)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict]:
    """What each of two real processes has to say."""
    alone.stopped(folder / "one", 0)  # one process begins what two go on with
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, alone.__file__, str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, -9], said
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def close(ours: dict, theirs: dict, *, weights: float = 1e-9) -> bool:
    """Whether two outcomes are the same training: weights to `weights`, figures to 1e-6."""
    if len(ours["history"]) != len(theirs["history"]) or ours["step"] != theirs["step"]:
        return False
    same = np.allclose(ours["weights"], theirs["weights"], rtol=0, atol=weights)
    same &= np.allclose(ours["predictions"], theirs["predictions"], rtol=0, atol=1e-5)
    for a, b in zip(ours["history"], theirs["history"], strict=True):
        same &= a["epoch"] == b["epoch"] and a["rates"] == b["rates"]
        same &= np.allclose(a["batch_losses"], b["batch_losses"], rtol=0, atol=1e-6)
        same &= np.allclose([a["train_loss"], a["valid_loss"]], [b["train_loss"], b["valid_loss"]], atol=1e-6)
    return bool(same)


@pytest.mark.parametrize("norm", ["fixed batch norm", "layer norm", "batch norm"])
@pytest.mark.parametrize("count", [alone.UNEVEN, alone.EMPTY], ids=["uneven", "one-share-empty"])
def test_two_processes_equal_one(two: list[dict], norm: str, count: int) -> None:
    expected = alone.trained(norm, count)
    for rank in two:
        assert close(rank[norm][str(count)], expected)
    assert expected["history"][-1]["train_loss"] < expected["history"][0]["train_loss"]


def test_without_the_weight_of_each_share_they_would_not(two: list[dict]) -> None:
    assert not close(two[0]["unweighed"], alone.trained("layer norm", alone.UNEVEN), weights=1e-4)


@pytest.mark.parametrize("norm", ["fixed batch norm", "layer norm", "batch norm"])
def test_all_ranks_end_with_the_very_same_bits(two: list[dict], norm: str) -> None:
    for count in (UNEVEN, EMPTY):
        ours, theirs = two[0][norm][count], two[1][norm][count]
        assert (ours["weights"], ours["predictions"]) == (theirs["weights"], theirs["predictions"])
        assert ours["history"] == theirs["history"]


@pytest.mark.parametrize("count", [7, 2])
def test_batch_norm_in_training_mode_takes_the_statistics_of_all_ranks(two: list[dict], count: int) -> None:
    expected = alone.gradients(count)
    for rank in two:
        found = rank["gradients"][str(count)]
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10)


def test_where_each_share_is_normalised_by_itself_the_gradients_are_others(two: list[dict]) -> None:
    expected, found = alone.gradients(7), two[0]["apart"]
    assert not np.allclose(found["gradients"], expected["gradients"], rtol=0, atol=1e-3)
    assert not np.allclose(found["statistics"], expected["statistics"], rtol=0, atol=1e-3)


def test_no_sample_comes_twice_or_never(two: list[dict]) -> None:
    assert sorted(two[0]["seen"] + two[1]["seen"]) == list(range(alone.UNEVEN))
    assert two[0]["seen"]
    assert two[1]["seen"]


def test_what_is_too_much_for_one_rank_is_taken_in_parts_by_all_and_changes_nothing(two: list[dict]) -> None:
    expected = alone.trained("layer norm", alone.UNEVEN)
    for rank in two:
        for found in rank["little memory"]["layer norm"].values():
            assert close(found, expected)
            assert next(iter(found["fits"].values())) == 2


@pytest.mark.parametrize("where", ["before", "after", "at the end"])
def test_memory_that_runs_out_on_one_rank_leaves_no_other_waiting_for_its_statistics(
    two: list[dict], where: str
) -> None:
    ours, theirs = (rank["little memory"]["batch norm"][where] for rank in two)
    assert {**ours, "notices": 0} == {**theirs, "notices": 0}
    assert next(iter(ours["fits"].values())) == 2
    assert "all 2 ranks together" in ours["notices"][0]
    assert "2 samples at a time" in ours["notices"][1]
    expected = alone.trained("batch norm", alone.UNEVEN)
    assert ours["step"] == expected["step"]
    assert ours["history"][-1]["train_loss"] == pytest.approx(expected["history"][-1]["train_loss"], rel=0.3)


def test_the_finder_and_the_trials_see_the_losses_of_all_ranks(two: list[dict]) -> None:
    expected = alone.looked()
    for rank in two:
        np.testing.assert_allclose(rank["looked"]["losses"], expected["losses"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(rank["looked"]["changes"], expected["changes"], rtol=0, atol=1e-6)
        assert rank["looked"]["pictures"] == expected["pictures"]
        assert rank["looked"]["untouched"]


def test_a_callback_that_stops_one_rank_stops_all_after_the_same_step(two: list[dict]) -> None:
    for rank in two:
        assert (rank["asked to stop"]["step"], rank["asked to stop"]["stop_reason"]) == (
            6,
            "rank 1 has had enough",
        )


def test_a_signal_to_one_rank_saves_the_run_and_one_process_goes_on_with_it(
    two: list[dict], folder: Path
) -> None:
    for rank in two:
        assert (rank["stopped"]["step"], rank["stopped"]["stop_reason"]) == (7, "interrupted")
        assert rank["stopped"]["stop_signal"] == 15
    assert close(alone.gone_on(folder / "two"), alone.trained("layer norm", alone.UNEVEN))


def test_two_processes_go_on_with_what_one_began(two: list[dict]) -> None:
    assert close(two[1]["gone on"], alone.trained("layer norm", alone.UNEVEN))


def test_a_rank_that_is_killed_ends_the_other_within_seconds_which_names_it_and_saves(
    two: list[dict], folder: Path
) -> None:
    lost = json.loads((folder / "lost.json").read_text())
    assert "rank 1 (process" in lost["message"]
    assert "rank 0 stops, too" in lost["message"]
    assert lost["exit_code"] == 75
    assert lost["seconds"] < 5
    assert lost["step"] == lost["checkpoint"] == 7
    # The statistics of the step that was cut short are not in it.
    assert close(alone.gone_on(folder / "lost", "batch norm"), alone.trained("batch norm", alone.UNEVEN))


def test_what_ranks_tell_one_another_arrives(two: list[dict]) -> None:
    for rank in two:
        talk = rank["talk"]
        assert talk["table"] == [[0.0, 0.1], [1.0, 0.1]]
        assert talk["gathered"] == [[], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
        assert talk["said"] == ["", "grüße"]
        assert talk["of_first"] == 7.5


# ---- alone -------------------------------------------------------------------------------------


def test_alone_nothing_is_asked_of_anyone() -> None:
    ranks = Ranks()
    tensor = torch.ones(3)
    ranks.add_up([tensor])
    ranks.take_from_first([tensor])
    ranks.wait()
    with ranks.first_before_others():
        pass
    assert ranks.table(1.0, 2.0).tolist() == [[1.0, 2.0]]
    assert ranks.said("me") == ("me",)
    assert (ranks.first, ranks.alone, ranks.count, tensor.tolist()) == (True, True, 1, [1.0, 1.0, 1.0])
    with joined({}) as found:
        assert found is current() is ALONE


@pytest.mark.parametrize("said", ["two", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="no number of processes"):
        started_with_others({"WORLD_SIZE": said})


def test_one_process_of_accelerate_where_several_were_asked_for_is_refused() -> None:
    asked = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with pytest.raises(UsageError, match="starts only one with --cpu"):
        started_with_others(asked)
    assert started_with_others({**asked, "WORLD_SIZE": "2"})
    assert not started_with_others({"ACCELERATE_USE_CPU": "True"})
    assert not started_with_others({"MASTER_ADDR": "127.0.0.1"})


def test_processes_that_do_not_know_where_to_meet_are_told_what_is_missing() -> None:
    with pytest.raises(UsageError, match="RANK, MASTER_ADDR, MASTER_PORT"), joined({"WORLD_SIZE": "2"}):
        pass


def test_rows_come_back_in_the_order_that_was_asked_for() -> None:
    index, values = in_order_of(np.array([5, 3, 9, 1]), np.array([1, 9, 5]), np.array([10, 90, 50]))
    assert (index.tolist(), values.tolist()) == ([5, 9, 1], [50, 90, 10])


def test_each_rank_draws_its_own_dropout_and_rank_0_as_one_process_does() -> None:
    assert step_seed(1, 2, 0) == step_seed(1, 2)
    assert len({step_seed(1, 2, rank) for rank in range(4)} | {step_seed(1, 3)}) == 5


def test_processes_of_one_machine_share_out_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = thread_count(None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert thread_count(None) == 1 <= whole
    assert thread_count(5) == 5


def test_each_process_gets_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="2 CUDA devices are too few"):
        choose_device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_share_of_the_world_is_not_lost_on_the_ranks_own_names() -> None:
    ranks = Ranks(World(2, 4))
    assert (ranks.rank, ranks.count, ranks.first, ranks.alone) == (2, 4, False, False)
