"""The table of what was predicted: rows that were asked for and could not be read stay in it, unscored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.data import Samples
from headstart.evaluation import average, measure, paired
from headstart.inference import predict_samples, predictions_of
from headstart.types import Batch, Task

LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]], np.float32)


@pytest.fixture(params=[Task.SINGLE_LABEL, Task.MULTI_LABEL], ids=["classes", "tags"])
def samples(request: pytest.FixtureRequest) -> Samples:
    labels = np.array([0, 1, 0, 1, 1])
    return Samples(
        Path("/pictures"),
        tuple(f"{row}.jpg" for row in range(5)),
        labels if request.param is Task.SINGLE_LABEL else np.eye(2, dtype=np.uint8)[labels],
        ("cat", "dog"),
        np.full(5, "valid"),
        task=request.param,
    )


def test_a_row_without_logits_has_its_code_and_is_in_no_figure(samples: Samples) -> None:
    rows, asked = np.array([1, 2, 4]), np.arange(1, 5)
    whole = predictions_of(samples, rows, LOGITS)
    table = predictions_of(samples, rows, LOGITS, among=asked, lost={3: "VANISHED"})
    assert table.rows.tolist() == [1, 2, 3, 4]
    assert table.statuses.tolist() == ["", "", "VANISHED", ""]
    assert table.paths == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert np.array_equal(table.logits[[0, 1, 3]], LOGITS)
    assert np.isnan(table.logits[2]).all()
    assert measure(table, ["log_loss", "accuracy"]) == measure(whole, ["log_loss", "accuracy"])
    assert table.scored_rows.tolist() == [True, True, False, True]


def test_tables_with_and_without_the_row_are_compared_on_what_both_have(samples: Samples) -> None:
    asked = np.arange(4)
    before = predictions_of(samples, asked, np.tile(LOGITS[:1], (4, 1)), among=asked)
    after = predictions_of(samples, np.array([0, 1, 3]), LOGITS, among=asked, lost={2: "CHANGED"})
    assert before.statuses.tolist() == [""] * 4
    kept = np.array([0, 1, 3])
    alone = paired(before.take(kept), after.take(kept), "log_loss")
    assert paired(before, after, "log_loss") == alone
    assert average([before, after]).statuses.tolist() == ["", "", "CHANGED", ""]


def test_the_loss_is_asked_for_after_the_rows_were_read(samples: Samples) -> None:
    lost: dict[int, str] = {}

    class Source:
        sample_count = 3

        def __len__(self) -> int:
            return 3

        def epoch(self, epoch: int, *, start: int = 0):
            yield Batch(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1), np.array([0]))
            lost[1] = "VANISHED"
            yield Batch(np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0), np.zeros(0, np.int64))
            yield Batch(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1), np.array([2]))

    def forward(batch: Batch) -> np.ndarray:
        assert len(batch), "a network never sees an empty batch"
        return LOGITS[: len(batch)]

    table = predict_samples(forward, samples, Source(), among=np.arange(3), lost=lambda: lost)
    assert table.statuses.tolist() == ["", "VANISHED", ""]
