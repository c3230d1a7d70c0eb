"""Translation of the adapters package's errors into HTTP errors."""

import contextlib
import logging
from collections.abc import Iterator

from adapters import (
    AdapterError,
    AdapterRef,
    ArchiveError,
    InUseError,
    InvalidRefError,
    NotReadyError,
    PolicyError,
    PreflightError,
    SourceError,
    StaleLiveError,
    StoreError,
    UnknownAdapterError,
)
from gateway.errors import (
    AdapterRefusedError,
    ConflictError,
    DiskError,
    GatewayError,
    InvalidRequestError,
    NotFoundError,
)

log = logging.getLogger(__name__)


def parse_version(text: str | int) -> int:
    """Parse `v3`, `3` or 3; raises `InvalidRequestError`."""
    with contextlib.suppress(AdapterError):
        number = AdapterRef.parse(f"x@v{str(text).removeprefix('v')}").version
        if number is not None:
            return number
    raise InvalidRequestError(f"'{str(text)[:100]}' is not a version; write it like v3.", param="version")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise errors of the adapters package as `GatewayError`."""
    try:
        yield
    except AdapterError as error:
        raise _translate(error) from error


def _translate(error: AdapterError) -> GatewayError:
    match error:
        case PreflightError():
            return AdapterRefusedError(str(error), param=error.where)
        case InvalidRefError():
            return InvalidRequestError(str(error), param="name")
        case SourceError():
            return InvalidRequestError(str(error), param="source")
        case ArchiveError():
            return InvalidRequestError(str(error), param="file")
        case UnknownAdapterError():
            return NotFoundError(str(error))
        case NotReadyError() | StaleLiveError() | InUseError() | PolicyError():
            return ConflictError(str(error))
        case StoreError():
            log.error("%s", error)
            return DiskError("The adapter store cannot be written or read; its disk needs attention.")
        case _:
            return InvalidRequestError(str(error))
