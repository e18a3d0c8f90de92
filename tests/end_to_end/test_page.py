"""The page of the service in a browser: every way in, every screen, and what it says of faults."""

from __future__ import annotations

import base64
import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.deploy.conftest import CLASSES, save_small
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.running import Running

from headstart.deploy.service import Settings

PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
SECONDS = 20_000

# What a person's drop or paste gives the page: files, in the browser's own form.
GIVE = """(type, target, files) => {
  const carried = new DataTransfer();
  for (const [name, kind, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    carried.items.add(new File([bytes], name, { type: kind }));
  }
  const options = { bubbles: true, cancelable: true };
  const element = document.querySelector(target);
  if (type === "paste") {
    element.dispatchEvent(new ClipboardEvent(type, { ...options, clipboardData: carried }));
  } else for (const kind of ["dragenter", "dragover", "drop"]) {
    element.dispatchEvent(new DragEvent(kind, { ...options, dataTransfer: carried }));
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        reason = "no Chromium on this machine: the page was not tried in a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = save_small(tmp_path_factory.mktemp("page") / "model")
    running = Running({"animals": folder}, Settings(body_bytes=2**20))
    yield running
    running.stop()


@pytest.fixture
def open_page(browser: Any, service: Running) -> Iterator[Any]:
    """A function that opens the page; at the end nothing may have gone wrong on it, or left the machine."""
    contexts, faults = [], []

    def opened(port: int = service.port, **options: object) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        own = f"http://127.0.0.1:{port}/"
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((own, "blob:", "data:")) else faults.append(request.url)
            ),
        )
        page.goto(own)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def give(page: Any, way: str, *files: tuple[str, bytes]) -> None:
    carried = [[name, "image/png", base64.b64encode(data).decode()] for name, data in files]
    # Not by evaluating in the page, which its policy forbids, but from outside.
    page.evaluate(f"(files) => ({GIVE})({way!r}, {'body' if way == 'paste' else '#drop'!r}, files)", carried)


def done(page: Any, count: int) -> None:
    """Wait until so many cards say something."""
    page.locator(f".card >> nth={count - 1}").wait_for()
    for card in page.locator(".card").all():
        card.locator("h3").wait_for()


def serious(page: Any) -> list[str]:
    """What a screen reader's or a keyboard's user would stumble over."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def shares(page: Any, card: int = 0) -> dict[str, str]:
    bars = page.locator(".card").nth(card).locator(".bars li")
    return {
        bar.locator(".label").inner_text(): bar.locator("button > span").nth(1).inner_text()
        for bar in bars.all()
    }


def test_pictures_that_are_dropped_or_pasted_are_judged_and_saved_as_a_table(
    open_page: Any, service: Running
) -> None:
    page = open_page(accept_downloads=True)
    give(page, "drop", ("a.png", file_of(1)), ('b, "two".png', file_of(2)))
    give(page, "paste", ("c.png", file_of(3)))
    done(page, 3)
    assert page.locator("#results-title").inner_text() == "3 pictures"
    said = service.predict(file_of(1)).json["pictures"][0]["classes"]
    assert page.locator(".card").first.locator("h3").inner_text().startswith(said[0]["class"])
    assert list(shares(page)) == [each["class"] for each in said]
    assert shares(page)[said[0]["class"]] in (f"{100 * said[0]['probability']:.0f} %", "> 99 %")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    text = Path(download.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["picture"] for row in rows] == ["a.png", 'b, "two".png', "c.png"]
    assert rows[0]["prediction"] == said[0]["class"]
    assert float(rows[0]["probability"]) == pytest.approx(said[0]["probability"], abs=1e-6)
    assert {row["status"] for row in rows} == {"ok"}
    assert not serious(page)
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0


def test_names_of_classes_and_files_are_words_and_never_a_page(open_page: Any) -> None:
    page = open_page()
    give(page, "drop", ("<img src=x onerror=alert(1)>.png", file_of(1)))
    done(page, 1)
    assert set(shares(page)) == set(CLASSES), "one of them has a tag in its name"
    assert "<img src=x" in page.locator(".name").inner_text()
    assert page.locator(".card b, .card img[src=x]").count() == 0


