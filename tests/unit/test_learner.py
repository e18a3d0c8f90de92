"""The learner: the frozen line, precompute, the verbs, and what they leave behind."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headstart import augment
from headstart.errors import ConfigError, UsageError
from headstart.evaluation import Predictions
from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.training import (
    Callback,
    Phase,
    RateWarning,
    Run,
    Settings,
    constant,
    fit,
    gradual_unfreezing,
    linear,
)
from headstart.types import Batch

SIZE = 32
ARCH = "test_resnet"


@pytest.fixture
def data(make_folder) -> ImageData:
    folder = make_folder({"cats": 12, "dogs": 12, "emus": 12}, height=40, width=48)
    return ImageData.from_folder(folder, image_size=SIZE, batch_size=8, valid=0.25, threads=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained body's stand-in: seeded weights in timm's naming."""
    from headstart.models import create_backbone
    from headstart.storage import save_tensors

    path = tmp_path_factory.mktemp("weights") / f"{ARCH}.safetensors"
    save_tensors(path, create_backbone(ARCH, from_scratch=True, image_size=SIZE).module.state_dict())
    return path


@pytest.fixture
def learner(data: ImageData, weights: Path) -> Learner:
    return Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(precision="float32"))


def digest(module: nn.Module) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(name.encode() + tensor.detach().numpy().tobytes())
    return content.hexdigest()


def test_a_pretrained_body_starts_frozen_and_one_from_scratch_does_not(data, weights) -> None:
    assert Learner(data, ARCH, weights=weights, callbacks=()).model.frozen_line > 0
    assert Learner(data, ARCH, from_scratch=True, callbacks=()).model.frozen_line == 0


def test_training_the_head_leaves_every_bit_of_the_body_alone(learner: Learner) -> None:
    body, head = digest(learner.model.backbone), digest(learner.model.head)
    learner.fit(1, 1e-2)
    assert digest(learner.model.backbone) == body
    assert digest(learner.model.head) != head


def test_an_unfrozen_body_changes(learner: Learner) -> None:
    body = digest(learner.model.backbone)
    learner.unfreeze()
    learner.fit(1, 1e-3)
    assert digest(learner.model.backbone) != body


def test_precompute_trains_the_same_head_and_the_same_run(learner: Learner) -> None:
    cached = learner.precompute()
    cached.fit_one_cycle(2, 1e-2)
    assert cached.model is learner.model
    assert len(learner.run.history) == 2
    assert learner.run.step == 2 * len(learner.data.source("train"))


def test_precompute_equals_training_without_augmentation(data, weights) -> None:
    plain = data.with_options(augmentation=augment.none())

    def head_after(cached: bool) -> np.ndarray:
        made = Learner(plain, ARCH, weights=weights, callbacks=(), settings=Settings(optimizer="sgd"))
        made.run_phase(Phase("head", 1, constant(), learning_rate=1e-2, augment=False, precompute=cached))
        return made.model.head.weight.detach().numpy()

    assert np.allclose(head_after(True), head_after(False), atol=1e-6)


def test_the_line_cannot_move_below_cached_activations(learner: Learner) -> None:
    cached = learner.precompute()
    with pytest.raises(UsageError, match="below the cached activations"):
        cached.unfreeze()
    assert learner.model.frozen_line == learner.model.head_stage


def test_precompute_refuses_where_nothing_is_frozen_or_batch_norm_trains(learner: Learner) -> None:
    learner.model.frozen_batch_norm = "train"
    with pytest.raises(UsageError, match="batch norm"):
        learner.precompute()
    learner.model.frozen_batch_norm = "eval"
    learner.unfreeze()
    with pytest.raises(UsageError, match="nothing is frozen"):
        learner.precompute()


def test_activations_are_computed_anew_once_the_body_has_changed(learner: Learner) -> None:
    before = learner.activations("valid")
    assert learner.activations("valid") is before
    learner.unfreeze()
    learner.fit(1, 1e-2)
    learner.freeze()
    after = learner.activations("valid")
    assert before is not None
    assert after is not None
    assert not np.allclose(before.features, after.features)


def test_predictions_are_the_same_on_either_side_of_the_line(learner: Learner) -> None:
    frozen = learner.predictions("valid").logits
    learner.unfreeze()
    assert np.allclose(frozen, learner.predictions("valid").logits, atol=1e-4)


