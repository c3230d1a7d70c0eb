"""Adapters and the store of their versions: the leaf package that the gateway and the trainer share.

Nothing here imports torch or FastAPI. A directory in PEFT's layout goes through `preflight`, becomes an immutable
version in the content-addressed `Store`, and gets a name and a live pointer in the `Registry`.
"""

from adapters.admin_client import AdminClient, PublishedVersion
from adapters.audit import Dossier, Evidence, StateChange
from adapters.base_model import BaseModel
from adapters.errors import (
    AdapterError,
    AdminError,
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
from adapters.manifest import Manifest
from adapters.preflight import preflight
from adapters.ref import AdapterRef
from adapters.registry import Registry
from adapters.snapshot import RegistrySnapshot, State, TrafficPolicy, TrafficSplit, Version
from adapters.sources import AllowedSources, SourceProvenance, fetch
from adapters.store import Store

__all__ = [
    "AdapterError",
    "AdapterRef",
    "AdminClient",
    "AdminError",
    "AllowedSources",
    "ArchiveError",
    "BaseModel",
    "Dossier",
    "Evidence",
    "InUseError",
    "InvalidRefError",
    "Manifest",
    "NotReadyError",
    "PolicyError",
    "PreflightError",
    "PublishedVersion",
    "Registry",
    "RegistrySnapshot",
    "SourceError",
    "SourceProvenance",
    "StaleLiveError",
    "State",
    "StateChange",
    "Store",
    "StoreError",
    "TrafficPolicy",
    "TrafficSplit",
    "UnknownAdapterError",
    "Version",
    "fetch",
    "preflight",
]
