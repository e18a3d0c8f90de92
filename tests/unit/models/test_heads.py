from __future__ import annotations

import pytest
import torch
from torch import nn

from headstart.errors import UsageError
from headstart.models import concat_pool, course_head, create_classifier, linear_head


def test_the_courses_head_has_its_layers_in_order() -> None:
    head = course_head(1024, 5, hidden=(512, 128), ps=0.5)
    kinds = [type(layer).__name__ for layer in head]
    block = ["BatchNorm1d", "Dropout", "Linear"]
    assert kinds == [*block, "ReLU", *block, "ReLU", *block]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.25, 0.25, 0.5]
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(1024, 512), (512, 128), (128, 5)]


def test_the_courses_head_is_kaiming_normal() -> None:
    torch.manual_seed(0)
    linear = course_head(1024, 5)[2]
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize(("ps", "hidden"), [(-0.1, (512,)), (1.0, (512,)), (0.5, (0,))])
def test_dropout_and_widths_without_meaning_are_refused(ps: float, hidden: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        course_head(8, 2, hidden=hidden, ps=ps)


def test_concat_pool_puts_the_maxima_before_the_means_in_both_layouts() -> None:
    features = torch.arange(24.0).view(1, 2, 3, 4)
    expected = torch.tensor([[11.0, 23.0, 5.5, 17.5]])
    assert torch.equal(concat_pool(features), expected)
    assert torch.equal(concat_pool(features.permute(0, 2, 3, 1), channels_last=True), expected)


def test_the_linear_head_starts_small_and_unbiased() -> None:
    torch.manual_seed(0)
    head = linear_head(2048, 10)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()


def test_a_head_is_named_or_given() -> None:
    own = nn.Sequential(nn.Dropout(0.1), nn.Linear(192, 4))
    assert create_classifier("test_resnet", 4, from_scratch=True, image_size=32, head=own).head is own
    with pytest.raises(UsageError, match="no head 'deep'"):
        create_classifier("test_resnet", 4, from_scratch=True, image_size=32, head="deep")
