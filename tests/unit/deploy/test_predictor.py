"""The predictor says of a picture what the model says of it, however the picture comes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.augment import EvalPrepare
from headstart.data import decode
from headstart.deploy import Predictor, load_predictor, save_bundle
from headstart.deploy.predictor import CHUNK
from headstart.errors import InputMissingError, UsageError
from headstart.evaluation import Predictions
from headstart.types import Task

from .conftest import CLASSES, SHORT_SIDE, SIZE, Saved, manifest_of, picture, small_model


@pytest.fixture(scope="session")
def predictor(saved: Saved) -> Predictor:
    return load_predictor(saved.folder, device="cpu")


def by_hand(model: Any, pixels: np.ndarray, prepare: EvalPrepare | None = None) -> np.ndarray:
    """Logits of one decoded picture, by the shortest way there is."""
    view = (prepare or EvalPrepare(SIZE, crop_fraction=0.9))(pixels)
    with torch.inference_mode():
        return model(torch.from_numpy(view).permute(2, 0, 1)[None]).numpy()[0]


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_the_numbers_are_those_of_the_model(saved: Saved, predictor: Predictor, pictures: list[Path]) -> None:
    found = predictor.predict(pictures)
    wanted = [by_hand(saved.model, decode(p.read_bytes(), short_side=SHORT_SIDE)) for p in pictures]
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    assert found.classes == CLASSES
    assert found.temperature == 1.5
    assert found.paths == tuple(path.as_posix() for path in pictures)
    scaled = np.exp(found.logits.astype(float) / 1.5)
    np.testing.assert_allclose(found.probabilities, scaled / scaled.sum(1, keepdims=True), atol=1e-6)
    assert len(np.unique(found.logits.round(4), axis=0)) == len(pictures), "the pictures are told apart"


def test_a_new_process_gives_the_same_probabilities(
    saved: Saved, predictor: Predictor, pictures: list[Path]
) -> None:
    code = (
        "import json, sys, headstart.deploy as d;"
        "p = d.load_predictor(sys.argv[1], device='cpu').predict(sys.argv[2:]);"
        "print(json.dumps(p.probabilities.tolist()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(saved.folder), *map(str, pictures)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    again = np.array(json.loads(run.stdout))
    np.testing.assert_allclose(again, predictor.predict(pictures).probabilities, rtol=0, atol=1e-6)


# --- however it comes ------------------------------------------------------------------------------


def test_paths_texts_bytes_and_a_folder_are_the_same_pictures(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    wanted = predictor.predict(pictures).logits
    for given in (
        [str(path) for path in pictures],
        tuple(pictures),
        [path.read_bytes() for path in pictures],
        iter(pictures),
        (path.read_bytes() for path in pictures),
        np.array([str(path) for path in pictures]),
    ):
        np.testing.assert_allclose(predictor.predict(given).logits, wanted, atol=1e-5)
    folder = predictor.predict(pictures[0].parent)
    rows = [folder.paths.index(path.as_posix()) for path in pictures]  # type: ignore[union-attr]
    np.testing.assert_allclose(folder.logits[rows], wanted, atol=1e-5)
    one = predictor.predict(pictures[0])
    np.testing.assert_allclose(one.logits, wanted[:1], atol=1e-5)


def test_arrays_and_pil_images_are_the_same_pictures(predictor: Predictor) -> None:
    pixels = picture(3)
    wanted = predictor.predict(file_of(pixels)).logits
    with_alpha = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    for given in (
        pixels,
        pixels[None],
        [pixels],
        Image.fromarray(pixels),
        with_alpha,
        pixels[:, ::-1][:, ::-1],
    ):
        found = predictor.predict(given)
        assert len(found) == 1
        assert found.paths == ("",)
        np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    grey = pixels[..., 0]
    wanted = predictor.predict(file_of(grey)).logits
    for given in (grey, grey[..., None], np.dstack([grey] * 3)):
        np.testing.assert_allclose(predictor.predict(given).logits, wanted, atol=1e-5)


def pil_images() -> dict[str, Image.Image]:
    colour = Image.fromarray(picture(1))
    transparent = Image.fromarray(np.dstack([picture(1), picture(2)[..., 0]]))
    palette = colour.quantize(16)
    see_through = palette.copy()
    see_through.info["transparency"] = 3
    turned = colour.copy()
    turned.getexif()[274] = 6
    sixteen = Image.fromarray(picture(1)[..., 0].astype(np.uint16) * 257)
    modes = {"1": colour.convert("1"), "L": colour.convert("L"), "LA": transparent.convert("LA")}
    modes |= {"CMYK": colour.convert("CMYK"), "YCbCr": colour.convert("YCbCr"), "RGBA": transparent}
    return modes | {"P": palette, "P see-through": see_through, "turned": turned, "I;16": sixteen}


PNG_MODES = ("1", "L", "LA", "RGBA", "P", "P see-through", "turned", "I;16")


@pytest.mark.parametrize("name", PNG_MODES)
def test_a_pil_image_of_any_mode_is_what_its_file_is(predictor: Predictor, name: str) -> None:
    image = pil_images()[name]
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=image.getexif())
    wanted = predictor.predict(stream.getvalue())
    found = predictor.predict(image)
    assert found.statuses.tolist() == [""]
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-4)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_printers_and_televisions_colours_are_the_same_pictures(predictor: Predictor, mode: str) -> None:
    image = pil_images()[mode]
    wanted = predictor.predict(image.convert("RGB"))
    np.testing.assert_allclose(predictor.predict(image).logits, wanted.logits, atol=1e-4)


def test_a_mode_without_a_range_has_a_status(predictor: Predictor) -> None:
    image = Image.fromarray(picture(1)[..., 0].astype(np.float32))
    assert predictor.predict([image, picture(1)]).statuses.tolist() == ["UNSUPPORTED_MODE", ""]


@pytest.mark.parametrize(
    "given",
    [
        3,
        [None],
        [3.5],
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_what_is_no_picture_is_a_usage_error(predictor: Predictor, given: Any) -> None:
    with pytest.raises(UsageError, match="no picture"):
        predictor.predict(given)


# --- what cannot be read ---------------------------------------------------------------------------


def test_an_unreadable_picture_has_a_status_and_the_others_their_figures(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    whole = pictures[1].read_bytes()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    given = [pictures[0], tmp_path / "empty.jpg", tmp_path / "text.jpg", pictures[2], tmp_path / "cut.jpg"]
    found = predictor.predict(given)
    assert found.statuses.tolist() == ["", "EMPTY_FILE", "NOT_AN_IMAGE", "", "TRUNCATED"]
    alone = predictor.predict([pictures[0], pictures[2]])
    np.testing.assert_allclose(found.logits[[0, 3]], alone.logits, atol=1e-5)
    assert np.isnan(found.probabilities[[1, 2, 4]]).all()

    found.to_csv(tmp_path / "predictions.csv")
    again = Predictions.from_csv(tmp_path / "predictions.csv")
    assert again.paths == found.paths
    assert [bool(status) for status in again.statuses] == [False, True, True, False, True]


def test_where_nothing_can_be_read_there_are_only_statuses(predictor: Predictor) -> None:
    for tta in (False, True):
        found = predictor.predict([b"", b"x"], tta=tta)
        assert found.statuses.tolist() == ["EMPTY_FILE", "NOT_AN_IMAGE"]
        assert np.isnan(found.probabilities).all()


def test_a_path_that_is_not_there_is_told_before_the_work(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InputMissingError, match="nowhere"):
        predictor.predict([pictures[0], tmp_path / "nowhere.jpg"])
    with pytest.raises(InputMissingError, match="nowhere"):
        predictor.predict([pictures[0].read_bytes(), str(tmp_path / "nowhere.jpg")])
    with pytest.raises(InputMissingError, match="no pictures"):
        predictor.predict([])
    with pytest.raises(InputMissingError, match="no pictures"):
        predictor.predict(tmp_path)


def test_a_path_of_a_long_stream_that_is_not_there_has_a_status(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    found = predictor.predict(iter([pictures[0], tmp_path / "nowhere.jpg"]))
    assert found.statuses.tolist() == ["", "VANISHED"]


# --- many ------------------------------------------------------------------------------------------


def test_batches_and_threads_change_nothing(saved: Saved, predictor: Predictor, pictures: list[Path]) -> None:
    wanted = predictor.predict(pictures).logits
    for threads, batch_size in ((0, 1), (1, 4), (3, 5)):
        other = load_predictor(saved.folder, device="cpu", threads=threads, batch_size=batch_size)
        np.testing.assert_allclose(other.predict(pictures).logits, wanted, atol=1e-5)


def test_a_long_stream_is_read_as_it_is_needed(predictor: Predictor) -> None:
    taken = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal taken
        for number in range(5 * CHUNK + 3):
            taken += 1
            yield picture(number, 20, 20)

    parts = predictor.stream(stream())
    first = next(parts)
    assert taken <= 2 * CHUNK
    rest = list(parts)
    index = np.concatenate([part.rows for part in [first, *rest]])
    assert index.tolist() == list(range(5 * CHUNK + 3))
    alone = predictor.predict(picture(4 * CHUNK + 1, 20, 20))
    np.testing.assert_allclose(rest[3].logits[1], alone.logits[0], atol=1e-5)


def test_a_stream_that_is_left_early_stops_its_threads(predictor: Predictor) -> None:
    before = threading.active_count()
    parts = predictor.stream(picture(number, 20, 20) for number in range(3 * CHUNK))
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_progress_counts_the_pictures(predictor: Predictor) -> None:
    seen: list[int] = []
    predictor.predict([picture(n, 20, 20) for n in range(CHUNK + 2)], on_progress=seen.append)
    assert seen == [CHUNK, CHUNK + 2]


def test_threads_may_share_a_predictor(predictor: Predictor, pictures: list[Path]) -> None:
    wanted = predictor.predict(pictures).logits
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: found.append(predictor.predict(pictures).logits)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for logits in found:
        np.testing.assert_allclose(logits, wanted, atol=1e-5)


# --- views, ensembles, tags ------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(float) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


VIEWS: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "flips": [{}, {"flip": True}],
    "dihedral": [{"turns": turns, "flip": flip} for turns in range(4) for flip in (False, True)],
}


@pytest.mark.parametrize("views", VIEWS)
def test_tta_is_the_mean_probability_over_the_views_of_the_bundle(tmp_path: Path, views: str) -> None:
    model = small_model()
    save_bundle(tmp_path / "model", [model], manifest_of(model, views=views, tta=True))
    predictor = load_predictor(tmp_path / "model", device="cpu")
    pixels = picture(2)
    seen = [
        softmax(by_hand(model, pixels, EvalPrepare(SIZE, crop_fraction=0.9, **view))) for view in VIEWS[views]
    ]
    mean = np.mean(seen, axis=0)
    np.testing.assert_allclose(
        predictor.predict(pixels).probabilities[0], softmax(np.log(mean) / 1.5), atol=1e-5
    )
    plain = predictor.predict(pixels, tta=False)
    np.testing.assert_allclose(plain.logits[0], by_hand(model, pixels), atol=1e-5)


def test_tta_can_be_asked_for_where_the_bundle_does_not_use_it(tmp_path: Path) -> None:
    model = small_model()
    save_bundle(tmp_path / "model", [model], manifest_of(model, views="flips"))
    predictor = load_predictor(tmp_path / "model", device="cpu")
    pixels = picture(2)
    assert not np.allclose(
        predictor.predict(pixels).probabilities, predictor.predict(pixels, tta=True).probabilities, atol=1e-4
    )


def test_an_ensemble_gives_the_mean_probability_of_its_members(tmp_path: Path) -> None:
    models = [small_model(seed=seed) for seed in range(2)]
    save_bundle(tmp_path / "model", models, manifest_of(*models, temperature=1.0))
    found = load_predictor(tmp_path / "model", device="cpu").predict([picture(2), b""])
    mean = np.mean([softmax(by_hand(model, picture(2))) for model in models], axis=0)
    np.testing.assert_allclose(found.probabilities[0], mean, atol=1e-5)
    assert found.statuses.tolist() == ["", "EMPTY_FILE"]


def test_tags_are_decided_by_the_thresholds_of_the_bundle(tmp_path: Path) -> None:
    model = small_model()
    manifest = manifest_of(model, task=Task.MULTI_LABEL, thresholds=(0.0, 1.0, 0.5), temperature=1.0)
    save_bundle(tmp_path / "model", [model], manifest)
    found = load_predictor(tmp_path / "model", device="cpu").predict(picture(2))
    logits = by_hand(model, picture(2))
    np.testing.assert_allclose(found.probabilities[0], 1 / (1 + np.exp(-logits.astype(float))), atol=1e-5)
    assert found.predicted[0].tolist() == [1, 0, int(logits[2] > 0)]


def test_options_out_of_range_are_usage_errors(saved: Saved) -> None:
    with pytest.raises(UsageError, match="batch of 0"):
        load_predictor(saved.folder, batch_size=0)
    with pytest.raises(UsageError, match="device 'abacus'"):
        load_predictor(saved.folder, device="abacus")


def test_pictures_are_explained_as_the_network_sees_them(
    saved: Saved, pictures: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    given = [pictures[0], bad, *pictures[1:]]
    with load_predictor(saved.folder, trusted=True) as predictor:
        found = list(predictor.explain(given))
        said = predictor.predict(given)
        other = list(predictor.explain(pictures[0], label="Hund"))
        with pytest.raises(UsageError, match="no class 'Katze'"):
            next(predictor.explain(pictures[0], label="Katze"))
        with pytest.raises(UsageError, match="no method 'lime'"):
            next(predictor.explain(pictures[0], method="lime"))
    assert [each.path for each in found] == list(said.paths or ())
    assert [each.status for each in found] == said.statuses.tolist()
    assert found[1].heat is None
    good = [each for each in found if not each.status]
    assert len(good) == 6
    for each in good:
        assert each.view is not None
        assert each.heat is not None
        assert each.view.shape == (*SIZE, 3)
        assert each.heat.shape == SIZE
        assert each.label == each.prediction == said.predicted_labels()[each.index]
        assert each.probability == pytest.approx(said.confidence[each.index])
        assert each.method == "gradcam"
    assert other[0].label == "Hund"
    assert other[0].prediction == found[0].prediction


def test_an_ensemble_is_explained_by_the_mean_of_its_networks(tmp_path: Path, pictures: list[Path]) -> None:
    from headstart.models import heat_maps

    models = [small_model(seed=seed) for seed in (0, 1)]
    save_bundle(tmp_path / "both", models, manifest_of(*models))
    with load_predictor(tmp_path / "both", trusted=True) as predictor:
        (both,) = predictor.explain(pictures[0], label="cat")
    assert both.view is not None
    maps = [heat_maps(model, both.view[None], [0])[0] for model in models]
    np.testing.assert_allclose(both.heat, np.mean(maps, axis=0), atol=1e-5)
    assert np.abs(maps[0] - maps[1]).max() > 0.01
