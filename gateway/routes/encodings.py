"""Request bodies that come compressed: read piece by piece, and never larger than the limit says."""

import zlib
from collections.abc import Mapping

from gateway.errors import InvalidRequestError, RequestTooLargeError, UnsupportedEncodingError

ACCEPTED = "gzip, deflate"
_GZIP = 16 + zlib.MAX_WBITS


def decoder_for(headers: Mapping[bytes, bytes], max_bytes: int) -> "Decoder | None":
    """What reads a body with these headers, None when it is as it is; raises `UnsupportedEncodingError`."""
    given = headers.get(b"content-encoding", b"").strip().lower()
    if given in (b"", b"identity"):
        return None
    if given not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedEncodingError(given.decode("latin-1")[:50], ACCEPTED)
    return Decoder("deflate" if given == b"deflate" else "gzip", max_bytes)


class Decoder:
    """One body; what it becomes counts, not what was sent."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self.encoding = encoding
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._stream = zlib.decompressobj(_GZIP) if encoding == "gzip" else None

    def feed(self, piece: bytes, *, is_last: bool) -> bytes:
        """The next decoded bytes; raises `RequestTooLargeError` past the limit, `InvalidRequestError` for nonsense."""
        if self._stream is None:
            if not piece and not is_last:
                return b""
            # "deflate" has a zlib header by the standard, and none from clients that misread it.
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if piece[:1] and piece[0] & 15 == 8 else -zlib.MAX_WBITS)
        try:
            decoded = self._stream.decompress(piece, self._room + 1)
        except zlib.error as error:
            raise self._broken() from error
        self._room -= len(decoded)
        if self._room < 0:
            raise RequestTooLargeError(
                f"The body is larger than {self._max_bytes} bytes once it is unpacked; send less, or raise "
                "max_body_bytes."
            )
        if self._stream.unused_data or (is_last and not self._stream.eof):
            raise self._broken()
        return decoded

    def _broken(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"The body is not one whole {self.encoding} stream, as its content-encoding says; compress it again, or "
            "send it plain without that header."
        )
