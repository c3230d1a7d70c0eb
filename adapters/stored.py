"""Find a published version in the registry and the store of a gateway's data directory, without the gateway."""

from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import StoreError, UnknownAdapterError
from adapters.ref import AdapterRef
from adapters.registry import Registry
from adapters.store import Store

DATABASE_FILE = "turntable.db"
ADAPTERS_FOLDER = "adapters"


def stored_adapter(ref: AdapterRef, data_dir: Path) -> tuple[str, Path]:
    """Return a version as `name@v3`, and its directory with all files verified; raises `AdapterError`."""
    path = data_dir / DATABASE_FILE
    if not path.is_file():
        raise UnknownAdapterError(
            f"{data_dir} has no registry with {ref}; set --data-dir to the gateway's, or give the adapter's folder."
        )
    database = create_engine(f"sqlite:///{path}")
    try:
        version = Registry(database).snapshot.resolve(ref)
    except SQLAlchemyError as error:
        raise StoreError(f"{path} cannot be read as a registry; set --data-dir to the gateway's.") from error
    finally:
        database.dispose()
    return f"{version.name}@v{version.version}", Store(data_dir / ADAPTERS_FOLDER).verify(version.digest)
