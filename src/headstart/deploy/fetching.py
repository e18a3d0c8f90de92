"""Fetching pictures that somebody gave the addresses of: within limits, and not from behind our own door."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

from headstart.data.samples import shown
from headstart.errors import DataError, UsageError

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_PIECE = 2**16


@dataclass(frozen=True)
class FetchRules:
    """What a fetch may cost and where it may go.

    `seconds`: for the whole of it, redirects included; `bytes`: at most so many; `redirects`: at most so
    many, never from https to http. `allow_private`: addresses of one's own network and machine, too.
    """

    seconds: float = 30.0
    bytes: int = 100 * 10**6
    redirects: int = 3
    allow_private: bool = False


@dataclass(frozen=True)
class Url:
    """The http or https address of a picture, which is fetched when its turn comes.

    Only an address that is given as a `Url` is ever fetched: a text is a path. Where the fetch fails the
    picture has a status: URL_REFUSED, URL_TIMEOUT, VANISHED, TOO_MANY_BYTES or URL_FAILED. The name is
    resolved once, and what is connected to is what was checked. Raises `UsageError` for no web address.
    """

    address: str
    rules: FetchRules = field(default_factory=FetchRules)

    def __post_init__(self) -> None:
        try:
            _parts_of(self.address)
        except DataError as error:
            raise UsageError(error.message, "give addresses such as https://example.org/a.jpg") from error

    def read(self) -> bytes:
        """Fetch the picture; raises `DataError`."""
        return fetch(self.address, self.rules)


def is_url(text: str) -> bool:
    """Tell whether a text is a web address."""
    return text.lower().startswith(("http://", "https://"))


def fetch(address: str, rules: FetchRules) -> bytes:
    """Return what lies at a web address; raises `DataError` for whatever goes wrong."""
    deadline = time.monotonic() + rules.seconds
    for _ in range(rules.redirects + 1):
        parts = _parts_of(address)
        try:
            found = _answer(parts, rules, deadline)
        except TimeoutError as error:
            raise _late(address, rules) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise _late(address, rules) from error
            raise DataError(
                f"{shown(address)} could not be fetched: {shown(str(error))[:200]}", code="URL_FAILED"
            ) from error
        if isinstance(found, bytes):
            return found
        after = urljoin(address, found)
        if parts.scheme == "https" and not after.lower().startswith("https://"):
            raise _refused(address, f"leads on to {shown(after)[:200]}, which is not encrypted")
        address = after
    raise _refused(address, f"leads on more than {rules.redirects} times")


def _parts_of(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise _refused(address, f"is no web address: {error}") from error
    plain = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or not plain:
        raise _refused(address, "is no web address")
    if parts.username is not None or parts.password is not None:
        raise _refused(parts.hostname, "is given with a name or a password")
    return parts


def _refused(address: str, why: str) -> DataError:
    return DataError(f"{shown(address)[:200]} {why}", code="URL_REFUSED")


def _late(address: str, rules: FetchRules) -> DataError:
    return DataError(f"{shown(address)} took more than {rules.seconds:g} s", code="URL_TIMEOUT")


def _answer(parts: SplitResult, rules: FetchRules, deadline: float) -> bytes | str:
    """Return the bytes that lie there, or where one is sent on to."""
    connection = _Connection(parts, _checked_place(parts, rules), deadline - time.monotonic())
    # A server that sends a byte now and then never runs into the limit of one read.
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), connection.cut)
    watch.daemon = True
    watch.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "headstart"}
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            if response.status in _REDIRECTS:
                return response.headers.get("Location", "")
            if response.status != 200:
                code = "VANISHED" if response.status in _GONE else "URL_FAILED"
                raise DataError(f"{shown(parts.geturl())} answers {response.status}", code=code)
            return _body(response, parts.geturl(), rules, deadline)
    finally:
        watch.cancel()
        connection.close()


def _body(response: http.client.HTTPResponse, address: str, rules: FetchRules, deadline: float) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _refused(address, "sends what is packed")
    too_long = DataError(f"{shown(address)} has more than {rules.bytes:,} bytes", code="TOO_MANY_BYTES")
    if response.length is not None and response.length > rules.bytes:
        raise too_long
    wanted, data = response.length, bytearray()
    while piece := response.read(_PIECE):
        data += piece
        if len(data) > rules.bytes:
            raise too_long
        if time.monotonic() > deadline:
            raise TimeoutError
    if wanted is not None and len(data) < wanted:
        raise OSError(f"{len(data)} of {wanted} bytes came")
    return bytes(data)


def _checked_place(parts: SplitResult, rules: FetchRules) -> tuple[str, int]:
    """Resolve a name once; raises `DataError` where any of its addresses is one of our own network."""
    port = parts.port or _PORTS[parts.scheme]
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    places = [str(each[4][0]) for each in found]
    if not places:
        raise OSError("the name has no address")
    if not rules.allow_private and not all(map(is_public, places)):
        raise _refused(parts.geturl(), "lies in a private network")
    return places[0], port


def is_public(place: str) -> bool:
    """Tell whether an IP address is one of the open net, and no way round to another."""
    address = ipaddress.ip_address(place.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        # The last 32 bits of this prefix are an IPv4 address, too (RFC 6052).
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        if address.ipv4_mapped is not None:
            return True
    return address.is_global and not address.is_multicast


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked before, whatever its name would resolve to now."""

    def __init__(self, parts: SplitResult, place: tuple[str, int], seconds: float) -> None:
        super().__init__(parts.hostname or "", place[1], timeout=max(0.001, seconds))
        self._place, self._encrypted = place, parts.scheme == "https"
        self._open: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the checked address; a certificate must be one for the name."""
        self.sock = socket.create_connection(self._place, self.timeout)
        if self._encrypted:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        # The library forgets its socket where an answer is to end with the connection.
        self._open = self.sock

    def cut(self) -> None:
        """End a connection that another thread waits for."""
        if self._open is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._open.shutdown(socket.SHUT_RDWR)
