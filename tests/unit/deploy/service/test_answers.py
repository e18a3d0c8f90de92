"""What the service says of pictures is what the predictor says, however they come and whoever asks beside."""

from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.deploy.conftest import CLASSES, save_small
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.running import Answer, Running

from headstart.deploy import Predictor, load_predictor
from headstart.deploy.service import load_hosted
from headstart.deploy.service.hosting import Loading
from headstart.deploy.service.page import page, page_policy
from headstart.evaluation import overlay
from headstart.types import Task


def probabilities(answer: Answer) -> np.ndarray:
    """The probabilities of an answer in the order of the classes: (pictures, classes)."""
    assert answer.status == 200, answer.body
    rows = [
        {each["class"]: each["probability"] for each in row["classes"]} for row in answer.json["pictures"]
    ]
    return np.array([[row[name] for name in CLASSES] for row in rows])


def test_s01_answers_equal_the_predictors_at_any_batch_composition(
    service: Running, offline: Predictor
) -> None:
    files = [file_of(number, "JPEG" if number % 2 else "PNG") for number in range(24)]
    wanted = offline.predict(files).probabilities
    requests = [files[first : first + 1 + first % 4] for first in range(24)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda some: service.predict(*some), requests))
    for first, answer in enumerate(answers):
        some = wanted[first : first + 1 + first % 4]
        np.testing.assert_allclose(probabilities(answer), some, atol=1e-5)
    metrics = service.get("/metrics").body.decode()
    count = float(re.search(r"headstart_batch_pictures_count (\d+)", metrics)[1])  # type: ignore[index]
    total = float(re.search(r"headstart_batch_pictures_sum ([\d.]+)", metrics)[1])  # type: ignore[index]
    assert total > count, "no two pictures ever went together: nothing was shown about composition"


def test_multipart_json_and_bare_bytes_are_the_same_picture(service: Running, offline: Predictor) -> None:
    file = file_of(3)
    wanted = offline.predict(file).probabilities
    encoded = base64.b64encode(file).decode()
    answers = [
        service.predict(file, name="straße.png"),
        service.send_json({"pictures": [encoded]}),
        service.send_json({"pictures": [{"name": "straße.png", "data": encoded}]}),
        service.ask("POST", "/predict", file, {"Content-Type": "image/jpeg"}),  # its bytes decide
        service.ask("POST", "/predict", file, {"Content-Type": "application/octet-stream"}),
    ]
    for answer in answers:
        np.testing.assert_allclose(probabilities(answer), wanted, atol=1e-6)
    names = [answer.json["pictures"][0]["name"] for answer in answers]
    assert names == ["straße.png", "", "straße.png", "", ""]


def test_classes_come_most_probable_first_and_as_many_as_asked_for(service: Running) -> None:
    (row,) = service.predict(file_of(1), query="?top=2").json["pictures"]
    values = [each["probability"] for each in row["classes"]]
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    assert row["status"] == "ok"


def test_another_model_is_asked_by_its_name(service: Running, two_models: dict[str, Path]) -> None:
    file = file_of(5)
    with load_predictor(two_models["second"], device="cpu", threads=1) as second:
        wanted = second.predict(file).probabilities
    answer = service.predict(file, query="?model=second")
    np.testing.assert_allclose(probabilities(answer), wanted, atol=1e-5)
    ids = {entry["name"]: entry["id"] for entry in service.get("/models").json["models"]}
    assert answer.json["model"] == {"name": "second", "id": ids["second"]}
    assert ids["first"] != ids["second"]
    unknown = service.predict(file, query="?model=third")
    assert (unknown.status, unknown.code) == (404, "NO_SUCH_MODEL")


def test_views_are_averaged_where_asked_for_and_refused_where_they_mislead(
    service: Running, offline: Predictor
) -> None:
    file = file_of(6, height=200, width=300)
    several = service.predict(file, query="?tta=multi-scale")
    wanted = offline.predict(file, tta="multi-scale").probabilities
    np.testing.assert_allclose(probabilities(several), wanted, atol=1e-5)
    assert (
        np.abs(probabilities(several) - probabilities(service.predict(file, query="?tta=none"))).max() > 1e-4
    )
    refused = service.predict(file, query="?tta=flip")
    assert refused.status == 422
    assert "mirror" in refused.json["message"]


