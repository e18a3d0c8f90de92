"""Plans: what they may hold, how they print, and their way to YAML and back."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.training import (
    Phase,
    Plan,
    Schedule,
    Settings,
    constant,
    cosine,
    linear,
    one_cycle,
    sequence,
    sgdr,
    warm_up,
)
from headstart.training.plan import scaled_size

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
    st.builds(lambda share: sequence((share, warm_up(pct_start=1)), (1, cosine())), st.floats(0.1, 3)),
)
FACTORS = st.none() | st.builds(linear, st.floats(0, 1), st.floats(0, 1)) | st.just(cosine())
TEXT = st.text(string.printable + "äλ字🙂", max_size=40)


@st.composite
def phases(draw: st.DrawFn) -> Phase:
    schedule = draw(SCHEDULES)
    precompute = draw(st.booleans())
    momentum = draw(st.none() | st.floats(0, 0.99))
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
        weight_decay=draw(st.none() | st.floats(0, 1)),
        weight_decay_schedule=draw(FACTORS),
        momentum=momentum,
        momentum_schedule=None if momentum is None else draw(FACTORS),
        image_size_schedule=draw(FACTORS),
        reduce_on_plateau=draw(st.none() | st.integers(1, 5)),
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
        (PHASE + "weight_decay: 11}", "give 0 … 10"),
        (PHASE + "weight_decay_shedule: cosine}", "did you mean weight_decay_schedule"),
        (PHASE + "momentum: 1.0}", "momentum goes up to 1"),
        (PHASE + "momentum: 0.9, momentum_schedule: {name: linear, end: 2}}", "momentum goes up to 1.8"),
        (PHASE + "momentum_schedule: cosine}", "momentum_schedule without momentum"),
        (PHASE + "image_size_schedule: {name: linear, end: 1.5}}", "exceeds 1"),
        (PHASE + "reduce_on_plateau: 0}", "give epochs"),
        (PHASE + "schedule: {name: sequence, parts: [{share: 1, name: cosne}]}}", "did you mean cosine"),
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


def test_the_plan_of_a_run_is_read_from_its_folder(tmp_path) -> None:
    plan = Plan((Phase("only", 1, learning_rate=1e-3),))
    plan.to_yaml(tmp_path / "plan.yaml")
    assert Plan.from_yaml(tmp_path) == plan
    with pytest.raises(InputMissingError, match="cannot be read"):
        Plan.from_yaml(tmp_path / "plan.yaml" / "no")


def test_what_is_scheduled_is_written_by_hand_and_printed() -> None:
    plan = Plan.from_yaml(
        """
headstart_plan: 1
phases:
  - name: whole network
    epochs: 5
    schedule:
      name: sequence
      parts:
        - {share: 1, name: warm_up, pct_start: 1}
        - {share: 4, name: cosine}
    image_size: 224
    image_size_schedule: {name: linear, start: 0.5, end: 1}
    weight_decay: 5e-2
    weight_decay_schedule: cosine
"""
    )
    phase = plan.phases[0]
    assert phase.schedule == sequence((1, Schedule("warm_up", {"pct_start": 1})), (4, Schedule("cosine")))
    assert phase.image_size_schedule == linear(0.5, 1)
    assert (phase.weight_decay, phase.weight_decay_schedule) == (0.05, Schedule("cosine"))
    assert "warm_up, then cosine" in str(plan)
    assert "linear to 224x224" in str(plan)


@given(phases(), st.tuples(st.integers(32, 400), st.integers(32, 400)))
def test_the_stretches_of_a_phase_train_as_the_whole_would(phase: Phase, size: tuple[int, int]) -> None:
    stretches = phase.stretches(size)
    assert sum(stretch.epochs for stretch in stretches) == phase.epochs
    if phase.image_size_schedule is None:
        assert stretches == (phase,)
        return
    largest, done = phase.image_size or size, 0
    for stretch in stretches:
        assert all(a <= b for a, b in zip(stretch.image_size, largest, strict=True))
        assert stretch.image_size_schedule is None
        for step in (0, 7 * stretch.epochs // 2):
            whole, part = (done * 7 + step, phase.epochs * 7), (step, stretch.epochs * 7)
            if phase.weight_decay_schedule is not None:
                expected = phase.weight_decay_schedule.factor(*whole)
                assert stretch.weight_decay_schedule.factor(*part) == pytest.approx(expected, abs=1e-9)
            if phase.schedule.name != "sgdr":
                expected = phase.schedule.factor(*whole)
                assert stretch.schedule.factor(*part) == pytest.approx(expected, abs=1e-6)
        done += stretch.epochs
    assert all(a.image_size != b.image_size for a, b in itertools.pairwise(stretches))


def test_sizes_grow_between_epochs_from_the_first_to_the_last() -> None:
    phase = Phase("all", 4, image_size=(224, 320), image_size_schedule=linear(0.5, 1.0))
    stretches = phase.stretches((64, 64))
    assert [stretch.image_size for stretch in stretches] == [(128, 160), (160, 224), (192, 256), (224, 320)]
    assert [stretch.name for stretch in stretches][-1] == "all at 224x320"
    assert stretches[1].schedule.window == (0.25, 0.5)
    assert [s.image_size for s in Phase("x", 1, image_size_schedule=linear(0.5, 1)).stretches((64, 64))] == [
        (64, 64)
    ]


@given(st.tuples(st.integers(8, 600), st.integers(8, 600)), st.floats(0, 1))
def test_a_scaled_size_is_whole_steps_and_at_most_the_size(size: tuple[int, int], factor: float) -> None:
    scaled = scaled_size(size, factor)
    assert all(side % 32 == 0 or side == whole for side, whole in zip(scaled, size, strict=True))
    assert all(0 < side <= whole for side, whole in zip(scaled, size, strict=True))
    assert scaled_size(size, 1.0) == size
