"""The page of a cleaning: it holds all it shows, only its own script runs, and it writes the same table."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headstart.data import Suggestion
from headstart.data.corrections import table_text
from headstart.evaluation.label_next import Rise
from headstart.evaluation.report.clean import (
    Album,
    Card,
    CleanPage,
    Copy,
    Side,
    render_clean,
    write_clean_page,
)

ROWS = [
    Suggestion("relabel", "roses/</script><b>.jpg", "roses", "=tulips", "0.93", "a, b"),
    Suggestion("relabel", "roses/2.jpg", "roses", "daisy", "0.81", 'say "no"', apply="keep"),
    Suggestion("remove", "daisy/blank.jpg", "daisy", reason="blank"),
    Suggestion("duplicate", "daisy/1.jpg", "daisy", "roses", reason="nearly the same as x", group="1"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page(rows: list[Suggestion] = ROWS, **changes: Any) -> CleanPage:
    album = Album()
    first, second = album.add("one", b"\xff\xd8\xffone"), album.add("two", b"\xff\xd8\xfftwo")
    cards = tuple(
        Card(
            tuple(row),
            first if number != 2 else -1,
            (Side("roses", (first, second)),),
            (Copy(second, "x.jpg", "roses, train", True),) if row.action == "duplicate" else (),
        )
        for number, row in enumerate(rows)
    )
    options: dict[str, Any] = {
        "title": "flowers & <i>",
        "run": "runs/flowers",
        "pictures": 800,
        "classes": ("=tulips", "daisy", "roses"),
        "tags": False,
        "cards": cards,
        "album": album,
    }
    return CleanPage(**(options | changes))


def policy_of(html: str) -> str:
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert found is not None
    return found.group(1)


def test_the_page_asks_no_network_and_lets_only_its_own_script_run() -> None:
    html = render_clean(page())
    policy = policy_of(html)
    assert "default-src 'none'" in policy
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "</script><b>" not in html
    assert "<i>" not in html.replace('<i id="bar"></i>', "")


def test_names_that_no_file_can_hold_do_not_break_the_page(tmp_path: Path) -> None:
    odd = [Suggestion("remove", "a\udcff\u2028.jpg", "b\udcfe")]
    write_clean_page(tmp_path / "index.html", page(odd, classes=("b\udcfe", "c"), title="\udcff"))
    text = (tmp_path / "index.html").read_text("utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["rows"][0][1] == "a\\udcff\u2028.jpg"
    assert data["classes"] == ["b\\udcfe", "c"]


def test_a_picture_is_in_the_page_once_and_not_beyond_the_budget() -> None:
    album = Album(budget=60)
    assert album.add("one", b"1" * 20) == album.add("one", b"2") == 0
    assert album.add("two", b"2" * 30) == -1
    assert album.add("none", b"") == -1
    assert len(album.uris) == 1


def test_without_suggestions_the_page_says_so_and_has_no_script() -> None:
    rise = Rise("daisy", 80, 0.8, 0.9, 0.02, 0.18)
    html = render_clean(page([], rises=(rise,), to_label=((-1, "x.jpg", "roses? 51%"),), among=7))
    assert "Nothing is suggested" in html
    assert "<script" not in html
    assert "still rises" in html
    assert "roses? 51%" in html


# ---- in a browser ----------------------------------------------------------------------------

SPY = """<script>
HTMLAnchorElement.prototype.click = function () {};
URL.createObjectURL = (blob) => {
  blob.arrayBuffer().then((bytes) => {
    document.body.dataset.table = btoa(String.fromCharCode(...new Uint8Array(bytes)));
  });
  return "blob:none";
};
</script>"""


def opened(folder: Path, html: str) -> tuple[str, str]:
    """Open a page in Chromium without a window; return the document as it became, and what was logged."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    file = folder / "index.html"
    file.write_text(html, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [
            CHROMIUM,
            *flags,
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=3000",
            file.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def after(folder: Path, steps: str) -> list[list[str]]:
    """The table that the page gives for download after some steps."""
    html = render_clean(page()).replace(policy_of(render_clean(page())), "script-src 'unsafe-inline'")
    html = html.replace("<body>", "<body>" + SPY)
    html = html.replace(
        "</body>", f"<script>{steps};document.querySelector('.download').click()</script></body>"
    )
    document, _ = opened(folder, html)
    found = re.search(r'data-table="([^"]+)"', document)
    assert found is not None
    text = base64.b64decode(found.group(1)).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def press(*keys: str) -> str:
    return ";".join(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))" for key in keys)


def test_a_browser_runs_the_page_without_a_complaint_and_no_other_script(tmp_path: Path) -> None:
    html = render_clean(page())
    document, logged = opened(tmp_path, html)
    assert "CONSOLE" not in logged
    assert '<div id="tool">' in document
    assert "0.93" not in document.partition('id="card"')[2].partition("</article>")[0]
    assert "(93 %)" in document
    # The control: a script that is not the page's own is not run, and is complained of.
    document, logged = opened(tmp_path, html.replace('"use strict";', '"use strict";;'))
    assert "CONSOLE" in logged
    assert '<div id="tool" hidden="">' in document


def test_the_page_writes_the_table_that_it_was_made_from(tmp_path: Path) -> None:
    expected = list(csv.reader(io.StringIO(table_text(ROWS).removeprefix("\ufeff"), newline="")))[1:]
    assert after(tmp_path, "0") == expected


def test_keys_decide_and_go_on_to_the_next(tmp_path: Path) -> None:
    rows = after(tmp_path, press("a", "ArrowRight", "R", "k", "ArrowLeft", "u"))
    assert [row[7] for row in rows] == ["yes", "keep", "", "keep"]


def test_another_label_can_be_given_and_is_kept_as_it_is_called(tmp_path: Path) -> None:
    chosen = "document.getElementById('classes').value = 'daisy'; document.getElementById('give').click()"
    rows = after(tmp_path, chosen)
    assert rows[0][3] == "daisy"
    assert rows[0][7] == "relabel"
    assert rows[1][7] == "keep"
