"""The report: whole, escaped, accessible, honest, and made from the folder alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.errors import ConfigError, InputMissingError
from headstart.evaluation import Predictions, rows_to_picture, write_report
from headstart.evaluation.report.figures import training_curves
from headstart.evaluation.report.pictures import Pictures
from headstart.types import Task

MakeRun = Callable[..., Path]
VOID = {"meta", "img", "br", "hr", "input", "link", "line", "circle", "rect", "polyline", "path", "use"}
VOID |= {"image"}


class Page(HTMLParser):
    """Reads a page and keeps its tags, its visible text, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.faults: list[str] = []
        self._open: list[str] = []
        self._level = 0
        self.feed(text)
        self.close()
        self._check_ids()
        if self._open:
            self.faults.append(f"never closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        self._check_tag(tag, attributes)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._check_tag(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def _check_tag(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in {"script", "iframe", "object", "embed", "link", "form"}:
            self.faults.append(f"<{tag}>")
        for name, value in attributes.items():
            if name.startswith("on"):
                self.faults.append(f"{tag} {name}")
            if name in {"src", "href", "srcset", "action"} and not re.match(r"#|data:image/", value or ""):
                self.faults.append(f"{tag} {name}={value}")
        if tag == "img" and not attributes.get("alt"):
            self.faults.append("a picture without words")
        if tag == "th" and attributes.get("scope") not in {"row", "col"}:
            self.faults.append("a header without a scope")
        if (
            tag == "svg"
            and attributes.get("class") in {"chart", "map", "dots", "dots crowded", "picture"}
            and not attributes.get("aria-label")
        ):
            self.faults.append("a chart without words")
        if re.fullmatch(r"h[1-6]", tag):
            level = int(tag[1])
            if level > self._level + 1:
                self.faults.append(f"<h{level}> after <h{self._level}>")
            self._level = level

    def _check_ids(self) -> None:
        ids = [a["id"] for _, a in self.tags if "id" in a]
        if len(ids) != len(set(ids)):
            self.faults.append("an id twice")
        targets = [a["href"] or "" for tag, a in self.tags if tag in {"a", "use"}]
        targets += ["#" + (a["aria-labelledby"] or "") for _, a in self.tags if "aria-labelledby" in a]
        self.faults += [f"{target} leads nowhere" for target in targets if target[1:] not in ids]


def read(run: Path) -> Page:
    return Page(write_report(run).read_bytes().decode("utf-8"))


def change(run: Path, **changes: Any) -> None:
    file = run / "summary.json"
    summary = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(summary | changes), "utf-8")


def test_the_page_is_well_formed_accessible_and_asks_for_nothing(make_run: MakeRun) -> None:
    page = read(make_run())
    assert page.faults == []
    assert "default-src 'none'" in str([a for tag, a in page.tags if tag == "meta"])


@pytest.mark.parametrize(
    "planted",
    [
        "<script>x</script>",
        '<p onclick="x">y</p>',
        '<img src="data:image/png;base64,AA">',
        '<img alt="x" src="https://example.org/x.png">',
        "<h1>a</h1><h3>b</h3>",
        "<th>x</th>",
        '<p id="a"></p><p id="a"></p>',
        '<a href="#nowhere">x</a>',
        "<p><b></p></b>",
        '<svg class="chart"></svg>',
    ],
)
def test_what_would_be_wrong_with_a_page_is_noticed(planted: str) -> None:
    assert Page(planted).faults


def test_every_section_is_there(make_run: MakeRun) -> None:
    page = read(make_run())
    ids = {a.get("id") for _, a in page.tags}
    assert ids >= {"steps", "curves", "finders", "metrics", "confusion", "losses", "calibration", "data"}
    assert ids >= {"use", "settings"}
    for words in (
        "Accuracy against time",
        "Loss by epoch",
        "Learning rate",
        "Class by class",
        "Most confused",
        "hs.load",
        "headstart predict",
        "mobilenetv2_100",
        "Apache-2.0",
        "1 picture could not be read",
        "TRUNCATED",
        "under-fitting",
        "undone",
    ):
        assert words in page.text.replace("\N{NO-BREAK SPACE}", " "), words


