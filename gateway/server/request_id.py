"""Request ids: the client's own when it sends a usable one, else ours; in every response as `x-request-id`."""

import itertools
import re
import secrets
from collections.abc import Mapping

_USABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIds:
    """Generate request ids, unique over processes, without a system call for each."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()

    def new(self) -> str:
        """Return the next id."""
        return f"req_{self._process}{next(self._numbers):08x}"


def client_request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the client's `x-request-id` if it can be sent back as a header."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _USABLE.fullmatch(given) else None