def test_lr_find_leaves_weights_optimiser_and_random_state_alone(learner: Learner) -> None:
    learner.unfreeze()
    learner.fit(1, 1e-3)
    before = (digest(learner.model), torch.random.get_rng_state(), np.random.get_state()[1].tobytes())
    optimizer = learner.run.optimizer
    assert optimizer is not None
    moments = [value["exp_avg"].clone() for value in optimizer.state.values()]
    learner.lr_find(iterations=12)
    assert digest(learner.model) == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert np.random.get_state()[1].tobytes() == before[2]
    assert learner.run.optimizer is optimizer
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, optimizer.state.values(), strict=True))
    learner.fit(1, 1e-3)
    assert digest(learner.model) != before[0], "the comparison must see a change"


@pytest.mark.parametrize("group", [0, 1, -1])
def test_rates_are_looked_for_on_any_line_and_leave_no_trace(learner: Learner, group: int) -> None:
    learner.freeze_to(group)
    before = (digest(learner.model), torch.random.get_rng_state(), learner.run.precision)
    assert len(learner.lr_find([0.1, 0.3, 1.0], iterations=5).rates) == 5
    found = learner.try_rates([0.1, 0.3, 1.0], steps=4)
    assert found.trials
    assert digest(learner.model) == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert learner.run.precision == before[2]
    assert learner.run.optimizer is None


def test_rates_are_looked_for_with_mixed_pictures_in_bfloat16(data, weights) -> None:
    settings = Settings(precision="bfloat16", mixing="mixup")
    made = Learner(data, ARCH, weights=weights, callbacks=(), settings=settings)
    made.unfreeze()
    before = digest(made.model)
    found = made.try_rates(slice(1e-3), steps=4)
    assert made.try_rates(slice(1e-3), steps=4).trials == found.trials
    assert digest(made.model) == before


def test_unfreezing_at_the_rate_of_the_head_warns_and_trains(learner: Learner) -> None:
    learner.fit_one_cycle(1, 1e-2)
    learner.unfreeze()
    with pytest.warns(RateWarning, match=r"fit_one_cycle\(…, slice\(5.0e-05, 5.0e-03\)\)"):
        learner.fit_one_cycle(1, 1e-2)
    assert len(learner.run.history) == 2
    learner.fit_one_cycle(1, 1e-2)  # said once


def test_a_range_of_rates_or_one_for_each_group_is_no_mistake(learner: Learner) -> None:
    learner.fit(1, 1e-2)
    learner.unfreeze()
    learner.fit(1, slice(1e-4, 1e-2))
    learner.fit(1, [1e-4, 1e-3, 1e-2])
    learner.fit(1, 1e-4)


def test_what_changed_since_the_last_search_is_said(learner: Learner) -> None:
    learner.lr_find(iterations=5)
    learner.fit(1, 1e-3)
    learner.set_data(learner.data.with_options(batch_size=16))
    with pytest.warns(RateWarning, match="batch size changed from 8 to 16"):
        learner.fit(1, 1e-3)
    learner.lr_find(iterations=5)
    learner.fit(1, 1e-3)


def test_the_probe_initialises_the_head_exactly(learner: Learner) -> None:
    probe = learner.fit_probe()
    valid = learner.activations("valid")
    assert valid is not None
    assert np.allclose(probe.logits(valid.features), learner.predictions("valid").logits, atol=1e-4)


def test_fine_tune_freezes_then_trains_everything(learner: Learner) -> None:
    learner.fine_tune(1, 1e-3)
    names = [row["name"] for row in learner.run.history]
    assert names == ["fit_one_cycle", "fit_one_cycle"]
    assert learner.model.frozen_line == 0
    rates = learner.run.history[-1]["rates"]
    assert len(rates) == len(learner.model.group_starts)
    assert rates[0] < rates[-1]


def test_sgdr_runs_the_sum_of_its_cycles(learner: Learner) -> None:
    learner.fit_sgdr(2, 1e-3, cycle_len=1, cycle_mult=2)
    assert len(learner.run.history) == 3


def test_a_wrong_number_of_rates_is_refused(learner: Learner) -> None:
    with pytest.raises(UsageError, match="2 learning rates for 3"):
        learner.fit(1, [1e-3, 1e-2])


def test_progressive_resizing_goes_on_with_the_same_weights(learner: Learner) -> None:
    learner.set_data(learner.data.resize(48))
    assert learner.data.source("train").epoch(0).__next__().inputs.shape[1:3] == (48, 48)
    learner.fit(1, 1e-3)
    assert learner.validate()["accuracy"] >= 0


