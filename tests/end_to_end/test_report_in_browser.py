"""The pages in a browser: silent, complete, at home on a phone, usable by keyboard, and legible to all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.evaluation import test_check_page as check
from tests.unit.evaluation import test_clean_page as clean
from tests.unit.evaluation.conftest import draw_flower, write_run

from headstart.evaluation import (
    Explanation,
    Predictions,
    rows_to_explain,
    rows_to_picture,
    write_explanations,
    write_report,
)
from headstart.evaluation.report.check import write_check_page
from headstart.evaluation.report.clean import write_clean_page
from headstart.types import Task

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, DESKTOP = 375, 1180
REPORTS = ("classes", "many classes", "tags")


@dataclass
class Visit:
    """A page that is open, and what it did that a page should not do."""

    page: Page
    faults: list[str] = field(default_factory=list)


Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. Where there is none, the test is skipped and says so; with CI=true it fails."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    missing = [name for name in ("playwright", "axe_playwright_python") if not importlib.util.find_spec(name)]
    if path is None or missing:
        reason = f"no {', '.join(missing)}" if missing else "no chromium on the path"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """A function that opens a file, at a width and in a colour scheme, and notes what it does."""
    contexts = []

    def open_file(
        file: Path, fragment: str = "", *, width: int = DESKTOP, scheme: Any = "light", judged: bool = False
    ) -> Visit:
        # A page's own policy would also keep the judge's script from running.
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            reduced_motion="reduce",
            bypass_csp=judged,
        )
        contexts.append(context)
        context.set_default_timeout(8_000)
        page = context.new_page()
        seen = Visit(page)
        address = file.as_uri()

        def request(url: str) -> None:
            # The pictures of an explanation lie beside its page.
            if not url.startswith(
                (address, "data:", f"{file.parent.as_uri()}/views/")
            ) and not url.startswith(f"{file.parent.as_uri()}/overlays/"):
                seen.faults.append(f"asks for {url}")

        def said(kind: str, text: str) -> None:
            if kind in ("error", "warning"):
                seen.faults.append(f"{kind}: {text}")

        page.on("request", lambda asked: request(asked.url))
        page.on("console", lambda message: said(message.type, message.text))
        page.on("pageerror", lambda error: said("error", str(error)))
        page.goto(address + fragment)
        return seen

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each kind, with all that a run can leave behind."""
    root = tmp_path_factory.mktemp("reports")
    for name, options in (("classes", {}), ("many classes", {"classes": [f"kind {n}" for n in range(21)]})):
        write_run(root / name, valid=120, side=32, **options)
        complete(root / name)
    write_run(root / "tags", valid=60, pictures=False)
    make_tags(root / "tags")
    complete(root / "tags")
    return {name: write_report(root / name) for name in REPORTS}


