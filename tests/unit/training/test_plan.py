"""Plans: what they may hold, how they print, and their way to YAML and back."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.training import Phase, Plan, Schedule, Settings, constant, one_cycle, sgdr

RATES = st.floats(1e-9, 10)
SPECS = st.one_of(
    st.none(),
    RATES,
    st.lists(RATES, min_size=1, max_size=5).map(tuple),
    st.builds(slice, RATES),
    st.builds(slice, RATES, RATES),
)
SCHEDULES = st.one_of(
    st.just(constant()),
    st.builds(sgdr, st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
    st.builds(one_cycle, div=st.floats(1, 100), pct_start=st.floats(0, 1)),
)
TEXT = st.text(string.printable + "äλ字🙂", max_size=40)


@st.composite
def phases(draw: st.DrawFn) -> Phase:
    schedule = draw(SCHEDULES)
    precompute = draw(st.booleans())
    mixing = draw(st.sampled_from([None, "none", *([] if precompute else ["mixup", "cutmix"])]))
    return Phase(
        name=draw(TEXT),
        epochs=schedule.epochs or draw(st.integers(1, 20)),
        schedule=schedule,
        learning_rate=draw(SPECS),
        frozen_to=draw(st.integers(-3, 3)),
        image_size=draw(st.none() | st.tuples(st.integers(8, 512), st.integers(8, 512))),
        augment=not precompute and draw(st.booleans()),
        precompute=precompute,
        batch_size=draw(st.none() | st.integers(1, 256)),
        stop_early=draw(st.booleans()),
        mixing=mixing,
        mixing_alpha=None if mixing is None else draw(st.none() | st.floats(0.01, 10)),
        step=draw(st.integers(0, 8)),
        reason=draw(TEXT),
    )


SETTINGS = st.builds(
    Settings,
    seed=st.integers(0, 2**63 - 1),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    weight_decay=st.floats(0, 1),
    label_smoothing=st.floats(0, 0.9),
    gradient_clip=st.none() | st.floats(1e-3, 10),
    rate_ratio=st.floats(1, 100),
    precision=st.sampled_from(["auto", "float32", "bfloat16"]),
    mixing=st.sampled_from(["none", "mixup", "cutmix"]),
    mixing_alpha=st.none() | st.floats(0.01, 10),
)
PLANS = st.builds(Plan, st.lists(phases(), min_size=1, max_size=4).map(tuple), SETTINGS)


@given(PLANS)
def test_a_plan_comes_back_from_yaml_as_it_was(plan: Plan) -> None:
    assert Plan.from_yaml(plan.to_yaml()) == plan


@given(PLANS, st.floats(0.01, 10))
def test_a_scaled_plan_is_a_plan_with_every_phase(plan: Plan, factor: float) -> None:
    scaled = plan.scaled(factor)
    assert len(scaled) == len(plan)
    assert all(phase.epochs >= 1 for phase in scaled)
    assert plan.scaled(1.0) == plan
    assert Plan.from_yaml(scaled.to_yaml()) == scaled


def test_total_epochs_are_those_of_all_phases() -> None:
    plan = Plan((Phase("a", 2), Phase("b", 7, sgdr(3, 1, 2))))
    assert plan.total_epochs() == 9
    assert plan.scaled(0.5).total_epochs() == 1 + 3
    assert plan.scaled(2).total_epochs() == 4 + 14


def test_a_plan_written_by_hand_is_understood(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        """
headstart_plan: 1
settings: {weight_decay: 5e-2, seed: 3}
phases:
  - name: last layers
    schedule: {name: sgdr, cycles: 3}
    learning_rate: 1e-2          # without a point, which YAML 1.1 takes for text
    image_size: 224
  - name: whole network
    epochs: 4
    schedule: one_cycle
    learning_rate: {low: 1e-5, high: 1e-3}
    frozen_to: 0
    image_size: 288x320
  - {name: again, epochs: 1, learning_rate: {high: 0.01}}
  - {name: by hand, epochs: 1, learning_rate: [1e-4, 1e-3, 0.01]}
