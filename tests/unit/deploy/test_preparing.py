"""The resize inside a graph gives the loader's own pixels, bit for bit."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.augment import EvalPrepare
from headstart.augment.warp import Interpolation, Policy
from headstart.deploy.export.preparing import Preparing
from headstart.models.graph import quiet

SIDES = st.integers(1, 300)


def noise(height: int, width: int, *, count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    size=st.tuples(st.integers(8, 96), st.integers(8, 96))
    | st.integers(8, 96).map(lambda side: (side, side)),
    policy=st.sampled_from(["crop", "squish", "pad"]),
    fraction=st.sampled_from([1.0, 0.875, 0.9, 0.95, 0.5]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
def test_a_picture_of_any_shape_gets_the_pixels_that_the_loader_gives_it(
    height: int,
    width: int,
    size: tuple[int, int],
    policy: Policy,
    fraction: float,
    interpolation: Interpolation,
) -> None:
    pictures = noise(height, width, count=2, seed=height * 1000 + width)
    found = Preparing(size, policy, fraction, interpolation)(torch.from_numpy(pictures)).numpy()
    prepare = EvalPrepare(size, policy, fraction, interpolation)
    np.testing.assert_array_equal(found, np.stack([prepare(picture) for picture in pictures]))


@pytest.mark.parametrize(
    ("policy", "interpolation"), [("crop", "bicubic"), ("squish", "bilinear"), ("pad", "lanczos")]
)
def test_in_onnx_runtime_it_is_the_same_for_shapes_that_it_was_not_traced_with(
    policy: Policy, interpolation: Interpolation
) -> None:
    size = (48, 64)
    stream = io.BytesIO()
    with quiet(), warnings.catch_warnings():
        torch.onnx.export(
            Preparing(size, policy, 0.9, interpolation).eval(),
            (torch.zeros(2, 40, 48, 3, dtype=torch.uint8),),
            stream,
            input_names=["pixels"],
            output_names=["prepared"],
            dynamic_axes={"pixels": {0: "batch", 1: "height", 2: "width"}, "prepared": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    prepare = EvalPrepare(size, policy, 0.9, interpolation)
    # Tall ones go down first and then across, wide ones the other way.
    for height, width in [(375, 500), (500, 375), (700, 60), (60, 700), (48, 64), (9, 7), (1, 1), (333, 1)]:
        pictures = noise(height, width, count=3)
        (found,) = session.run(None, {"pixels": pictures})
        np.testing.assert_array_equal(found, np.stack([prepare(picture) for picture in pictures]))


def test_another_crop_fraction_would_be_seen() -> None:
    pictures = noise(90, 120)
    found = Preparing((48, 64), "crop", 0.875, "bicubic")(torch.from_numpy(pictures)).numpy()
    assert not np.array_equal(found[0], EvalPrepare((48, 64), "crop", 0.9)(pictures[0]))
