"""Request ids: the client's own when it sends a usable one, else ours; in every answer as `x-request-id`."""

import itertools
import re
import secrets
from collections.abc import Mapping

_USABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIds:
    """Makes ids that no other process and no other request has, without asking the system each time."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()

    def new(self) -> str:
        """The next id."""
        return f"req_{self._process}{next(self._numbers):08x}"


def client_request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The id that the client gave its request, if it can be sent back as a header."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _USABLE.fullmatch(given) else None