def test_names_that_are_markup_are_text(make_run: MakeRun) -> None:
    run = make_run()
    page = read(run)
    source = (run / "report.html").read_text("utf-8")
    assert "<script" not in source
    assert "<b>broken</b>" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert "<script>alert(1)</script>" in page.text
    assert "tulip\\nlate" in page.text  # a line break in a name is spelled out


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "</style><script>alert(1)</script>",
    "\u202eright to left\u202c",
    "\ud83d half a pair",
    "javascript:alert(1)",
    "a\tb\r\n\x1b[31m",
    "%s {0} $(x) `x`",
    "& &amp; &#x3c;",
)


def test_hostile_names_everywhere_harm_nothing(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    table = Predictions.from_csv(run / "predictions.csv")
    names = HOSTILE[: len(table.classes)]
    hostile = Predictions(table.logits, names, targets=table.targets, split=table.split, paths=HOSTILE * 6)
    hostile.to_csv(run / "predictions.csv")
    (run / "probe_predictions.csv").unlink()
    text = " ".join(HOSTILE)
    steps = [{"number": 3, "name": text, "reason": text, "outcome": text, "kept": True, "seconds": 1}]
    steps[0]["verdict"] = {"kind": text, "text": text}
    change(
        run,
        steps=steps,
        command=list(HOSTILE),
        settings={name: name for name in HOSTILE},
        stop_reason=text,
        data={"root": f"/x/{text}", "line": text, "classes": list(names), "notes": [text]},
    )
    page = read(run)
    assert page.faults == []
    assert "{{ 7 * 7 }}" in page.text
    assert "\\ud83d half a pair" in page.text


def test_the_same_folder_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run(valid=60)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_without_a_test_part_the_figure_is_called_optimistic(make_run: MakeRun) -> None:
    text = read(make_run()).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Accuracy on validation pictures" in text
    assert "A little optimistic." in text
    assert "among 4 steps" in text
    assert "--test 0.15" in text


def test_with_a_test_part_the_figure_is_that_of_the_test_pictures(make_run: MakeRun) -> None:
    run = make_run(test=120)
    text = read(run).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Accuracy on test pictures" in text
    assert "An honest figure." in text
    assert "A little optimistic." not in text
    assert "from 120 pictures" in text
    assert "Test pictures are not shown" in text


def test_the_headline_is_the_figure_of_the_summary_with_its_interval(make_run: MakeRun) -> None:
    run = make_run()
    accuracy = json.loads((run / "summary.json").read_text("utf-8"))["final"]["valid"]["accuracy"]
    text = read(run).text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{100 * accuracy['value']:.1f} %" in text
    assert f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f} %" in text


def test_the_gain_over_the_probe_is_told_with_its_interval(make_run: MakeRun) -> None:
    run = make_run()
    assert re.search(r"Training made it\s+\+\d+\.\d", read(run).text)
    (run / "probe_predictions.csv").unlink()
    assert "Training made it" not in read(run).text


