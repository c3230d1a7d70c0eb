"""What an adapter is and where its versions live: the leaf package that the gateway and the trainer share.

Nothing here imports torch or FastAPI. A directory in PEFT's layout goes through `preflight`, becomes an immutable
version in the content-addressed `Store`, and gets a name and a live pointer in the `Registry`.
"""

from adapters.base_model import BaseModel
from adapters.client import AdminClient, PublishedVersion
from adapters.errors import (
    AdapterError,
    AdminError,
    ArchiveError,
    InvalidRefError,
    NotReadyError,
    PreflightError,
    StaleLiveError,
    StoreError,
    UnknownAdapterError,
)
from adapters.manifest import Manifest
from adapters.preflight import preflight
from adapters.ref import AdapterRef
from adapters.registry import Registry, State, Version
from adapters.store import Store

__all__ = [
    "AdapterError",
    "AdapterRef",
    "AdminClient",
    "AdminError",
    "ArchiveError",
    "BaseModel",
    "InvalidRefError",
    "Manifest",
    "NotReadyError",
    "PreflightError",
    "PublishedVersion",
    "Registry",
    "StaleLiveError",
    "State",
    "Store",
    "StoreError",
    "UnknownAdapterError",
    "Version",
    "preflight",
]
