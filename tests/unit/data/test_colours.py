"""What transparency is laid on: how it is spelled, and that nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import parse_background, spelled_background
from headstart.errors import UsageError

parts = st.integers(0, 255)


@given(st.tuples(parts, parts, parts))
def test_a_background_comes_back_as_it_was_spelled(background: tuple[int, int, int]) -> None:
    assert parse_background(spelled_background(background)) == background
    assert parse_background(spelled_background(background).upper()) == background
    assert parse_background(background) == parse_background(list(background)) == background


@pytest.mark.parametrize(
    ("text", "background"), [("white", (255,) * 3), (" Black", (0,) * 3), ("#ff8000", (255, 128, 0))]
)
def test_names_and_hexadecimal_numbers_are_read(text: str, background: tuple[int, int, int]) -> None:
    assert parse_background(text) == background


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "red",
        "#fff",
        "#gg0000",
        "ff8000",
        "#ff80000",
        (1, 2),
        (0, 0, 256),
        (-1, 0, 0),
        (0.5, 0, 0),
        (True,) * 3,
    ],
)
def test_anything_else_is_refused_with_what_is_taken(wrong: object) -> None:
    with pytest.raises(UsageError, match="#rrggbb"):
        parse_background(wrong)  # type: ignore[arg-type]