def test_a_step_is_judged_by_its_interval_and_its_figures_stand_once(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    gains = {"clearly better": (0.1, 0.3, 0.99), "clearly worse": (-0.3, -0.1, 0.01)}
    gains["not clearly better: in 40 % of the resamples"] = (-0.2, 0.1, 0.4)
    steps = [
        {
            "number": number,
            "name": "head",
            "kept": low > 0,
            "outcome": "said twice",
            "seconds": 1.0,
            "gain": {"value": (low + high) / 2, "low": low, "high": high, "probability": probability},
        }
        for number, (low, high, probability) in enumerate(gains.values())
    ]
    change(run, steps=steps, command=["/usr/lib/headstart/__main__.py", "train", "my pictures"])
    text = read(run).text.replace("\N{NO-BREAK SPACE}", " ")
    assert [words in text for words in gains] == [True, True, True]
    assert "said twice" not in text
    assert "headstart train 'my pictures'" in text


@pytest.mark.parametrize(
    "missing",
    [
        "history.jsonl",
        "predictions.csv",
        "probe_predictions.csv",
        "plan.yaml",
        "pictures",
        "augmentation.jpg",
    ],
)
def test_what_is_missing_is_left_out(make_run: MakeRun, missing: str) -> None:
    run = make_run(valid=60)
    (run / missing).rename(run / "elsewhere")
    assert read(run).faults == []


def test_a_run_that_wrote_hardly_anything_still_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"schema": 1}', "utf-8")
    page = read(tmp_path)
    assert page.faults == []
    assert "Use the model" in page.text


