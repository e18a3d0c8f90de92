"""A folder of explanations: a picture of each heat map, a page that shows them all, and their table."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from headstart.errors import OutputError
from headstart.evaluation.explanation import Explanation
from headstart.evaluation.report.wording import visible
from headstart.storage import folder_written_whole, write_atomic, write_json
from headstart.types import Pixels

TABLE = "explanations.json"
PAGE = "index.html"

_HEAD = Markup(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fbfcfb; --card: #fff; --ink: #17211f; --quiet: #566460;
  --line: #dfe6e3; --accent: #0f766e; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #101514; --card: #171e1c; --ink: #e8efec;
  --quiet: #a0afaa; --line: #2b3633; --accent: #4fd1c0; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 76rem; padding: 2rem clamp(1rem, 4vw, 2.5rem); background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
p {{ margin: 0; max-width: 75ch; color: var(--quiet); }}
ul {{ list-style: none; margin: 1.5rem 0 0; padding: 0; display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }}
li {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1px; background: var(--line); }}
.pair img {{ display: block; width: 100%; height: auto; }}
a:focus-visible {{ outline: 3px solid var(--accent); outline-offset: -3px; }}
.words {{ padding: .7rem .9rem .9rem; overflow-wrap: anywhere; }}
.words b {{ display: block; }} .words span {{ color: var(--quiet); font-size: .875rem; display: block; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{words}</p>
<ul>
"""
)
_SHOT = Markup(
    """<li><div class="pair">
<a href="{view}"><img src="{view}" alt="{path} as the network sees it" width="{width}" height="{height}" \
loading="lazy"></a>
<a href="{overlay}"><img src="{overlay}" alt="Heat map for {label}" width="{width}" height="{height}" \
loading="lazy"></a>
</div><div class="words"><b>{label} {percent}</b><span>{path}</span><span>{facts}</span></div></li>
"""
)
_UNREAD = Markup('<li><div class="words"><b>{status}</b><span>{path}</span></div></li>\n')
_WORDS = (
    "Left the picture as the network sees it, right what speaks for the class. Grad-CAM weighs the places of "
    "the last feature map by their effect on the class; attention rollout follows attention through all "
    "blocks, whatever the class. Heat on the background, a mark or a margin means that the network goes by "
    "that."
)


def write_explanations(
    folder: str | Path,
    explanations: Iterable[Explanation],
    *,
    title: str = "What the model looks at",
    replace: bool = False,
) -> list[dict[str, Any]]:
    """Write a folder of heat maps and return its table, a dictionary for each picture, in order.

    `overlays/NUMBER-NAME.png` is the view with its heat, `views/NUMBER-NAME.png` the view alone, `index.html`
    shows them side by side, and `explanations.json` holds the table: `Explanation.to_dict`, with the names of
    the two files. Explanations are taken one at a time, so any number fits. The folder is there whole or
    not at all. Raises `OutputError` where it exists, unless `replace` is set and it is one of these.
    """
    target = Path(folder)
    if replace and target.is_dir() and any(target.iterdir()) and not (target / TABLE).is_file():
        raise OutputError(f"{target} holds something else, and is not replaced", "choose another folder")
    rows: list[dict[str, Any]] = []
    shots: list[Markup] = []
    with folder_written_whole(target, replace=replace) as temporary:
        for name in ("overlays", "views"):
            (temporary / name).mkdir()
        for number, each in enumerate(explanations):
            row = each.to_dict()
            if each.view is not None and each.heat is not None:
                name = f"{number:05d}-{_file_name(each.path)}.png"
                row |= {"overlay": f"overlays/{name}", "view": f"views/{name}"}
                (temporary / "overlays" / name).write_bytes(_png(each.overlay()))
                (temporary / "views" / name).write_bytes(_png(each.view))
            else:
                row |= {"overlay": None, "view": None}
            rows.append(row)
            shots.append(_shot(each, row))
        write_json(temporary / TABLE, rows)
        page = _HEAD.format(title=visible(title), words=_WORDS) + Markup("").join(shots)
        page += Markup("</ul>\n</body>\n</html>\n")
        write_atomic(temporary / PAGE, page.encode("utf-8", errors="backslashreplace"))
    return rows


def _shot(each: Explanation, row: dict[str, Any]) -> Markup:
    path = visible(each.path)
    if each.view is None or each.heat is None:
        return _UNREAD.format(status=f"not read: {each.status}", path=path)
    facts = [each.method]
    if row["area_of_half"] is not None:
        facts.append(f"half of the heat on {100 * each.area_of_half:.0f} % of the view")
    if each.truth:
        facts.append(f"in truth {visible(each.truth)}")
    if each.prediction != each.label:
        facts.append(f"predicted {visible(each.prediction)}")
    return _SHOT.format(
        view=row["view"],
        overlay=row["overlay"],
        path=path,
        label=visible(each.label),
        percent=f"{100 * each.probability:.0f} %",
        facts="; ".join(facts),
        height=each.view.shape[0],
        width=each.view.shape[1],
    )


def _file_name(path: str) -> str:
    """Return the name of a picture in letters that any system and any URL takes."""
    stem = Path(path).stem if path else "picture"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60] or "picture"


def _png(picture: Pixels) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
