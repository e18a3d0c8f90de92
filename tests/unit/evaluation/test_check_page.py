"""The page of a check: everything it shows is in it, nothing runs, and names cannot break it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from headstart.evaluation.report.check import Gallery, Shot, render_check, write_check_page

CONTENT: dict[str, Any] = {
    "root": "/pictures/<b>birds</b>",
    "pictures": 1200,
    "usable": 1198,
    "classes": {"<script>alert(1)</script>": 800, "ורד": 398},
    "splits": {"train": 1000, "valid": 200},
    "notes": ["a & b differ only in case"],
    "findings": [
        {
            "code": "LEAK",
            "fault": True,
            "count": 2,
            "words": "of valid are in train",
            "pictures": ["<i>.jpg"],
        },
        {"code": "TINY", "fault": False, "count": 1, "words": "tiny", "pictures": []},
    ],
    "modes": {"RGB": 1198},
    "formats": {"JPEG": 1198},
    "sizes": {
        "quantiles": {"width": {"0": 10.0, "50": 300.0}, "aspect": {"0": 0.5, "50": 1.333}},
        "histograms": {
            "width": {"edges": [10.0, 200.0, 400.0], "counts": [3, 1195]},
            "height": {"edges": [300.0, 301.0], "counts": [1198]},
            "aspect": {"edges": [0.5, 1.5], "counts": [1198]},
        },
        "suggested_size": 192,
        "cut_away": {"crop": {"0": 0.234, "50": 0.5}},
    },
    "resize": {"policy": "crop", "reason": "crop to 224 x 224: for a reason", "size": [224, 224]},
}
GALLERIES = (
    Gallery("LEAK", "In two parts", "Look.", ((Shot("a.jpg", "cat", b"\xff\xd8\xffx"), Shot("b.jpg")),)),
    Gallery("SEEN", "Seen", "Look.", ((Shot("<u>.jpg", "dog", b"\xff\xd8\xffy", (0.1, 0.0, 0.9, 1.0)),),)),
)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_holds_all_that_it_shows_and_runs_nothing() -> None:
    page = render_check(CONTENT, GALLERIES)
    tags = Tags(page).found
    assert "script" not in {tag for tag, _ in tags}
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == 2
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    assert base64.b64decode(str(sources[0]).partition(",")[2]) == b"\xff\xd8\xffx"
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert all(link.startswith("#") for link in links)
    identities = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert {link[1:] for link in links} <= identities
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_names_from_outside_are_text_and_no_markup() -> None:
    page = render_check(CONTENT, GALLERIES)
    for name in ("<script>alert", "<i>.jpg", "<u>.jpg", "<b>birds"):
        assert name not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_figures_are_on_the_page() -> None:
    page = re.sub(r"\s", " ", render_check(CONTENT, GALLERIES))  # thin spaces, too
    for text in (
        "1,200 pictures",
        "2 cannot be used",
        "LEAK",
        "of valid are in train",
        "train at 192",
        "23 %",
    ):
        assert text in page
    assert page.count('class="tag fault"') == 1
    # What evaluation sees: nothing off above and below, a tenth at both sides.
    assert "inset: 0.0% 10.0% 0.0% 10.0%" in page


def test_a_collection_without_findings_or_sizes_has_a_page(tmp_path: Path) -> None:
    empty = CONTENT | {"findings": [], "sizes": {}, "classes": {}, "notes": [], "modes": {}, "formats": {}}
    write_check_page(tmp_path / "check.html", empty)
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "Every picture can be used" in page
    assert 'id="sizes"' not in page