def test_figures_that_are_undefined_are_dashes(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    nothing = {"value": None, "low": None, "high": None}
    steps = [{"number": 4, "name": "head", "kept": False, "seconds": 2.0, "gain": nothing}]
    steps[0] |= {"metrics": {"accuracy": nothing}, "gain_accuracy": nothing}
    change(run, steps=steps, final={"valid": {"accuracy": nothing}, "test": None})
    (run / "history.jsonl").write_text('{"step": 4, "train_loss": NaN, "valid_loss": null}\n', "utf-8")
    page = read(run)
    assert page.faults == []
    assert "nan" not in page.text.lower().replace("finance", "")


def test_an_interrupted_run_says_so(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    change(run, stop_reason="interrupted")
    assert "This run ended early: interrupted." in read(run).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema": 99}', "utf-8")
    with pytest.raises(ConfigError):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema": 1}', "utf-8")
    (tmp_path / "history.jsonl").write_text("{", "utf-8")
    with pytest.raises(ConfigError):
        write_report(tmp_path)


def test_every_picture_that_is_asked_for_is_shown(make_run: MakeRun) -> None:
    run = make_run()
    rows = rows_to_picture(Predictions.from_csv(run / "predictions.csv"))
    assert len(list((run / "pictures").iterdir())) == len(rows)
    page = read(run)
    held = [a["id"] for tag, a in page.tags if tag == "image"]
    assert held == [f"t{row}" for row in rows.tolist()], "each once, however often it is shown"
    used = {a["href"] for tag, a in page.tags if tag == "use"}
    assert used == {f"#{name}" for name in held}
    assert not any(a.get("class") == "no-picture" for _, a in page.tags)


def test_pictures_are_asked_for_from_the_validation_part_by_row(make_run: MakeRun) -> None:
    run = make_run(test=120, pictures=False)
    table = Predictions.from_csv(run / "predictions.csv")
    rows = rows_to_picture(table)
    assert set(np.asarray(table.split)[rows]) == {"valid"}
    turned = table.take(np.arange(len(table))[::-1])
    assert sorted((len(table) - 1 - rows_to_picture(turned)).tolist()) == rows.tolist()
    assert len(rows_to_picture(table.take([]))) == 0


def test_a_picture_that_was_not_kept_leaves_an_empty_frame(make_run: MakeRun) -> None:
    page = read(make_run(pictures=False))
    assert any(a.get("class") == "no-picture" for _, a in page.tags)


def test_pictures_are_embedded_until_the_budget_is_spent_and_only_if_they_are_pictures(
    tmp_path: Path,
) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "pictures" / f"{number}.jpg")
    (tmp_path / "pictures" / "3.jpg").write_text("<script>alert(1)</script>", "utf-8")
    size = len(Pictures(tmp_path).thumbnail(0))
    assert size > 100
    limited = Pictures(tmp_path, budget=2 * size)
    assert [bool(limited.thumbnail(number)) for number in range(3)] == [True, True, False]
    assert Pictures(tmp_path, most_each=10).thumbnail(0) == ""
    assert Pictures(tmp_path).thumbnail(3) == ""
    assert Pictures(tmp_path).thumbnail(4) == ""


def test_two_thousand_pictures_of_many_classes_stay_small_and_are_drawn_as_a_map(
    make_run: MakeRun,
) -> None:
    run = make_run(classes=[f"breed {number}" for number in range(40)], valid=2000)
    page = read(run)
    assert page.faults == []
    assert any(a.get("class") == "map" for _, a in page.tags)
    assert (run / "report.html").stat().st_size < 3 * 2**20


def test_tags_have_a_report_without_a_confusion_matrix(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    random = np.random.default_rng(0)
    tags = Predictions(
        random.normal(size=(40, 3)),
        ("red", "round", "<b>"),
        task=Task.MULTI_LABEL,
        targets=random.integers(0, 2, size=(40, 3)),
        split=np.array(["valid"] * 40),
    )
    tags.to_csv(run / "predictions.csv")
    tags.to_csv(run / "probe_predictions.csv")
    figure = {"value": 0.8, "low": 0.7, "high": 0.9}
    change(
        run,
        data={"task": "multi-label", "classes": ["red", "round", "<b>"]},
        final={"valid": {"f2": figure, "log_loss": figure}, "test": None},
        calibration=None,
    )
    page = read(run)
    assert page.faults == []
    assert "F2 on validation pictures" in page.text
    assert "Tag by tag" in page.text
    assert "Class by class" not in page.text
    for title in ("What it misses, and what it invents", "What goes together", "Where it is most wrong"):
        assert title in page.text
    assert not any(a.get("id") == "confusion" for _, a in page.tags)


def test_the_pictures_kept_of_tags_are_those_that_the_report_shows(make_run: MakeRun) -> None:
    run = make_run(valid=60, pictures=False)
    random = np.random.default_rng(1)
    tags = Predictions(
        random.normal(size=(50, 3)),
        ("red", "round", "small"),
        task=Task.MULTI_LABEL,
        targets=random.integers(0, 2, size=(50, 3)),
        paths=tuple(f"{row}.jpg" for row in range(50)),
        split=np.array(["valid"] * 50),
        thresholds=np.array([0.3, 0.5, 0.61]),
    )
    tags.to_csv(run / "predictions.csv")
    tags.to_csv(run / "probe_predictions.csv")
    change(run, data={"task": "multi-label", "classes": list(tags.classes)}, thresholds={"red": 0.3})
    (run / "pictures").mkdir()
    for row in rows_to_picture(tags).tolist():
        Image.new("RGB", (8, 8)).save(run / "pictures" / f"{row}.jpg")
    page = read(run)
    assert "0.30" in page.text, "the threshold of a tag stands beside it"
    assert not any(a.get("class") == "no-picture" for _, a in page.tags)


def test_the_curve_of_rates_falls_within_a_cycle_jumps_at_a_restart_and_breaks_between_steps() -> None:
    down = np.linspace(1.0, 0.0, 50).tolist()
    rise_and_fall = [*np.linspace(0.1, 1.0, 25).tolist(), *np.linspace(1.0, 0.0, 25).tolist()]
    history = [
        {"step": step, "train_loss": 1.0, "valid_loss": 1.0, "batch_rates": rates, "accuracy": 0.5}
        for step, rates in ((4, down), (4, down), (8, rise_and_fall))
    ]
    drawn = next(each for each in training_curves(history, []) if each.title == "Learning rate").drawing
    lines = re.findall(r'accent line" points="([^"]+)"', drawn)
    assert len(lines) == 2, "a line for each step"
    restarts, cycle = (
        np.array([[float(n) for n in point.split(",")] for point in line.split()]) for line in lines
    )
    assert (np.diff(restarts[:, 1]) < 0).sum() == 1, "up (smaller y) once, where the second cycle begins"
    top = cycle[:, 1].argmin() / len(cycle)
    assert 0.4 < top < 0.6
    assert (np.diff(cycle[:, 1])[: cycle[:, 1].argmin()] < 0).all()