def test_other_classes_are_refused(learner: Learner, make_folder) -> None:
    other = ImageData.from_folder(make_folder({"a": 4, "b": 4}, name="other"), image_size=SIZE, threads=0)
    with pytest.raises(UsageError, match="3 classes"):
        learner.set_data(other)


def test_save_and_load_bring_back_every_bit(learner: Learner, data, weights, tmp_path: Path) -> None:
    learner.fit(1, 1e-2)
    saved = digest(learner.model)
    learner.save(tmp_path / "checkpoint")
    learner.fit(1, 1e-2)
    assert digest(learner.model) != saved
    learner.load(tmp_path / "checkpoint")
    assert digest(learner.model) == saved
    again = Learner(data, ARCH, weights=weights, callbacks=())
    again.load(tmp_path / "checkpoint")
    assert digest(again.model) == saved


def test_an_altered_checkpoint_is_refused(learner: Learner, tmp_path: Path) -> None:
    learner.fit(1, 1e-2)
    saved = learner.save(tmp_path / "checkpoint")
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        learner.load(tmp_path / "checkpoint")


def test_export_gives_a_bundle_that_predicts_the_same(learner: Learner, tmp_path: Path) -> None:
    import headstart

    learner.fit(1, 1e-2)
    expected = learner.predictions("valid")
    bundle = learner.export(tmp_path / "model")
    files = [learner.data.samples.file(int(row)) for row in expected.index]
    got = headstart.load(bundle).predict(files)
    assert np.allclose(got.probabilities, expected.probabilities, atol=1e-6)


def test_any_module_is_a_body(data: ImageData) -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    learner = Learner(data, body, from_scratch=True, callbacks=())
    learner.fit(1, 1e-3)
    assert len(learner.model.group_starts) == 2
    assert learner.predictions("valid").logits.shape == (len(data.rows("valid")), 3)


def test_tta_averages_the_views_that_the_augmentation_allows(learner: Learner) -> None:
    views = [learner.predictions("valid", view).probabilities for view in learner.data.views]
    assert len(views) == 2
    assert np.allclose(learner.tta("valid").probabilities, np.mean(views, 0), atol=1e-6)


def test_tta_by_policy_weighs_the_views_and_equals_the_bundles(learner: Learner, tmp_path: Path) -> None:
    import headstart
    from headstart.augment import policy_views

    bundle = learner.export(tmp_path / "model")
    for policy in ("multi-scale", "course-2018", "course-2020"):
        chosen = policy_views(policy, learner.data.evaluation, "flips")
        views = [learner.predictions("valid", view).probabilities for view in chosen.views]
        found = learner.tta("valid", policy=policy)
        assert np.allclose(found.probabilities, np.tensordot(chosen.weights, views, 1), atol=1e-6)
        files = [learner.data.samples.file(int(row)) for row in found.index]
        again = headstart.load(bundle).predict(files, tta=policy)
        assert np.allclose(again.probabilities, found.probabilities, atol=1e-5)


def test_tta_refuses_mirror_images_of_pictures_that_are_never_mirrored(data: ImageData) -> None:
    from headstart.augment import none

    plain = Learner(data.with_options(augmentation=none()), "test_resnet", from_scratch=True, callbacks=())
    with pytest.raises(UsageError, match="never mirrored"):
        plain.tta(policy="flip")
    assert len(plain.tta(policy="multi-scale")) == len(data.rows("valid"))
    with pytest.raises(UsageError, match="no view policy"):
        plain.tta(policy="sideways")


def test_an_own_function_of_predictions_is_a_metric_of_a_learner(data: ImageData) -> None:
    def sure(predictions: Predictions) -> float:
        return float((predictions.confidence > 0.3).mean())

    learner = Learner(data, "test_resnet", from_scratch=True, metrics=(sure, "accuracy"), callbacks=())
    learner.fit(1, 1e-3)
    assert learner.metrics == ("sure", "accuracy")
    assert set(learner.validate()) >= {"sure", "accuracy", "valid_loss"}
    assert learner.score()["sure"].low <= learner.score()["sure"].value


def test_interpret_names_mistakes(learner: Learner) -> None:
    found = learner.interpret()
    assert found.confusion_matrix().sum() == len(learner.data.rows("valid"))


def test_the_same_seed_gives_the_same_training(data, weights) -> None:
    def losses() -> list[float]:
        made = Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(seed=3))
        made.unfreeze()
        made.fit_one_cycle(1, 1e-3)
        return list(made.run.history[-1]["batch_losses"])

    assert losses() == losses()


