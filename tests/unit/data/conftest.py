"""What the tests of this room share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for these tests alone: nothing that an earlier run found out is known."""
    before = os.environ.get("HEADSTART_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["HEADSTART_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HEADSTART_CACHE"]
    else:
        os.environ["HEADSTART_CACHE"] = before
