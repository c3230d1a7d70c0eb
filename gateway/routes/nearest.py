"""The path that a client probably meant: the usual slips with a base URL, told in the 404."""

import re
from collections.abc import Callable

from gateway.apis import APIS

_SLASHES = re.compile(r"/{2,}")


def nearest(path: str, exists: Callable[[str], bool]) -> str | None:
    """A path that exists and differs only by slashes, or by a `/v1` that is missing, doubled or behind something."""
    if len(path) > 200:
        return None
    plain = "/" + _SLASHES.sub("/", path).strip("/")
    tail = plain.rpartition("/v1/")[2].removeprefix("/")
    for candidate in (plain, f"/v1{plain}", f"/v1/{tail}", f"/v1/{tail.lower()}"):
        if candidate != path and (candidate in APIS or exists(candidate)):
            return candidate
    return None