def test_a_batch_larger_than_the_training_set_and_a_last_batch_of_one_train(make_folder, weights) -> None:
    folder = make_folder({"a": 6, "b": 6}, name="small")
    for batch_size in (64, 4):
        data = ImageData.from_folder(folder, image_size=SIZE, batch_size=batch_size, valid=0.25, threads=0)
        learner = Learner(data, ARCH, weights=weights, callbacks=())
        learner.unfreeze()
        learner.fit(1, 1e-3)
        seen = sum(len(batch) for batch in data.source("train").epoch(0))
        assert seen == len(data.rows("train"))


def test_an_unknown_device_and_metric_are_refused(data) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        Learner(data, ARCH, from_scratch=True, device="cuda:93")
    with pytest.raises(UsageError):
        Learner(data, ARCH, from_scratch=True, metrics=("acuracy",))


def test_mixing_reaches_the_loss_as_soft_targets_and_leaves_validation_alone(data, weights) -> None:
    seen: list[torch.Tensor] = []

    def trained(settings: Settings, phase: Phase) -> list[float]:
        learner = Learner(data, ARCH, weights=weights, callbacks=(), settings=settings)
        plain = learner.loss

        def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            seen.append(targets)
            return plain(logits, targets)

        learner.loss = watched
        before = learner.validate()["valid_loss"]
        learner.run_phase(phase)
        assert np.isfinite(before)
        return list(learner.run.history[-1]["batch_losses"])

    phase = Phase("all", 1, constant(), learning_rate=1e-3, frozen_to=0)
    plain = trained(Settings(), phase)
    assert all(targets.ndim == 1 for targets in seen)
    seen.clear()
    mixed = trained(Settings(mixing="mixup"), phase)
    assert all(targets.shape[1] == 3 for targets in seen)
    assert all(torch.allclose(targets.sum(1), torch.ones(len(targets))) for targets in seen)
    assert mixed != plain
    assert mixed == trained(Settings(mixing="mixup"), phase)
    # What a phase says goes before what the settings say; activations below a line are mixed as pictures.
    assert trained(Settings(mixing="mixup"), replace(phase, mixing="none")) == plain
    seen.clear()
    trained(Settings(), replace(phase, mixing="cutmix", frozen_to=-1, augment=False))
    assert all(targets.shape[1] == 3 for targets in seen)
    seen.clear()
    trained(Settings(mixing="cutmix"), replace(phase, frozen_to=-1, precompute=True, augment=False))
    assert all(targets.ndim == 1 for targets in seen)


def test_a_learner_trains_from_pictures_on_the_device(data, weights) -> None:
    def losses(resident: str | None) -> list[float]:
        learner = Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(precision="float32"))
        learner.unfreeze()
        source = learner.data.source("train", augment=True, shuffle=True, resident=resident)
        rates = [1e-3] * 3
        learner._prepare_run(rates)
        fit(learner.run, source, rates=rates, schedule=constant(), epochs=1, loss=learner.loss)
        return list(learner.run.history[-1]["batch_losses"])

    assert losses("cpu") == pytest.approx(losses(None), abs=2e-3)


def test_the_way_of_a_sample_is_told_from_its_file_on(data) -> None:
    row = int(data.rows("train")[0])
    told = data.explain(row)
    for words in (data.samples.name(row), "PNG", "40 x 48", "drawn", "matrix", "warp", "32 x 32"):
        assert words in told
    assert told == data.explain(row)
    assert told != data.explain(row, epoch=1)
    assert "resize   crop to 32 x 32" in data.explain(row, augment=False)


def test_pictures_grow_between_the_epochs_of_a_phase(learner: Learner) -> None:
    seen = []

    class Look(Callback):
        def before_batch(self, run: Run, batch: Batch) -> Batch:
            seen.append((run.epoch, batch.inputs.shape[1:3]))
            return batch

    growing = Phase(
        "all", 3, linear(), 1e-3, 0, (96, 96), image_size_schedule=linear(0.3, 1.0), weight_decay=0.1
    )
    learner.run_phase(growing, [Look()])
    assert sorted(set(seen)) == [(0, (32, 32)), (1, (64, 64)), (2, (96, 96))]
    assert learner.data.image_size == (96, 96)
    names = [row["name"] for row in learner.run.history]
    assert names == ["all at 32x32", "all at 64x64", "all at 96x96"]
    rates = [row["batch_rates"][0] for row in learner.run.history]
    assert rates == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    decays = {group["weight_decay"] for group in learner.run.optimizer.param_groups}
    assert decays == {0.0, 0.1}