def make_tags(run: Path) -> None:
    """Turn a run of classes into one of tags."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (80, 4))
    tags = Predictions(
        (4 * truth - 2 + 2.5 * random.normal(size=truth.shape)).astype(np.float32),
        ("red", "round", "small & sweet", "late"),
        task=Task.MULTI_LABEL,
        targets=truth,
        paths=[f"{row}.jpg" for row in range(80)],
        split=np.array(["valid"] * 80),
        thresholds=np.array([0.4, 0.5, 0.6, 0.5]),
    )
    tags.to_csv(run / "predictions.csv")
    tags.to_csv(run / "probe_predictions.csv")
    (run / "pictures").mkdir()
    for row in rows_to_picture(tags).tolist():
        draw_flower(row, row % 6, 48).save(run / "pictures" / f"{row}.jpg")
    figure = {"value": 0.8, "low": 0.7, "high": 0.9}
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    summary |= {"metric": "f2", "calibration": None, "final": {"valid": {"f2": figure}, "test": None}}
    summary["thresholds"] = dict.fromkeys(tags.classes, 0.5)
    summary["data"] |= {"task": "multi-label", "classes": list(tags.classes), "counts": {}}
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")


def complete(run: Path) -> None:
    """Add heat, a map, slices, doubts and decisions to a run."""
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    task = Task(summary["data"]["task"])
    found = Predictions.from_csv(run / "predictions.csv", task=task)
    for row in rows_to_explain(found).tolist():
        draw_flower(row, 3, 48).save(run / "pictures" / f"{row}_heat.jpg")
    places = np.random.default_rng(1).normal(size=(2, len(found))).round(3).tolist()
    content = {"projection": "tsne", "rows": list(range(len(found))), "x": places[0], "y": places[1]}
    (run / "embedding.json").write_text(json.dumps(content), "utf-8")
    (run / "doubts").mkdir()
    draw_flower(1, 1, 48).save(run / "doubts" / "0.jpg")
    figure = {"value": 0.7, "low": 0.6, "high": 0.8}
    slice_ = {"column": "camera", "value": "old", "count": 20, "accuracy": figure, "log_loss": figure}
    slice_ |= {"rest_accuracy": 0.9, "rest_log_loss": 0.2, "p_value": 0.001, "q_value": 0.002, "worse": True}
    doubt = {"picture": "doubts/0.jpg", "path": "a.jpg", "label": "daisy", "suggested": "rose"}
    doubt |= {"probability": 0.97, "label_probability": 0.01}
    summary |= {
        "slices": [slice_, slice_ | {"value": "new", "worse": False, "q_value": 1.0}],
        "doubts": {"pictures": len(found), "expected": 3.2, "examples": [doubt]},
        "sets": {"level": 0.9, "coverage": figure, "mean_size": 1.3, "single": 0.8, "single_accuracy": 0.9},
        "none_of_these": {"rate": 0.05, "turned_away": figure},
        "tta": {"kept": True, "reason": "The same picture seen 2 ways.", "gain": figure, "seconds": 3.2},
        "scaling": {"kept": False, "gain": figure},
    }
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")


@pytest.fixture(scope="module")
def other_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of a check, of a cleaning and of explanations."""
    root = tmp_path_factory.mktemp("pages")
    write_check_page(root / "check.html", check.CONTENT, check.GALLERIES)
    write_clean_page(root / "clean.html", clean.page())
    view = np.asarray(draw_flower(1, 1, 48))
    heat = np.linspace(0, 1, view.shape[0] * view.shape[1], dtype=np.float32).reshape(view.shape[:2])
    explained = Explanation("a.jpg", 0, "cat", 0.9, "cat", "dog", "gradcam", view=view, heat=heat)
    write_explanations(root / "explained", [explained, Explanation("b.jpg", 1, status="TRUNCATED")])
    return {
        "check": root / "check.html",
        "clean": root / "clean.html",
        "explain": root / "explained" / "index.html",
    }


def dead_links(page: Page) -> list[str]:
    """Links within the page, of pictures too, that lead nowhere."""
    return list(
        page.evaluate(
            """() => [...document.querySelectorAll('a, use')].map(each => each.getAttribute('href'))
            .filter(to => !to || (to.startsWith('#') && !document.getElementById(to.slice(1))))"""
        )
    )


def visible_links(page: Page) -> list[str]:
    return list(
        page.evaluate(
            """() => [...document.querySelectorAll('a')].filter(each => each.checkVisibility())
            .map(each => each.getAttribute('href'))"""
        )
    )


def reached_by_tab(page: Page) -> list[str]:
    """The links that Tab comes by, from the top of the page."""
    count = page.evaluate(
        """() => { window.passed = [];
        document.addEventListener('focusin', event => window.passed.push(event.target.getAttribute('href')));
        return document.querySelectorAll('a, [tabindex], summary, button, select, input').length; }"""
    )
    for _ in range(count + 1):
        page.keyboard.press("Tab")
    return [href for href in page.evaluate("window.passed") if href]


def cannot_be_opened(page: Page, *, click: bool, links: list[str]) -> list[str]:
    """Links of the page that, chosen by click or by Enter, do not show what they lead to."""
    faults = []
    for href in dict.fromkeys(links):
        # Focus is given here, so that it costs one call; that Tab reaches every link is another test.
        there = page.evaluate(
            """([href, click]) => { location.hash = '';
            const link = [...document.querySelectorAll('a')].find(
              each => each.getAttribute('href') === href && each.checkVisibility());
            if (link && !click) link.focus();
            return Boolean(link); }""",
            [href, click],
        )
        if not there:
            faults.append(f"{href} has no link that is shown")
            continue
        if click:
            page.locator(f'a[href="{href}"]:visible').first.click()
        else:
            page.keyboard.press("Enter")
        shown = page.evaluate(
            """id => { const target = document.getElementById(id);
            if (!target || !target.checkVisibility() || location.hash !== '#' + id) return false;
            const box = target.getBoundingClientRect();
            return box.bottom > 0 && box.top < innerHeight && box.height > 0; }""",
            href[1:],
        )
        if not shown:
            faults.append(f"{href} is not shown")
    return faults


def too_wide(page: Page) -> list[str]:
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"{wide} pixels wider than the window"] if wide > 0 else []


