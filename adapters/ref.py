"""Parser of adapter names and refs."""

import re
from dataclasses import dataclass

from adapters.errors import InvalidRefError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
_DIGEST12 = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """Reference to a version: `name` (the live one), `name@v3` or `name@<digest12>` (an exact one).

    Names are 1 to 64 characters of lower-case letters, digits, `.`, `_` and `-`, beginning and ending with a letter or
    digit: safe in paths, URLs, metric labels and engine model names.
    """

    name: str
    version: int | None = None
    digest12: str | None = None

    @classmethod
    def parse(cls, text: str) -> "AdapterRef":
        """Parse a ref; raises `InvalidRefError` with the grammar."""
        name, at, rest = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if _VERSION.fullmatch(rest):
            return cls(name, version=int(rest[1:]))
        if _DIGEST12.fullmatch(rest):
            return cls(name, digest12=rest)
        raise InvalidRefError(
            f"'{text}' is not an adapter ref; write name, name@v3 or name@ and the first 12 digits of its digest."
        )

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@v{self.version}"
        return f"{self.name}@{self.digest12}" if self.digest12 else self.name


def check_name(name: str) -> str:
    """Return `name` when it follows the grammar, else raise `InvalidRefError`."""
    if not _NAME.fullmatch(name):
        raise InvalidRefError(
            f"'{name}' is not an adapter name; use 1 to 64 lower-case letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit."
        )
    return name
