"""Errors of adapters, the store, the registry and the admin API, as one tree.

    AdapterError
    ├── InvalidRefError       text is not `name`, `name@v3` or `name@<digest12>`
    ├── ArchiveError          an upload is not a safe tar.gz or zip of an adapter directory
    ├── SourceError           a source to fetch from is not allowed, missing or too large
    ├── PreflightError        the engine would refuse this adapter, or load it and serve wrong output
    ├── StoreError            the store cannot be read or written, or its bytes have changed
    ├── UnknownAdapterError   name or version does not exist
    ├── NotReadyError         the version exists but cannot serve traffic
    ├── StaleLiveError        compare-and-swap lost: another promotion came first
    ├── InUseError            a version that takes traffic cannot be retired
    ├── PolicyError           a canary, shadow, pin or rollback conflicts with the current state
    └── AdminError            the gateway's admin API refused or could not be reached

Each message is one sentence that names the thing and the fix: it is shown to users as it stands.
"""


class AdapterError(Exception):
    """Base class; `str(error)` is the sentence for the user."""


class InvalidRefError(AdapterError):
    """An adapter name or ref violates the grammar."""


class ArchiveError(AdapterError):
    """An uploaded archive is unsafe, too large, or not an adapter."""


class SourceError(AdapterError):
    """A source is not allowed, missing, unreadable or too large."""


class PreflightError(AdapterError):
    """An adapter failed preflight and must not reach an engine.

    `where` is the file, config field or tensor at fault, e.g. `adapter_config.json: use_dora`.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where


class StoreError(AdapterError):
    """The content-addressed store failed: disk, permissions, or changed bytes."""


class UnknownAdapterError(AdapterError):
    """No adapter or version of that name."""


class NotReadyError(AdapterError):
    """A version cannot serve traffic in its present state."""


class StaleLiveError(AdapterError):
    """The live version was not the one the caller expected; nothing was changed."""


class InUseError(AdapterError):
    """A version that is live, canary or shadow cannot be retired; nothing was changed."""


class PolicyError(AdapterError):
    """A traffic policy conflicts with the live version or other limits; nothing was changed."""


class AdminError(AdapterError):
    """The admin API answered with an error, or did not answer; `status` is 0 when nothing answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
