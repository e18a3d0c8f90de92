from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from headstart.models.stages import Stage, cut


class Blocks(nn.Module):
    """A body with a stem and three blocks, whose parts a test may change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.idle = nn.Linear(2, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        del coarse
        return {"stem": r"^stem|scale", "blocks": r"^blocks\.(\d+)"}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.blocks(torch.relu(self.stem(pixels)) * self.scale)


class Skipping(Blocks):
    """The second block also sees the stem, so that two values cross into it."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        stem = self.stem(pixels)
        return self.blocks[2](self.blocks[1](self.blocks[0](stem)) + stem)


class Tied(Blocks):
    """The first and the second block are one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].weight = self.blocks[0].weight


class ModeInForward(Blocks):
    """Reads its mode where a trace would bake it in."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(pixels), 0.5, self.training)


class Deciding(Blocks):
    """Asks what a picture holds, which no trace can follow."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels if pixels.sum() > 0 else -pixels)


class Dropping(nn.Module):
    """Holds no parameters, but reads its mode."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * 2 if self.training else values


class WithDropping(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.drop = Dropping()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.drop(super().forward(pixels))


class WithOption(Blocks):
    """A trace decides on an option by its stand-in, which is not None, and then takes None apart."""

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        features = self.stem(pixels)
        if mask is not None:
            features = features * mask[..., None]
        return self.blocks(features)


def stages_of(body: nn.Module) -> list[Stage]:
    example = torch.linspace(-1, 1, 192).view(1, 3, 8, 8)
    with torch.no_grad():
        return cut(body, example, body.eval()(example))


def run(stages: list[Stage], body: nn.Module, values: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        values = stage.run(body, values)
    return values


def test_stages_are_cut_where_a_layer_group_starts() -> None:
    body = Blocks()
    stages = stages_of(body)
    assert [stage.name for stage in stages] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert [stage.output for stage in stages] == [(4, 8, 8)] * 4


def test_every_parameter_is_in_one_stage_even_one_that_nothing_calls() -> None:
    body = Blocks()
    held = [name for stage in stages_of(body) for name in stage.parameters(body)]
    assert sorted(held) == sorted(name for name, _ in body.named_parameters())
    assert "scale" in stages_of(body)[0].parameters(body)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Skipping, ["stem", "blocks", "blocks.2"]),
        (Tied, ["stem", "blocks", "blocks.2"]),
        (ModeInForward, ["body"]),
        (Deciding, ["body"]),
        (WithOption, ["body"]),
        (WithDropping, ["stem", "blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_no_cut_goes_where_it_would_be_wrong(kind: type[Blocks], names: list[str]) -> None:
    torch.manual_seed(0)
    body = kind()
    stages = stages_of(body)
    assert [stage.name for stage in stages] == names
    named = [name for stage in stages for name in stage.parameters(body)]
    assert sorted(named) == sorted(name for name, _ in body.named_parameters())
    pixels = torch.rand(2, 3, 8, 8)
    for training in (True, False):
        body.train(training)
        torch.manual_seed(1)
        expected = body(pixels)
        torch.manual_seed(1)
        assert torch.equal(run(stages, body, pixels), expected)


def test_a_mode_that_was_baked_in_would_be_seen() -> None:
    body = ModeInForward().eval()
    graph = torch.fx.symbolic_trace(body)
    pixels = torch.rand(1, 3, 8, 8)
    body.train()
    assert not torch.equal(graph(pixels), body(pixels))


def test_a_body_without_layer_groups_is_one_stage() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    (stage,) = stages_of(body)
    assert stage.name == "body"
    assert set(stage.parameters(body)) == {"0.weight", "0.bias"}


def test_cutting_leaves_modes_and_random_state_alone() -> None:
    body = timm.create_model("test_vit", num_classes=0, drop_path_rate=0.5)
    body.blocks[2].eval()
    example = torch.zeros(1, 3, 160, 160)
    body.eval()
    with torch.no_grad():
        features = body(example)
    body.train()
    body.blocks[2].eval()
    modes = [part.training for part in body.modules()]
    state = torch.random.get_rng_state()
    stages = cut(body, example, features)
    assert len(stages) == 7
    assert [part.training for part in body.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_stages_look_everything_up_in_the_body_they_are_given() -> None:
    body, other = Blocks().eval(), Blocks().eval()
    stages = stages_of(body)
    pixels = torch.rand(1, 3, 8, 8)
    assert torch.equal(run(stages, other, pixels), other(pixels))
    body.blocks[1] = nn.Identity()
    assert torch.equal(run(stages, body, pixels), body(pixels))