def test_batch_norm_may_be_recalibrated_on_demand_and_by_policy(data, weights) -> None:
    def trained(policy: str) -> Learner:
        made = Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(batch_norm=policy))
        made.unfreeze()
        made.fit(1, 1e-3)
        return made

    def mean(learner: Learner) -> torch.Tensor:
        return learner.model.backbone.layer4[0].bn1.running_mean.clone()

    fixed = trained("eval")
    before = mean(fixed)
    fixed.model.freeze()
    assert fixed.recalibrate_batch_norm() == 0, "a linear head has no batch norm"
    assert torch.equal(mean(fixed), before)
    fixed.unfreeze()
    assert fixed.recalibrate_batch_norm() > 0
    assert not torch.equal(mean(fixed), before)

    running, exact = trained("train"), trained("recalibrate")
    assert not torch.equal(mean(running), mean(exact))
    last = mean(exact)
    exact.recalibrate_batch_norm()
    assert torch.equal(mean(exact), last), "the last epoch left those of its own weights"
    with pytest.raises(ConfigError, match="batch_norm"):
        Settings(batch_norm="evil")


@pytest.mark.parametrize("line", [1, 3, -1])
def test_precompute_at_any_line_equals_training_on_pictures(data, weights, line: int) -> None:
    plain = data.with_options(augmentation=augment.none())

    def trained(cached: bool) -> dict[str, torch.Tensor]:
        made = Learner(plain, ARCH, weights=weights, callbacks=(), settings=Settings(optimizer="sgd"))
        made.model.set_groups("stage")
        made.run_phase(
            Phase(
                "upper", 2, constant(), learning_rate=1e-3, frozen_to=line, augment=False, precompute=cached
            )
        )
        return made.model.state_dict()

    before, after = trained(False), trained(True)
    for name, tensor in after.items():
        # Feature maps are kept as float16: 11 significant bits.
        assert torch.allclose(tensor.float(), before[name].float(), atol=2e-4, rtol=2e-3), name


def test_views_are_the_augmented_pictures_of_their_epochs_in_turn(data, weights) -> None:
    def losses(phase: Phase) -> list[list[float]]:
        made = Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(precision="float32"))
        made.run_phase(phase)
        return [row["batch_losses"] for row in made.run.history]

    phase = Phase("head", 3, constant(), learning_rate=1e-2, augment=False, precompute=True, views=2)
    cached = losses(phase)
    augmented = losses(replace(phase, augment=True, precompute=False, views=0))
    assert cached[0] == pytest.approx(augmented[0], abs=1e-5)
    assert cached[1] == pytest.approx(augmented[1], abs=1e-5)
    assert cached[2] != pytest.approx(augmented[2], abs=1e-5), "the third epoch has the first view again"
    assert cached[0] != pytest.approx(losses(replace(phase, views=0))[0], abs=1e-5), "augmentation is seen"


def test_views_by_the_learner_are_those_of_a_phase(learner: Learner) -> None:
    cached = learner.precompute(views=2)
    cached.fit(2, 1e-2)
    engines = list(learner._known.engines.values())
    assert len(engines) == 1
    seen = [key for key in learner._known.sources if "epoch" in str(key)]
    assert len(seen) == 2
    with pytest.raises(UsageError, match="-1 views"):
        learner.precompute(views=-1)
    with pytest.raises(ConfigError, match="views is 2"):
        Phase("head", 1, views=2)


