"""Request bodies: read them within size and time limits, decompress them, and parse large ones one at a time."""

import asyncio
import contextlib
import gc
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from weakref import WeakValueDictionary

from gateway.errors import ClientTooSlowError, InvalidRequestError, RequestTooLargeError, UnsupportedEncodingError
from gateway.server.cycle import ClientCycle

ACCEPTED = "gzip, deflate"
LARGE_BYTES = 128 << 10
"""Smaller bodies are parsed without queueing: parsing takes less time than the queue."""
MOST_VALUES = 1 << 20
MOST_CONTAINERS = 1 << 16
"""Values, lists and objects in one body: parsing costs by their number, and 8 MB of `[],` would take seconds."""
_GZIP = 16 + zlib.MAX_WBITS

Headers = Mapping[bytes, bytes]


def decoder_for(headers: Headers, max_bytes: int) -> "Decoder | None":
    """Return a decoder for a compressed body, None for a plain one; raises `UnsupportedEncodingError`."""
    given = headers.get(b"content-encoding", b"").strip().lower()
    if given in (b"", b"identity"):
        return None
    if given not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedEncodingError(given.decode("latin-1")[:50], ACCEPTED)
    return Decoder("deflate" if given == b"deflate" else "gzip", max_bytes)


class Decoder:
    """Decompress one body of at most `max_bytes`, counted after decompression."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self.encoding = encoding
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._stream = zlib.decompressobj(_GZIP) if encoding == "gzip" else None

    def feed(self, piece: bytes, *, is_last: bool) -> bytes:
        """Decompress a piece; raises `RequestTooLargeError` past the limit, `InvalidRequestError` for corrupt data."""
        if self._stream is None:
            if not piece and not is_last:
                return b""
            # "deflate" has a zlib header by the standard, and none from clients that misread it.
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if piece[:1] and piece[0] & 15 == 8 else -zlib.MAX_WBITS)
        try:
            decoded = self._stream.decompress(piece, self._room + 1)
        except zlib.error as error:
            raise self._corrupt() from error
        self._room -= len(decoded)
        if self._room < 0:
            raise RequestTooLargeError(
                f"The body is larger than {self._max_bytes} bytes once it is unpacked; send less, or raise "
                "max_body_bytes."
            )
        if self._stream.unused_data or (is_last and not self._stream.eof):
            raise self._corrupt()
        return decoded

    def _corrupt(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"The body is not a complete {self.encoding} stream, although its content-encoding says so; compress it "
            "again, or send it uncompressed without that header."
        )


class ClientGoneError(Exception):
    """The client disconnected before it was answered."""


class BodyReader:
    """Read bodies of at most `max_bytes`, each within `timeout_s`."""

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    def take(self, cycle: ClientCycle, headers: Headers) -> bytes | None:
        """Return the body if it has arrived and is not compressed; raises `RequestTooLargeError` without reading on."""
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            raise self._too_large()
        if b"content-encoding" in headers:
            return None
        whole = cycle.take_body()
        if whole is not None and len(whole) > self._max_bytes:
            raise self._too_large()
        return whole

    async def read(self, cycle: ClientCycle, headers: Headers) -> bytes:
        """Receive and decompress the body.

        Raises `RequestTooLargeError`, `ClientTooSlowError`, `UnsupportedEncodingError`, and `ClientGoneError`.
        """
        decoder = decoder_for(headers, self._max_bytes)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await cycle.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    piece, is_last = message.get("body", b""), not message.get("more_body", False)
                    if decoder is not None:  # in a thread: a kilobyte may decompress to megabytes
                        piece = await asyncio.to_thread(decoder.feed, piece, is_last=is_last)
                    parts.append(piece)
                    size += len(piece)
                    if size > self._max_bytes:
                        raise self._too_large()
                    if is_last:
                        return b"".join(parts)
        except TimeoutError as error:
            raise ClientTooSlowError(
                f"The body did not arrive within {self._timeout_s:g} s; send it faster."
            ) from error

    def _too_large(self) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"The body is larger than {self._max_bytes} bytes; send less, or raise max_body_bytes."
        )


class LargeBodies:
    """Let large bodies be parsed one at a time, in turn between API keys.

    A parser holds the whole process, threads included, so another thread would not help. What helps is that each body
    takes not long (see `MOST_VALUES`), and that the process serves other requests for as long again after each.
    """

    def __init__(self) -> None:
        self._parsing = asyncio.Lock()
        self._parsing_by_key: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def parsing(self, key_id: str, body: bytes) -> AsyncIterator[None]:
        """Parse a body inside, without awaiting; raises `RequestTooLargeError` when it would take too long."""
        parsing_of_key = self._parsing_by_key.setdefault(key_id, asyncio.Lock())
        async with parsing_of_key:
            await self._parsing.acquire()
            started_s, collects = time.perf_counter(), gc.isenabled()
            gc.disable()  # JSON has no cycles, and collecting millions of values takes longer than parsing
            try:
                _check_values(body)
                yield
            finally:
                if collects:
                    gc.enable()
                asyncio.get_running_loop().call_later(time.perf_counter() - started_s, self._parsing.release)


def _check_values(body: bytes) -> None:
    if body.count(b",") <= MOST_VALUES and body.count(b"{") + body.count(b"[") <= MOST_CONTAINERS:
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # the remaining quotes delimit strings
    if bare.count(b'"') <= MOST_VALUES:
        bare = b"".join(bare.split(b'"')[::2])
        if bare.count(b",") <= MOST_VALUES and bare.count(b"{") + bare.count(b"[") <= MOST_CONTAINERS:
            return
    raise RequestTooLargeError(
        f"The body holds more than {MOST_VALUES} values, or {MOST_CONTAINERS} lists and objects; send them in several "
        "requests."
    )
