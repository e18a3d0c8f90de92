"""The app: what is asked, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from headstart.deploy.service.answers import PredictAnswer, ProblemAnswer, facts_of, picture_answer
from headstart.deploy.service.bodies import Held, read_pictures
from headstart.deploy.service.guard import Guard
from headstart.deploy.service.hosting import Hosted, Models
from headstart.deploy.service.metrics import Metrics
from headstart.deploy.service.page import page, page_policy
from headstart.deploy.service.problems import Json, RefusedError, answer_of, problem_of, unread
from headstart.deploy.service.settings import Settings
from headstart.errors import DataError, HeadstartError, UsageError
from headstart.evaluation import Explanation
from headstart.types import Pixels

Result = TypeVar("Result")

_ModelName = Annotated[str | None, Query(max_length=200, description="A name of GET /models.")]
_Top = Annotated[int, Query(ge=1, le=50_000, description="So many classes for each picture.")]
_Views = Annotated[
    str | None, Query(max_length=50, description="none, or the views to average. Default: as the model says.")
]
_Label = Annotated[
    str | None, Query(max_length=1000, description="The class to explain. Default: the most probable.")
]
_Method = Annotated[Literal["auto", "gradcam", "rollout"], Query(description="How heat is found.")]
_Form = Annotated[Literal["png", "json"], Query(description="The picture under its heat, or its figures.")]

_DATA = {"type": "string", "contentEncoding": "base64"}
_ENTRY = {
    "type": "object",
    "properties": {"data": _DATA, "name": {"type": "string"}},
    "required": ["data"],
    "additionalProperties": False,
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _body(pictures: dict[str, Any]) -> dict[str, Any]:
    """The three forms of a request's body, for the description of the service."""
    listed = {"type": "array", "items": {"anyOf": [_DATA, _ENTRY]}, "minItems": 1, **pictures}
    json_form = {"type": "object", "properties": {"pictures": listed}, "required": ["pictures"]}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, **pictures}
    multipart = {"type": "object", "properties": {"pictures": files}, "required": ["pictures"]}
    content = {
        "multipart/form-data": {"schema": multipart},
        "application/json": {"schema": {**json_form, "additionalProperties": False}},
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
    }
    return {"requestBody": {"required": True, "content": content}}


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer, "description": words}
    for status, words in {
        400: "The body cannot be taken apart.",
        401: "The token is missing or wrong.",
        403: "A page of another site asked.",
        404: "There is no such model.",
        408: "The body came too slowly.",
        413: "The body, a picture or their number is too large.",
        415: "The body is of a type that is not read, or holds no picture.",
        431: "The head is too long.",
        421: "The service is not known by this name.",
        422: "An option or a picture is not as it must be.",
        500: "The model failed.",
        503: "Too much is waiting, or the service is stopping.",
    }.items()
}


class Service(Guard):
    """The app with its door; an ASGI application."""

    def __init__(self, app: FastAPI, models: Models, settings: Settings) -> None:
        super().__init__(app, settings, Metrics())
        self.models = models
        self.held = Held(settings.held_bytes)

    @property
    def ready(self) -> bool:
        """Whether pictures are taken and answered."""
        return not self.stopping and self.models.ready

    async def reload(self) -> None:
        """Load the models anew; see `Models.reload`."""
        for said in (await self.models.reload()).values():
            self.metrics.reloads["failed" if said.startswith("error") else said] += 1


