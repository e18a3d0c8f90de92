"""The guide runs, top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_block_of_the_guide_runs(make_folder, tmp_path: Path) -> None:
    from headstart.models import create_backbone
    from headstart.storage import save_tensors

    weights = tmp_path / "test_resnet.safetensors"
    save_tensors(
        weights, create_backbone("test_resnet", from_scratch=True, image_size=64).module.state_dict()
    )
    names = {f"kind {number}": 15 for number in range(6)}
    scope = {
        "photos": make_folder(names, height=90, width=100),
        "arch": "test_resnet",
        "weights": weights,
        "home": tmp_path / "home",
    }
    found = blocks(GUIDE.read_text("utf-8"))
    assert len(found) >= 10
    for block in found:
        exec(compile(block, str(GUIDE), "exec"), scope)


def test_a_block_that_fails_would_be_noticed() -> None:
    with pytest.raises(NameError):
        exec(compile(blocks("```python\nnowhere\n```\n")[0], "guide", "exec"), {})
