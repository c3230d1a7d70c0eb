"""Everything that can go wrong with an adapter, as one tree.

    AdapterError
    ├── InvalidRefError       a text is not `name`, `name@v3` or `name@<digest12>`
    ├── ArchiveError          an upload is not a safe tar.gz of an adapter directory
    ├── SourceError           a source to fetch from is not allowed, not there or too large
    ├── PreflightError        the engine would refuse this adapter, or load it and serve nonsense
    ├── StoreError            the store cannot be read or written, or its bytes have changed
    ├── UnknownAdapterError   no such name or version
    ├── NotReadyError         the version exists but may not be routed to
    ├── StaleLiveError        compare-and-swap lost: somebody else promoted first
    ├── InUseError            a version that takes traffic cannot be retired
    ├── PolicyError           a canary, shadow, pin or rollback that makes no sense as things stand
    └── AdminError            the gateway's admin API refused or could not be reached

Each message is one sentence that names the thing and the fix: it is shown to users as it stands.
"""


class AdapterError(Exception):
    """Root of the tree; `str(error)` is the sentence for the user."""


class InvalidRefError(AdapterError):
    """A text does not follow the grammar of adapter names and refs."""


class ArchiveError(AdapterError):
    """An uploaded archive is unsafe, too large, or not an adapter."""


class SourceError(AdapterError):
    """A source that is not allowed, is not there, cannot be read, or is too large."""


class PreflightError(AdapterError):
    """An adapter that must not reach an engine.

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
    """A version that may not be routed to in its present state."""


class StaleLiveError(AdapterError):
    """The live version was not the one the caller expected; nothing was changed."""


class InUseError(AdapterError):
    """A version that is live, canary or shadow cannot be retired; nothing was changed."""


class PolicyError(AdapterError):
    """A traffic policy that makes no sense as things stand; nothing was changed."""


class AdminError(AdapterError):
    """The admin API answered with an error, or did not answer; `status` is 0 when nothing answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
