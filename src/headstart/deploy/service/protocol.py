"""HTTP with patience that ends: uvicorn alone waits for ever for a head, a body, or a reader."""

from __future__ import annotations

import asyncio
import json
import logging

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.deploy.service.settings import Settings

log = logging.getLogger("headstart.service")

_BAD_REQUEST = {
    "code": "BAD_REQUEST",
    "message": "this is not a request as HTTP/1.1 has them",
    "hint": "use a client that speaks HTTP/1.1",
}


def patient_protocol(settings: Settings) -> type[H11Protocol]:
    """Return uvicorn's protocol, with the patience and the number of connections of `settings`.

    A connection is closed when a request's head is not complete in time, when an answer is not read in time,
    and, after an answer that came before its request's end, when the rest is too long or takes too long. The
    body's own time is kept where it is read. Connections that wait for a head are counted apart from those
    that are answered: where there are too many, the one that has waited longest goes, so that those who
    only hold connections do not keep others out.
    """

    class PatientProtocol(H11Protocol):
        _since = 0.0
        _rest = 0
        _head_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None

        @property
        def _waits(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()
            if len(self.connections) > settings.connections:
                others = [other for other in self.connections if isinstance(other, PatientProtocol)]
                idle = [other for other in others if other._waits and not other.transport.is_closing()]
                min(idle, key=lambda other: other._since).transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._answer_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.cycle is not None and self._waits and self.conn.their_state is h11.SEND_BODY:
                # The rest of a body that was answered already: a client that is still sending would not
                # see the answer if the connection were closed on it at once.
                self._rest += len(data)
                if self._rest > settings.body_bytes:
                    self.transport.abort()
                    return
            super().data_received(data)

        def handle_events(self) -> None:
            try:
                super().handle_events()
            except h11.LocalProtocolError:  # nonsense came after an answer
                self.transport.abort()
                return
            if not self._waits and self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def on_response_complete(self) -> None:
            self._wait_for_head()
            super().on_response_complete()

        def _wait_for_head(self) -> None:
            self._since, self._rest = self.loop.time(), 0
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._head_timer = self.loop.call_later(settings.header_seconds, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer_timer = self.loop.call_later(settings.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._answer_timer is not None:
                self._answer_timer.cancel()
                self._answer_timer = None

        def send_400_response(self, msg: str) -> None:
            log.debug("%s", msg)
            body = json.dumps(_BAD_REQUEST).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
            ]
            parts = (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
            self.transport.close()

    return PatientProtocol