def hard_to_use(page: Page, *rules: str) -> list[str]:
    """What axe-core calls serious or critical, by all of its rules or some."""
    from axe_playwright_python.sync_playwright import Axe

    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_is_silent_and_its_links_lead_somewhere(
    reports: dict[str, Path], visit: Open, kind: str
) -> None:
    seen = visit(reports[kind], width=PHONE)
    assert dead_links(seen.page) == []
    assert too_wide(seen.page) == []
    galleries = seen.page.locator(".gallery").count()
    assert galleries > 3
    assert seen.page.locator(".gallery:visible").count() == 0
    missing = seen.page.evaluate(
        """async () => { const images = [...document.images]; images.forEach(each => each.loading = 'eager');
        await Promise.all(images.map(each => each.decode()));
        return images.filter(each => each.naturalWidth === 0).length; }"""
    )
    assert missing == 0
    assert seen.faults == []


@pytest.mark.parametrize("kind", REPORTS)
def test_every_link_is_reached_and_every_gallery_opened_by_keyboard(
    reports: dict[str, Path], visit: Open, kind: str
) -> None:
    seen = visit(reports[kind])
    page = seen.page
    links = visible_links(page)
    assert set(links) == set(reached_by_tab(page))
    on_the_map = [link for link in links if link.startswith("#p")]
    others = [link for link in links if link not in on_the_map]
    assert cannot_be_opened(page, click=False, links=others + on_the_map[:8]) == []
    # Every gallery was among them: none can be reached through another alone.
    galleries = page.evaluate("[...document.querySelectorAll('.gallery')].map(each => '#' + each.id)")
    assert set(galleries) <= set(links)
    # From an open gallery the next stop is its end, which leads back to where it was opened.
    opened = next(link for link in links if link.startswith("#g"))
    page.locator(f'a[href="{opened}"]:visible').first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "back"
    back = page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == back
    assert page.locator(".gallery:visible").count() == 0
    assert seen.faults == []


@pytest.mark.parametrize("kind", REPORTS)
def test_galleries_and_mistakes_on_the_map_open_by_click(
    reports: dict[str, Path], visit: Open, kind: str
) -> None:
    page = visit(reports[kind]).page
    links = visible_links(page)
    on_the_map = [link for link in links if link.startswith("#p")]
    assert on_the_map
    galleries = [link for link in links if link.startswith("#g")]
    # Dots may lie over each other, so that a click opens the upper one: those that stand alone are tried.
    alone = page.evaluate(
        """() => [...document.querySelectorAll('svg.dots a')].filter(each => {
        each.scrollIntoView({block: 'center'}); const box = each.getBoundingClientRect();
        const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return hit && hit.closest('a') === each; }).map(each => each.getAttribute('href'))"""
    )
    assert alone
    assert cannot_be_opened(page, click=True, links=galleries[:12] + alone[:3]) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_no_serious_fault_of_accessibility(
    reports: dict[str, Path], visit: Open, kind: str, scheme: str
) -> None:
    page = visit(reports[kind], scheme=scheme, judged=True).page
    gallery = next(link for link in visible_links(page) if link.startswith("#g"))
    page.evaluate("to => { location.hash = to; }", gallery)
    assert page.locator(".gallery:visible").count() == 1
    # In the dark only the colours are others.
    assert hard_to_use(page, *(["color-contrast"] if scheme == "dark" else [])) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["check", "clean", "explain"])
def test_the_other_pages_are_silent_narrow_and_accessible(
    other_pages: dict[str, Path], visit: Open, kind: str, scheme: str
) -> None:
    if scheme == "light":
        seen = visit(other_pages[kind], width=PHONE)
        assert dead_links(seen.page) == []
        assert too_wide(seen.page) == []
        assert seen.faults == []
    assert hard_to_use(visit(other_pages[kind], scheme=scheme, judged=True).page) == []


BROKEN = """<!doctype html><html lang="en"><head><title>x</title><style>.hid { display: none }</style></head>
<body><main><h1>x</h1><a href="#nowhere">dead</a><a href="#closed" tabindex="-1">closed</a>
<section id="closed" class="hid">x</section><img src="https://pictures.example/x.png" width="9" height="9">
<p style="color: #aaa">pale</p><div style="width: 900px">wide</div></main></body></html>"""


def test_what_would_be_wrong_with_a_page_is_found(visit: Open, tmp_path: Path) -> None:
    file = tmp_path / "broken.html"
    file.write_text(BROKEN, "utf-8")
    seen = visit(file, width=PHONE)
    page = seen.page
    assert any("asks for https://pictures.example/x.png" in fault for fault in seen.faults)
    assert any(fault.startswith("error:") for fault in seen.faults)
    assert dead_links(page) == ["#nowhere"]
    assert too_wide(page)
    assert set(visible_links(page)) - set(reached_by_tab(page)) == {"#closed"}
    for click in (False, True):
        assert cannot_be_opened(page, click=click, links=["#closed"]) == ["#closed is not shown"]
    assert {fault.partition(":")[0] for fault in hard_to_use(page)} >= {"image-alt", "color-contrast"}