def test_activations_too_large_for_memory_go_into_a_file_and_else_are_computed_again(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from headstart import activations as module
    from headstart.models import FeatureCache

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    learner.freeze_to(1)
    expected = learner.predictions("valid").logits
    shutil.rmtree(tmp_path / "cache" / "features")
    learner._known.sources.clear()
    monkeypatch.setattr(module, "ACTIVATION_BYTES", 0)
    mapped = learner.activations("valid")
    assert mapped is not None
    assert list((tmp_path / "cache" / "features").glob("*.npy"))
    assert mapped.features.dtype == np.float16
    np.testing.assert_allclose(learner.predictions("valid").logits, expected, atol=1e-3)
    learner._known.sources.clear()
    monkeypatch.setattr(FeatureCache, "budget_bytes", 0)
    assert learner.activations("valid") is None
    np.testing.assert_allclose(learner.predictions("valid").logits, expected, atol=1e-3)


def test_a_probe_over_flips_and_views_initialises_the_head(learner: Learner) -> None:
    probes = [learner.fit_probe(), learner.fit_probe(flips=True), learner.fit_probe(views=2)]
    assert not np.allclose(probes[0].weight, probes[1].weight)
    assert not np.allclose(probes[1].weight, probes[2].weight)
    np.testing.assert_array_equal(learner.model.head.weight.detach().numpy(), probes[2].weight)
    valid = learner.activations("valid")
    assert valid is not None
    difference = probes[2].logits(valid.features) - learner.predictions("valid").logits
    assert np.abs(difference).max() < 1e-5 * max(1.0, np.abs(probes[2].logits(valid.features)).max())


def test_gradual_unfreezing_trains_one_more_group_each_time_and_forgets_nothing(learner: Learner) -> None:
    lines = []
    for phase in gradual_unfreezing(3, rate=1e-3, schedule=constant()):
        learner.run_phase(phase)
        lines.append(learner.model.frozen_line)
    assert lines == [*learner.model.group_starts[:0:-1], 0]
    optimizer = learner.run.optimizer
    assert optimizer is not None
    epoch = learner.run.step // 3
    steps = {name: int(optimizer.state[p]["step"]) for name, p in learner.model.named_parameters()}
    assert steps["head.weight"] == 3 * epoch, "its moments are as old as the run"
    assert steps["backbone.layer4.0.conv1.weight"] == 2 * epoch
    assert steps["backbone.layer1.0.conv1.weight"] == epoch


def test_pictures_that_go_are_left_out_of_training_and_stay_in_the_table_unscored(
    make_folder, weights: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    folder = make_folder({"cats": 12, "dogs": 12}, height=40, width=48)
    data = ImageData.from_folder(
        folder, image_size=SIZE, batch_size=8, valid=0.25, threads=0, cache="none", on_error="skip"
    )
    gone = [int(data.rows(split)[1]) for split in ("train", "valid")]
    for row in gone:
        data.samples.file(row).unlink()
    learner = Learner(data, ARCH, weights=weights, callbacks=(), settings=Settings(precision="float32"))
    learner.fit(1, 1e-2)
    table = learner.predictions("valid")
    assert table.rows.tolist() == data.rows("valid").tolist()
    assert table.statuses.tolist() == ["", "VANISHED", "", "", "", ""]
    assert learner.tta().statuses.tolist() == table.statuses.tolist()
    assert learner.data.lost_codes == dict.fromkeys(gone, "VANISHED")
    assert learner.validate()["valid_loss"] == pytest.approx(float(np.nanmean(table.loss)), rel=1e-5)
    assert not list((tmp_path / "cache" / "features").glob("*")), "features of a part are not those of all"
    learner.unfreeze()
    learner.fit(1, 1e-3)
    assert np.isfinite(learner.run.history["train_loss"]).all()
    assert learner.predictions("train", limit=3).rows.tolist() == data.rows("train", 3).tolist()
    assert "2 pictures went or changed during the run and were left out: 2 VANISHED" in data.report_lines()


def test_an_interpretation_has_pictures_heat_maps_and_columns(learner: Learner) -> None:
    told = learner.interpret()
    assert {"short_side", "format", "brightness", "contrast"} <= set(told.columns)
    assert {each.value for each in told.slices("format", min_count=1)} == {"PNG"}
    figure = told.plot_top_losses(2, heat=True)
    assert sum(bool(axes.images) for axes in figure.axes) == 2
    worst = told.top_losses(2)
    explained = learner.explain([each.index for each in worst], label="dogs", method="gradcam")
    assert [each.index for each in explained] == [each.index for each in worst]
    assert [each.truth for each in explained] == [each.truth for each in worst]
    assert all(each.label == "dogs" and each.heat.shape == (SIZE, SIZE) for each in explained)
    assert len(learner.explain()) == 9
    assert learner.explain([]) == []


def test_a_map_of_the_embeddings_has_a_place_for_each_picture_of_a_split(learner: Learner) -> None:
    features, rows = learner.embeddings()
    assert features.shape == (9, learner.model.feature_count)
    assert rows.tolist() == learner.data.rows("valid").tolist()
    cached = learner.activations("valid")
    assert cached is not None
    assert np.allclose(features, cached.features, atol=1e-4)
    axes = learner.plot_embeddings(method="pca").axes[0]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 9
    assert len(learner.show_results(4).axes) >= 4
