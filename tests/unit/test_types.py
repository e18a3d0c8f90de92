"""The shapes that all rooms share, and the errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart import errors
from headstart.errors import HeadstartError, UsageError
from headstart.types import Batch, Task, World, parse_size

sides = st.integers(8, 4096)


@settings(deadline=None)
@given(height=sides, width=sides)
def test_a_size_is_read_in_each_of_its_spellings(height: int, width: int) -> None:
    assert parse_size((height, width)) == (height, width)
    assert parse_size([height, width]) == (height, width)
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(f" {height} X {width} ") == (height, width)
    assert parse_size(height) == parse_size(str(height)) == (height, height)


@settings(deadline=None)
@given(value=st.text())
def test_a_text_is_a_size_or_a_usage_error(value: str) -> None:
    try:
        height, width = parse_size(value)
    except UsageError as error:
        assert "image size" in error.message  # noqa: PT017 - most texts are refused, some are sizes
    else:
        assert 8 <= height <= 4096
        assert 8 <= width <= 4096


NO_SIZES = [
    *("", "x", "224x", "0", "7", "4097", "-224", "1e3", "224x224x3", "9" * 5000),
    *(True, None, 224.5, float("nan"), 10**30, b"224", object()),
    *((224.5, 224.5), (224, 224, 224), [], {"a": 1}),
]


@pytest.mark.parametrize("value", NO_SIZES)
def test_what_is_no_size_is_a_usage_error(value: object) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(value)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_a_size() -> None:
    assert parse_size((np.int64(224), np.int32(320))) == (224, 320)


def test_a_batch_is_as_long_as_its_index() -> None:
    batch = Batch(np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, np.int64), np.arange(3))
    assert len(batch) == 3
    assert batch.weight is None
    assert World() == World(rank=0, size=1)


def test_tasks_are_written_as_words() -> None:
    assert [str(task) for task in Task] == ["single-label", "multi-label"]
    assert Task("multi-label") is Task.MULTI_LABEL


# Kept apart from the code: the contract is with those who call the command from scripts.
EXIT_CODES = {
    "UsageError": 2,
    "DataError": 65,
    "InputMissingError": 66,
    "OutputError": 73,
    "StorageError": 74,
    "StoppedError": 75,
    "OutOfMemoryError": 75,
    "DeviceLostError": 75,
    "LostRankError": 75,
    "ConfigError": 78,
}


def test_every_error_ends_the_process_with_its_own_code() -> None:
    found = {
        error.__name__: error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, HeadstartError) and error is not HeadstartError
    }
    assert found == EXIT_CODES
    codes = [getattr(errors, name).code for name in EXIT_CODES]
    assert len(set(codes)) == len(codes)


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = errors.DataError("a.jpg is cut off", "fetch it again", code="TRUNCATED")
    assert str(error) == "a.jpg is cut off (fetch it again)"
    assert (error.message, error.hint, error.code) == ("a.jpg is cut off", "fetch it again", "TRUNCATED")
    assert errors.DataError.code == "BAD_DATA"
    assert str(errors.DataError("a.jpg is cut off")) == "a.jpg is cut off"