def test_all_of_it_works_by_the_keyboard(open_page: Any) -> None:
    page = open_page()
    # The browser is told that somebody listens for choosers, and nothing waits for that: so it is told early.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Choose pictures"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": file_of(1)}])
    done(page, 1)
    for _ in range(3):
        page.keyboard.press("Tab")
    assert "label" in page.locator(":focus").inner_html(), "after Save and Clear come the classes"
    label = page.locator(":focus .label").inner_text()
    page.keyboard.press("Space")
    page.locator("img[alt^='Heat map for']").wait_for()
    assert page.locator(":focus .label").inner_text() == label, "the focus was lost when the card changed"
    assert page.locator(":focus").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    page.locator("img[alt^='Heat map for']").wait_for(state="detached")


def test_what_cannot_be_read_is_said_in_words_and_spoken(open_page: Any) -> None:
    page = open_page()
    give(page, "drop", ("bad.png", b"no picture"), ("large.png", bytes(2**20)), ("good.png", file_of(1)))
    done(page, 3)
    cards = page.locator(".card")
    assert "This is not a picture." in cards.nth(0).inner_text()
    assert "larger than 1 MB" in cards.nth(1).inner_text()
    assert cards.nth(2).locator(".bars").count() == 1
    assert "1 of 3 pictures are done. 2 could not be read." in page.locator("#spoken").inner_text()
    assert not serious(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_light(open_page: Any, scheme: str) -> None:
    page = open_page(**PHONE, color_scheme=scheme, reduced_motion="reduce")
    assert page.get_by_role("button", name="Take a photo").is_visible()
    assert page.locator("#photo").get_attribute("capture") == "environment"
    page.locator("#photo").set_input_files(
        [{"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": file_of(1, "JPEG")}]
    )
    done(page, 1)
    page.get_by_role("button", name="Show where").last.click()
    page.locator("img[alt^='Heat map for']").wait_for()
    page.locator("summary").click()
    assert "90.0 % (80.0 % to 95.0 %)" in page.locator("#facts").inner_text()
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"], "one has to scroll sideways"  # type: ignore[index]
    small = [
        button.inner_text()
        for button in page.get_by_role("button").all()
        if button.is_visible() and (button.bounding_box() or {"height": 0})["height"] < 24
    ]
    assert not small, "too small for a finger"
    seconds = page.locator(".fill").first.evaluate("(bar) => getComputedStyle(bar).transitionDuration")
    assert seconds == "0s"
    assert not serious(page)
    shade = np.mean(
        _colour(page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor"))
    )
    assert (shade < 64) == (scheme == "dark")


def _colour(text: str) -> list[int]:
    return [int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]


def test_the_token_is_asked_for_and_what_waited_for_it_goes_on(open_page: Any, tmp_path: Path) -> None:
    running = Running({"animals": save_small(tmp_path / "model")}, Settings(token="correct-horse"))
    try:
        page = open_page(running.port)
        field = page.get_by_label("This service asks for its token.")
        field.wait_for()
        give(page, "drop", ("a.png", file_of(1)))
        field.fill("wrong-horse")
        page.keyboard.press("Enter")
        page.get_by_text("The token was not accepted.").wait_for()
        field.fill("correct-horse")
        page.keyboard.press("Enter")
        done(page, 1)
        assert page.locator(".bars li").count() == len(CLASSES)
        assert page.locator("#door").is_hidden()
    finally:
        running.stop()


def test_a_service_that_is_gone_is_said(open_page: Any, tmp_path: Path) -> None:
    running = Running({"animals": save_small(tmp_path / "model")})
    page = open_page(running.port)
    page.locator("#facts div").first.wait_for(state="attached")
    running.stop()
    give(page, "drop", ("a.png", file_of(1)))
    page.get_by_text("The service cannot be reached.").wait_for()


def test_the_examination_finds_what_is_wrong(open_page: Any) -> None:
    """The control: a button without a name, and words that one can hardly see."""
    page = open_page()
    page.evaluate("() => document.querySelector('main').append(document.createElement('button'))")
    assert [each for each in serious(page) if each.startswith("button-name")]
