"""What the service allows, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """What clients may ask of the service, and how long it waits for them.

    `token`: what they must send as `Authorization: Bearer …` (empty: nothing). `hosts`: the names by which
    they may call it, in small letters and without a port (empty: any).

    `batch_size`: so many pictures at most go through the network together; on a processor more only makes
    clients wait for one another, on a graphics card 32 and more pay. `queue`: so many pictures may
    wait for it; who comes when they do is told to come again. `lanes`: so many batches are under way at a
    time, so that one is decoded while the network is busy with the other. `linger`: seconds that a batch
    waits for more pictures once it could go.

    `body_bytes`, `pictures`: of one request. `held_bytes`: of the bodies of all requests together.
    `header_seconds`: until a request's head is complete, from the end of the one before. `body_seconds`:
    for a body; a second more for each `body_rate` bytes that have come. `answer_seconds`: for a client that
    does not read its answer. `request_seconds`: from the body's end to the answer. `stop_seconds`: for what
    is under way when the service stops. `connections`: so many at most; where more come, the one that has
    waited longest without asking for anything is closed.

    Raises `UsageError` for what is not positive.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    batch_size: int = 8
    queue: int = 128
    lanes: int = 2
    linger: float = 0.002
    body_bytes: int = 32 * 2**20
    pictures: int = 32
    held_bytes: int = 256 * 2**20
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    body_rate: int = 100_000
    answer_seconds: float = 30.0
    request_seconds: float = 30.0
    stop_seconds: float = 10.0
    connections: int = 1000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0 and name != "linger":
                raise UsageError(f"{name} cannot be {value}", "give a number above 0")
        if self.token and (len(self.token) < 8 or not self.token.isascii() or not self.token.isprintable()):
            raise UsageError(
                "the token is no token: it takes 8 or more printable ASCII characters",
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
