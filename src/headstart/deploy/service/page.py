"""The page for people: one file that is sent as it is, and the policy that lets nothing else run on it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources


@cache
def page() -> str:
    """Return the page as HTML; it asks for nothing but the service that sent it."""
    return resources.files("headstart.deploy.service").joinpath("page.html").read_text("utf-8")


@cache
def page_policy() -> str:
    """Return the page's content security policy: its own script and style by their hashes, and no other."""
    script, style = (_hashes(element) for element in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(element: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", page(), re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
