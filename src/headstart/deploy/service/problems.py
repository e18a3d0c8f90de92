"""What goes wrong with a request, as a client is told: a status, a code, what happened and what to do."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi.responses import JSONResponse

from headstart.errors import DataError, HeadstartError, UsageError


class Json(JSONResponse):
    """JSON in ASCII: names of classes may hold what UTF-8 cannot, from file names that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the answer."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class RefusedError(Exception):
    """A request that is not answered as asked; `retry_after`: seconds after which it may be asked again."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.retry_after = retry_after


# By the reason codes of files: the status, in words, and what to do.
REASONS: dict[str, tuple[int, str, str]] = {
    "EMPTY_FILE": (422, "the file is empty", "send the picture again"),
    "NOT_AN_IMAGE": (415, "this is not a picture", "send a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"),
    "UNSUPPORTED_FORMAT": (415, "pictures of this format cannot be read", "convert it to JPEG or PNG"),
    "UNSUPPORTED_MODE": (422, "pixels of this kind cannot be read", "convert it to 8 bits a colour"),
    "TRUNCATED": (422, "the picture is cut short", "copy or download it again"),
    "CORRUPT": (422, "the picture is damaged", "copy or download it again"),
    "ZERO_DIM": (422, "the picture has no pixels", "send another one"),
    "TOO_MANY_PIXELS": (413, "the picture has too many pixels", "make it smaller"),
    "TOO_MANY_BYTES": (413, "the file is too large", "make the picture smaller"),
    "METADATA_BOMB": (413, "the file holds too much besides the picture", "save the picture without it"),
    "DECODE_TIMEOUT": (422, "reading the picture takes too long", "make it smaller, or convert it"),
    "DECODER_CRASH": (422, "the picture could not be read", "convert it to JPEG or PNG"),
}
_UNREAD = (422, "the picture could not be read", "convert it to JPEG or PNG")
FAILED = "MODEL_FAILED"
"""The code of a picture of which the network said nothing that is a number."""


def words_for(code: str) -> tuple[str, str]:
    """Return what a reason code means and what to do about it."""
    if code == FAILED:
        return ("the model gave no numbers for this picture", "tell whoever runs the service")
    return REASONS.get(code, _UNREAD)[1:]


def unread(codes: list[str]) -> RefusedError:
    """Return the problem of a request none of whose pictures could be judged."""
    if FAILED in codes:
        return RefusedError(500, FAILED, *words_for(FAILED))
    statuses = {REASONS.get(code, _UNREAD)[0] for code in codes}
    message, hint = words_for(codes[0])
    if len(codes) > 1:
        message = f"none of the {len(codes)} pictures could be read; of the first: {message}"
    return RefusedError(statuses.pop() if len(statuses) == 1 else 422, codes[0], message, hint)


def problem_of(error: Exception) -> RefusedError:
    """Return what a client is told of an error: nothing of paths or of the program's inside."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, UsageError):
        return RefusedError(422, error.code, error.message, error.hint)
    if isinstance(error, DataError):
        return unread([error.code])
    if isinstance(error, HeadstartError):
        return RefusedError(
            503, error.code, "the service cannot do this now", "try again later", retry_after=5
        )
    return RefusedError(
        500, "INTERNAL", "the service failed at this request", "tell whoever runs the service"
    )


def answer_of(problem: RefusedError, **more: Any) -> Json:
    """Return the answer that tells of a problem."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = {"code": problem.code, "message": problem.message, "hint": problem.hint, **more}
    return Json(content, problem.status, headers)
