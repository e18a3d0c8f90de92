"""bfloat16 is chosen only where the hardware multiplies it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headstart.errors import UsageError
from headstart.training import autocast_for, resolve_precision
from headstart.training.precision import processor_has_bfloat16


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    """Pretend that /proc/cpuinfo says something else; None: that there is none."""
    read = Path.read_text

    def pretend(text: str | None) -> None:
        def read_text(path: Path, *args: str, **options: str) -> str:
            if str(path) != "/proc/cpuinfo":
                return read(path, *args, **options)
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(Path, "read_text", read_text)
        processor_has_bfloat16.cache_clear()

    yield pretend
    processor_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: X\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", "bfloat16"),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", "bfloat16"),
        ("Features\t: fp asimd bf16 i8mm\n", "bfloat16"),
        ("flags\t\t: fpu avx512f avx512bw avx512_vnni\n", "float32"),
        ("model name\t: avx512_bf16 by name only\nflags\t\t: fpu avx2\n", "float32"),
        ("", "float32"),
        (None, "float32"),
    ],
)
def test_auto_follows_what_the_processor_has(processor, text, expected) -> None:
    processor(text)
    assert resolve_precision("cpu") == expected


def test_the_kernel_and_torch_agree_about_this_processor() -> None:
    has_avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if has_avx512_bf16 is None:
        pytest.skip("this torch does not say")
    assert not has_avx512_bf16() or processor_has_bfloat16()


def test_a_choice_is_a_choice() -> None:
    assert resolve_precision("cpu", "bfloat16") == "bfloat16"
    assert resolve_precision("cpu", "float32") == "float32"
    assert resolve_precision("cuda", "float16") == "float16"


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu"])
def test_float16_is_refused_where_its_losses_could_not_be_trusted(device) -> None:
    with pytest.raises(UsageError, match="float16 trains on CUDA devices only") as caught:
        resolve_precision(device, "float16")
    assert "auto" in caught.value.hint


def test_an_unknown_precision_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="choose auto, float32, bfloat16 or float16"):
        resolve_precision("cpu", "float8")


def test_devices_without_a_measured_gain_stay_in_float32() -> None:
    assert resolve_precision("mps") == "float32"


def test_the_context_sets_the_precision_of_what_is_computed_in_it() -> None:
    layer, ones = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with autocast_for("cpu", "bfloat16"):
        assert layer(ones).dtype == torch.bfloat16
    with autocast_for("cpu", "float16"):
        assert layer(ones).dtype == torch.float16
    with autocast_for("cpu", "float32"):
        assert layer(ones).dtype == torch.float32
