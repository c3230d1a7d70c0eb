"""Salts for the engine's prefix cache: the prompts of one tenant are not found there by another.

The engine tells how many tokens of a prompt it had cached, so a shared cache tells a tenant what others asked.
"""

from collections.abc import Callable


class CacheSalts:
    """Salt the cache per tenant; `digest` hashes under a secret of this installation."""

    def __init__(self, digest: Callable[[bytes], bytes], *, is_shared: bool) -> None:
        self._digest = digest
        self._is_shared = is_shared

    def salt(self, tenant: str, own: str | None) -> str | None:
        """Return a request's salt; the client's `own` salt divides its tenant's cache further.

        None when tenants share the cache and the client names no salt.
        """
        if self._is_shared and own is None:
            return None
        parts = (b"cache salt", tenant.encode("utf-8", "surrogatepass"), (own or "").encode("utf-8", "surrogatepass"))
        return self._digest(b"\0".join(parts)).hex()