""",
        encoding="utf-8",
    )
    plan = Plan.from_yaml(path)
    assert plan.settings == Settings(weight_decay=0.05, seed=3)
    first, second, third, fourth = plan
    assert (first.epochs, first.learning_rate, first.image_size) == (3, 0.01, (224, 224))
    assert (second.learning_rate, second.schedule) == (slice(1e-5, 1e-3), Schedule("one_cycle"))
    assert (second.frozen_to, second.image_size) == (0, (288, 320))
    assert third.learning_rate == slice(0.01)
    assert fourth.learning_rate == (1e-4, 1e-3, 0.01)


def test_a_plan_is_written_to_a_file(tmp_path) -> None:
    plan = Plan((Phase("only", 1, learning_rate=1e-3),))
    text = plan.to_yaml(tmp_path / "plan.yaml")
    assert (tmp_path / "plan.yaml").read_text("utf-8") == text
    assert Plan.from_yaml(tmp_path / "plan.yaml") == plan


def test_a_plan_prints_as_a_table() -> None:
    plan = Plan(
        (
            Phase("last layers", 2, one_cycle(), augment=False, precompute=True, step=3),
            Phase("all", 7, sgdr(3, 1, 2), slice(1e-5, 1e-3), 0, (224, 224), stop_early=True, step=8),
        )
    )
    lines = str(plan).splitlines()
    assert lines[0].split() == [
        "step",
        "phase",
        "epochs",
        "schedule",
        "learning",
        "rate",
        "frozen",
        "size",
        "data",
    ]
    assert lines[2].split()[:5] == ["3", "last", "layers", "2", "one_cycle"]
    assert all(word in lines[2] for word in ("found", "below -1", "as data", "activations"))
    assert all(word in lines[3] for word in ("7*", "3×1 mult 2", "slice(1e-05, 0.001)", "nothing", "224x224"))
    assert lines[-1] == "9 epochs in 2 phases"


PHASE = "headstart_plan: 1\nphases:\n  - {name: a, epochs: 1, "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold names and values"),
        ("[1, 2]", "must hold names and values"),
        ("phases: [{name: a, epochs: 1}]", "headstart_plan must be 1"),
        ("headstart_plan: 2\nphases: []", "headstart_plan must be 1"),
        ("headstart_plan: 1\nphases: []", "list of 1"),
        ("headstart_plan: 1\nphase: []", "did you mean phases"),
        (PHASE + "epoch: 2}", "did you mean epochs"),
        (PHASE + "lerning_rate: 2}", "did you mean learning_rate"),
        (PHASE + "learning_rate: {hi: 2}}", "did you mean high"),
        (PHASE + "learning_rate: {low: 2}}", "expected a number"),
        (PHASE + "learning_rate: -1}", "not a learning rate"),
        (PHASE + "learning_rate: .nan}", "expected a number"),
        (PHASE + "learning_rate: []}", "not a learning rate"),
        (PHASE + "learning_rate: fast}", "expected a number"),
        (PHASE + "image_size: 3}", "is not a size"),
        (PHASE + "image_size: [a, b]}", "expected a size"),
        (PHASE + "augment: 1}", "true or false"),
        (PHASE + "frozen_to: 1.5}", "whole number"),
        (PHASE + "frozen_to: true}", "whole number"),
        (PHASE + "batch_size: 0}", "batch_size"),
        (PHASE + "precompute: true}", "cannot be augmented"),
        (PHASE + "schedule: cosin}", "did you mean cosine"),
        (PHASE + "schedule: {name: sgdr, cycles: 2}}", "cycles take 2 epochs, but epochs is 1"),
        (PHASE + "schedule: [1]}", "expected a name"),
        (PHASE + "schedule: {1: 2}}", "expected a name"),
        (PHASE + "name: [1]}", "expected text"),
        ("headstart_plan: 1\nphases: [{name: a}]", "epochs is missing"),
        ("headstart_plan: 1\nphases: [{name: a, epochs: 10000000}]", "epochs is"),
        ("headstart_plan: 1\nphases: [3]", "must hold names and values"),
        ("headstart_plan: 1\nsettings: {optimizer: adam}\nphases: [{name: a, epochs: 1}]", "adamw"),
        ("headstart_plan: 1\nsettings: {precision: half}\nphases: [{name: a, epochs: 1}]", "bfloat16"),
        ("headstart_plan: 1\nsettings: {weight_decay: -1}\nphases: [{name: a, epochs: 1}]", "weight_decay"),
        ("headstart_plan: 1\nsettings: {wd: 1}\nphases: [{name: a, epochs: 1}]", "'wd' is not"),
        (PHASE + "step: 0x" + "f" * 20_000 + "}", "out of range"),
        (PHASE + "learning_rate: 0x" + "f" * 20_000 + "}", "out of range"),
        (PHASE + "step: " + "9" * 20_000 + "}", "not plain YAML"),
        ("headstart_plan: 0x" + "f" * 20_000, "headstart_plan must be 1"),
        ("? 0x" + "f" * 20_000 + "\n: 1", "out of range"),
        ("{", "not plain YAML"),
        ("a: b: c", "not plain YAML"),
        ("!!python/object/apply:os.system ['echo no']", "not plain YAML"),
        ("headstart_plan: !!python/name:os.system ''", "not plain YAML"),
        ("x: " + "[" * 3000, "not plain YAML"),
        ("a" * (300 * 1024), "at most 256 kB"),
    ],
)
def test_what_is_no_plan_is_refused_with_a_way_out(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Plan.from_yaml(text)
    assert words in str(caught.value)


def test_a_yaml_that_unfolds_without_end_is_refused() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(ConfigError):
        Plan.from_yaml("\n".join(lines))
    inner = ", ".join(["&a0 [x, x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])
    for name in ("step", "learning_rate", "image_size", "reason", "augment", "schedule"):
        with pytest.raises(ConfigError):
            Plan.from_yaml(f"{PHASE}{name}: [{inner}]}}")
    with pytest.raises(ConfigError):
        Plan.from_yaml("headstart_plan: 1\nphases: &p [*p]")


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_config_error(text: str) -> None:
    with pytest.raises(HeadstartError):
        Plan.from_yaml(text)


def test_a_plan_that_is_not_there_or_not_text_is_an_error(tmp_path) -> None:
    with pytest.raises(InputMissingError):
        Plan.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"headstart_plan: \xff")
    with pytest.raises(ConfigError, match=r"latin\.yaml|UTF-8"):
        Plan.from_yaml(tmp_path / "latin.yaml")


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_a_plan_cannot_be_scaled_by_nothing(factor: float) -> None:
    with pytest.raises(ConfigError):
        Plan((Phase("a", 1),)).scaled(factor)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mixing": "mixap"}, "mixap"),
        ({"mixing": "mixup", "mixing_alpha": 0.0}, "mixing_alpha"),
        ({"mixing_alpha": 0.4}, "without mixing"),
        ({"mixing": "mixup", "precompute": True, "augment": False}, "cannot be mixed"),
    ],
)
def test_mixing_that_cannot_be_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Phase("head", 1, **values)  # type: ignore[arg-type]