def test_a_bad_picture_among_good_ones_costs_its_own_row(service: Running, offline: Predictor) -> None:
    good = file_of(2)
    answer = service.predict(good, b"no picture", good[: len(good) // 2])
    rows = answer.json["pictures"]
    assert [row["status"] for row in rows] == ["ok", "NOT_AN_IMAGE", "TRUNCATED"]
    assert rows[1]["message"] == "this is not a picture"
    assert rows[1]["hint"]
    assert rows[1]["classes"] == []
    found = {each["class"]: each["probability"] for each in rows[0]["classes"]}
    np.testing.assert_allclose(
        [found[name] for name in CLASSES], offline.predict(good).probabilities[0], atol=1e-5
    )


def test_tags_say_which_of_them_are_said(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "tags", task=Task.MULTI_LABEL, thresholds=(0.0, 1.0, 0.0), temperature=1.0)
    running = Running({"tags": folder})
    try:
        (row,) = running.predict(file_of(1)).json["pictures"]
    finally:
        running.stop()
    assert {each["class"]: each["said"] for each in row["classes"]} == dict(
        zip(CLASSES, (True, False, True), strict=True)
    )


def test_heat_is_the_predictors_as_a_picture_or_with_its_figures(
    service: Running, offline: Predictor
) -> None:
    file = file_of(4)
    (wanted,) = offline.explain(file, label="Hund", method="gradcam")
    assert wanted.view is not None
    assert wanted.heat is not None
    shown = service.predict(file, path="/explain", query="?label=Hund")
    assert shown.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(shown.body)))
    np.testing.assert_array_equal(pixels, overlay(wanted.view, wanted.heat))
    told = service.predict(file, path="/explain", query="?label=Hund&form=json").json
    assert (told["label"], told["method"]) == ("Hund", "gradcam")
    assert told["probability"] == pytest.approx(wanted.probability, abs=1e-5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(told["overlay"])))), pixels)
    assert service.predict(file, path="/explain", query="?label=Vogel").status == 422
    assert service.predict(file, file, path="/explain").code == "TOO_MANY_PICTURES"
    assert service.predict(b"no picture", path="/explain").code == "NOT_AN_IMAGE"


def test_onnx_runtime_says_what_pytorch_says(
    two_models: dict[str, Path], offline: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    files = [file_of(number) for number in range(9)]
    hosted = load_hosted("a", two_models["first"], Loading(device="cpu", engine="onnxruntime", threads=1))
    assert hosted.engine == "onnxruntime"
    with hosted.predictor as fast:
        np.testing.assert_allclose(
            fast.predict(files).probabilities, offline.predict(files).probabilities, atol=1e-5
        )


def test_models_are_described_with_their_figures(service: Running) -> None:
    first = service.get("/models").json["models"][0]
    assert first["classes"] == list(CLASSES)
    assert first["metrics"] == {"valid accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}
    assert first["networks"] == ["test_resnet"]
    assert str(service.models.folders["first"]) not in service.get("/models").body.decode()


def test_the_page_asks_for_nothing_from_elsewhere(service: Running) -> None:
    answer = service.get("/")
    assert answer.body.decode() == page()
    assert answer.headers["content-security-policy"] == page_policy()
    assert "unsafe" not in page_policy()
    assert page_policy().count("sha256-") == 2
    addresses = set(re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)([^\"')\s>]+)", page()))
    assert not {address for address in addresses if "//" in address}
    assert not re.findall(r"\son[a-z]+=|style=", page().partition("<script>")[0]), "the policy would block it"


def test_health_readiness_and_counts_are_told(service: Running) -> None:
    assert service.get("/health").json == {"status": "ok"}
    assert service.get("/ready").json == {"status": "ready"}
    service.predict(b"no picture")
    text = service.get("/metrics").body.decode()
    assert "headstart_ready 1" in text
    assert re.search(r'headstart_pictures_total\{model="first",status="NOT_AN_IMAGE"\} \d', text)
    assert re.search(r'headstart_requests_total\{path="/predict",status="415"\} \d', text)
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{.*\})? [\d.]+", line), line