def create_app(models: Models, settings: Settings | None = None) -> Service:
    """Return the service of some models as an ASGI application, for any server that runs such.

    Time limits for heads and answers, and signals, belong to the server: see `serve`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models.start(service.settings, service.metrics)
        yield
        await models.close()

    app = FastAPI(
        title="headstart",
        description="Says what pictures show.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    service = Service(app, models, settings or Settings())
    _add_handlers(app)
    _add_facts(app, service)
    _add_work(app, service)
    return service


def _add_handlers(app: FastAPI) -> None:
    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: ("NOT_FOUND", "there is nothing here"), 405: ("WRONG_METHOD", "not by this method")}
        code, message = words.get(error.status_code, ("BAD_REQUEST", "the request cannot be answered"))
        answer = answer_of(
            RefusedError(error.status_code, code, message, "GET /openapi.json says what there is")
        )
        answer.headers.update(error.headers or {})
        return answer

    async def of_options(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        names = ", ".join(sorted({str(part["loc"][-1]) for part in error.errors()}))[:200]
        return answer_of(
            RefusedError(422, "BAD_OPTION", f"cannot be so: {names}", "GET /openapi.json says how")
        )

    async def of_problem(request: Request, error: Exception) -> Response:
        return answer_of(problem_of(error))

    async def of_gone(request: Request, error: Exception) -> Response:
        return answer_of(RefusedError(400, "GONE", "the client has gone"))

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_options)
    app.add_exception_handler(RefusedError, of_problem)
    app.add_exception_handler(HeadstartError, of_problem)
    app.add_exception_handler(ClientDisconnect, of_gone)
    app.add_exception_handler(Exception, of_problem)  # and on it goes to the door, where it is logged


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page(), headers={"Content-Security-Policy": page_policy()})

    @app.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether pictures are taken", responses={503: {"model": ProblemAnswer}})
    async def ready() -> Response:
        if service.ready:
            return Json({"status": "ready"})
        return answer_of(RefusedError(503, "NOT_READY", "a model fails", "look at the log", retry_after=5))

    @app.get("/metrics", summary="Counts, as Prometheus reads them", response_class=PlainTextResponse)
    async def metrics() -> Response:
        waiting = {hosted.name: hosted.batcher.waiting for hosted in models}
        text = service.metrics.text(waiting, service.ready)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/models", summary="What is served", responses={401: _PROBLEMS[401]})
    async def list_models() -> Response:
        limits = {"pictures": service.settings.pictures, "body_bytes": service.settings.body_bytes}
        described = [
            {
                "name": hosted.name,
                "id": hosted.id,
                "engine": hosted.engine,
                **facts_of(hosted.bundle.manifest),
            }
            for hosted in models
        ]
        return Json({"models": described, "limits": limits})

    models = service.models


def _add_work(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        summary="What pictures show",
        response_model=PredictAnswer,
        responses=_PROBLEMS,
        openapi_extra=_body({"maxItems": service.settings.pictures}),
    )
    async def predict(
        request: Request, model: _ModelName = None, top: _Top = 5, tta: _Views = None
    ) -> Response:
        with service.models.named(model).used() as hosted, service.held.share() as take:
            _check_views(hosted, tta)
            uploads = await read_pictures(request, service.settings, take)
            future = hosted.batcher.submit([upload.data for upload in uploads], tta)
            found = await _while_there(request, future, service.settings.request_seconds)
            for said in found:
                service.metrics.pictures[hosted.name, said.status or "ok"] += 1
            entries = [
                picture_answer(upload.name, said, hosted.predictor.classes, top)
                for upload, said in zip(uploads, found, strict=True)
            ]
            if all(said.status for said in found):
                return answer_of(unread([said.status for said in found]), pictures=entries)
            return Json({"model": {"name": hosted.name, "id": hosted.id}, "pictures": entries})

    @app.post(
        "/explain",
        summary="Where a picture shows it",
        responses={**_PROBLEMS, 200: {"content": {"image/png": {}, "application/json": {}}}},
        response_class=Response,
        openapi_extra=_body({"maxItems": 1}),
    )
    async def explain(
        request: Request,
        model: _ModelName = None,
        label: _Label = None,
        method: _Method = "auto",
        form: _Form = "png",
    ) -> Response:
        with service.models.named(model).used() as hosted, service.held.share() as take:
            if label is not None and label not in hosted.predictor.classes:
                raise UsageError("the model has no class of this name", "GET /models names them")
            uploads = await read_pictures(request, service.settings, take)
            if len(uploads) > 1:
                raise RefusedError(413, "TOO_MANY_PICTURES", "heat is found for one picture at a time")
            work = asyncio.ensure_future(hosted.explain(uploads[0].data, label=label, method=method))
            found = await _while_there(request, work, service.settings.request_seconds)
            if found.status:
                raise DataError("", code=found.status)
            return await asyncio.to_thread(_explained, found, hosted, form)


def _check_views(hosted: Hosted, tta: str | None) -> None:
    if tta not in (None, "none"):
        hosted.predictor.views(tta)  # raises UsageError


def _explained(found: Explanation, hosted: Hosted, form: str) -> Response:
    shown = _png(found.overlay())
    if form == "png":
        return Response(shown, media_type="image/png")
    content = {name: value for name, value in found.to_dict().items() if name not in ("path", "truth")}
    content["overlay"] = base64.b64encode(shown).decode()
    return Json({"model": {"name": hosted.name, "id": hosted.id}, **content})


def _png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


async def _while_there(request: Request, future: asyncio.Future[Result], seconds: float) -> Result:
    """Wait for a result as long as somebody waits for the answer; nobody does: it is not computed."""
    gone = asyncio.ensure_future(_gone(request))
    both: tuple[asyncio.Future[Any], ...] = (future, gone)
    try:
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        future.cancel()
        if gone.done():
            raise ClientDisconnect
        raise RefusedError(
            503, "TIMEOUT", "the answer took too long", "try again with fewer pictures", retry_after=5
        )
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
