"""What the report opens: galleries from every confusion, and pictures in an order that has an end."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.evaluation.conftest import MakeRun, guessed
from tests.unit.evaluation.test_report import Page, change, read

from headstart.evaluation import Interpretation, Predictions, rows_to_explain, rows_to_picture
from headstart.evaluation.report import selection
from headstart.evaluation.report.gallery import of_classes, of_pairs


def table(count: int, classes: int, skill: float = 2.0, seed: int = 0) -> Predictions:
    targets = np.random.default_rng(seed).integers(0, classes, count)
    return Predictions(
        guessed(targets, classes, skill, seed=seed),
        tuple(f"class {number}" for number in range(classes)),
        targets=targets,
        paths=[f"{row}.jpg" for row in range(count)],
        split=np.array(["valid"] * count),
    )


def links(page: Page) -> list[str]:
    return [(a["href"] or "")[1:] for tag, a in page.tags if tag == "a"]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 400), classes=st.integers(2, 24), skill=st.floats(0, 3), seed=st.integers(0, 99))
def test_every_confusion_has_its_pictures_and_no_other(
    count: int, classes: int, skill: float, seed: int
) -> None:
    found = table(count, classes, skill, seed)
    matrix = Interpretation(found).confusion_matrix()
    galleries = of_pairs(Interpretation(found))
    wanted = {(t, p): int(matrix[t, p]) for t, p in np.argwhere(matrix).tolist() if t != p}
    if classes <= 20:
        assert {each.place: each.count for each in galleries} == wanted
    for each in (*galleries, *of_classes(Interpretation(found))):
        truth, prediction = (found.classes[number] for number in each.place)
        assert all((e.truth, e.prediction) == (truth, prediction) for e in each.examples)
        assert each.count == matrix[each.place]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 900), classes=st.integers(2, 30), skill=st.floats(0, 3), seed=st.integers(0, 99))
def test_pictures_are_bounded_and_the_top_losses_are_always_among_them(
    count: int, classes: int, skill: float, seed: int
) -> None:
    found = table(count, classes, skill, seed)
    rows = rows_to_picture(found).tolist()
    assert len(rows) == len(set(rows)) <= selection.MOST_PICTURES
    assert set(rows_to_explain(found).tolist()) <= set(rows)
    shown = selection.shown(Interpretation(found))
    opened = [each for gallery in (*shown.pairs, *shown.classes) for each in gallery.examples]
    assert all(gallery.examples for gallery in shown.pairs), "whatever can be opened shows something"
    assert len(opened) < 2 * selection.MOST_PICTURES + 2 * 380


def test_every_number_of_the_matrix_opens_a_gallery_that_leads_back_to_it(make_run: MakeRun) -> None:
    run = make_run()
    page = read(run)
    assert page.faults == []
    found = Predictions.from_csv(run / "predictions.csv")
    matrix = Interpretation(found).confusion_matrix()
    ids = {a.get("id") for _, a in page.tags}
    cells = [(t, p) for t, p in np.argwhere(matrix).tolist()]
    for truth, prediction in cells:
        assert f"g{truth}-{prediction}" in ids
        assert f"c{truth}-{prediction}" in ids
    followed = Counter(links(page))
    assert all(followed[f"g{t}-{p}"] and followed[f"c{t}-{p}"] == 1 for t, p in cells)


def test_a_map_of_many_classes_has_a_list_of_pairs_that_open_their_pictures(make_run: MakeRun) -> None:
    page = read(make_run(classes=[f"breed {number}" for number in range(30)], valid=600))
    assert page.faults == []
    galleries = [a["id"] for tag, a in page.tags if a.get("class") == "gallery card"]
    assert len(galleries) > 30
    followed = set(links(page))
    assert set(galleries) <= followed, "each can be opened"
    assert {f"c{name[1:]}" for name in galleries if name} <= followed, "and closed"


def test_heat_stands_beside_the_top_losses_and_nowhere_else(make_run: MakeRun) -> None:
    run = make_run()
    assert "what spoke for" not in read(run).text
    heated = rows_to_explain(Predictions.from_csv(run / "predictions.csv")).tolist()
    for row in heated[:5]:
        heat = (run / "pictures" / f"{row}.jpg").read_bytes() + b" " * row  # no two alike
        (run / "pictures" / f"{row}_heat.jpg").write_bytes(heat)
    page = read(run)
    assert page.faults == []
    alts = [a["alt"] or "" for tag, a in page.tags if tag == "img"]
    assert sum(alt.startswith("Heat over it") for alt in alts) == 5
    assert "Beside each picture, what spoke for what the model said" in page.text


def test_a_run_of_two_thousand_weighs_less_than_ten_megabytes_with_pictures_of_full_size(
    make_run: MakeRun,
) -> None:
    run = make_run(valid=60, pictures=False)
    (run / "pictures").mkdir()
    noise = np.random.default_rng(0)
    found = table(2000, 20, skill=0.7)  # which confuses everything
    found.to_csv(run / "predictions.csv")
    heated = set(rows_to_explain(found).tolist())
    for row in rows_to_picture(found).tolist():
        # 16 kB, as a thumbnail of a detailed photograph of 256 pixels has.
        jpeg = b"\xff\xd8\xff" + noise.bytes(16_000)
        (run / "pictures" / f"{row}.jpg").write_bytes(jpeg)
        if row in heated:
            (run / "pictures" / f"{row}_heat.jpg").write_bytes(jpeg)
    places = noise.normal(size=(2000, 2))
    write_embedding(run, list(range(2000)), places.T.tolist())
    page = read(run)
    assert sum(tag == "image" for tag, _ in page.tags) > 300
    assert (run / "report.html").stat().st_size < 10e6
    heat = [a for tag, a in page.tags if tag == "img" and (a["alt"] or "").startswith("Heat")]
    assert len(heat) == len(heated), "what comes first has its pictures"


def write_embedding(run: Path, rows: list[int], places: list[list[float]], projection: str = "tsne") -> None:
    content = {"projection": projection, "rows": rows, "x": places[0], "y": places[1]}
    (run / "embedding.json").write_text(json.dumps(content), "utf-8")


def test_the_map_rings_every_mistake_and_links_those_that_have_a_card(make_run: MakeRun) -> None:
    run = make_run()
    found = Predictions.from_csv(run / "predictions.csv")
    wrong = [row for row in range(len(found)) if found.labels()[row] != found.predicted_labels()[row]]
    write_embedding(run, list(range(len(found))), np.random.default_rng(0).normal(size=(2, 320)).tolist())
    page = read(run)
    assert page.faults == []
    rings = [a for tag, a in page.tags if tag == "circle" and a.get("class") == "ring"]
    assert len(rings) == len(wrong) + 1  # and the one of the legend
    linked = [link for link in links(page) if re.fullmatch(r"p\d+", link)]
    assert linked
    assert {int(link[1:]) for link in linked} <= set(wrong)
    assert f"{len(wrong)} mistakes are ringed" in str(page.tags)


def test_a_map_that_names_rows_that_are_not_there_is_drawn_without_them(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    write_embedding(run, [0, 1, 5000, -1, 2], [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    page = read(run)
    assert page.faults == []
    assert "3\N{NO-BREAK SPACE}pictures by what the network sees" in page.text
    write_embedding(run, [], [[], []])
    assert "A map of the pictures" not in read(run).text


def test_slices_that_fare_worse_are_called_so_in_words(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    figure = {"value": 0.7, "low": 0.6, "high": 0.8}
    slice_ = {"column": "<b>camera", "value": "old", "count": 20, "accuracy": figure, "log_loss": figure}
    slice_ |= {"rest_accuracy": 0.9, "rest_log_loss": 0.2, "p_value": 0.001, "q_value": 0.002, "worse": True}
    dull = slice_ | {"value": "few", "worse": False, "p_value": None, "q_value": None}
    change(run, slices=[slice_, dull])
    page = read(run)
    assert page.faults == []
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "1 slice fares worse" in text
    assert "<b>camera = old" in text
    assert text.count("worse than the rest") == 1 + 1  # the slice, and the line above the table
    assert "0.002" in text


def test_doubts_show_the_pictures_of_the_run_and_no_other_file(make_run: MakeRun) -> None:
    run = make_run(valid=60)
    (run / "doubts").mkdir()
    picture = next((run / "pictures").iterdir()).read_bytes()
    (run / "doubts" / "0.jpg").write_bytes(picture)
    (run.parent / "secret.jpg").write_bytes(picture)
    example = {"path": "a.jpg", "label": "daisy & co", "suggested": "=1+1", "probability": 0.97}
    example |= {"label_probability": 0.01}
    names = ["doubts/0.jpg", "doubts/../../secret.jpg", "../secret.jpg", "/etc/passwd", None]
    change(
        run,
        doubts={
            "pictures": 300,
            "expected": 5.2,
            "examples": [example | {"picture": name} for name in names],
        },
    )
    page = read(run)
    assert page.faults == []
    shown = [a for tag, a in page.tags if tag == "img" and "perhaps" in (a["alt"] or "")]
    assert len(shown) == 1
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Of 300 labels about 5.2 are worth a second look" in text
    assert "--corrections clean/suggestions.csv" in text


def test_what_the_model_decides_is_told_with_intervals(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    figure = {"value": 0.92, "low": 0.88, "high": 0.95}
    gain = {"value": 0.02, "low": 0.01, "high": 0.03}
    change(
        run,
        sets={"level": 0.9, "coverage": figure, "mean_size": 1.3, "single": 0.8, "single_accuracy": None},
        none_of_these={"rate": 0.05, "turned_away": {"value": 0.04, "low": 0.02, "high": 0.08}},
        tta={"kept": True, "reason": "The same picture seen 2 ways.", "gain": gain, "seconds": 3.2},
        scaling={"kept": False, "gain": gain},
    )
    page = read(run)
    assert page.faults == []
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("92.0 % of the sets", "88.0 to 95.0 %", "1.30", "4.0 % of pictures", "+0.020", "3.2 s"):
        assert words in text, words
    change(run, sets=None, none_of_these=None, tta=None, scaling=None)
    assert "What it decides when it is unsure" not in read(run).text
