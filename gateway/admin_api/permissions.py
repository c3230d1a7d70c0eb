"""Permissions of routes: FastAPI dependencies that require an API key with a scope and return its caller."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from gateway.auth import Caller, Keyring, Scope

Guard = Callable[[Request], Awaitable[Caller]]


class Guards:
    """One dependency per scope.

    Each raises `AuthenticationError` (401) without a valid key and `MissingScopeError` (403) when the key lacks the
    scope. They are coroutines because FastAPI runs plain functions in a thread, and a revocation must not wait for one.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def inference(self, request: Request) -> Caller:
        """Require the scope for models and feedback."""
        return self._require(request, Scope.INFERENCE)

    async def usage(self, request: Request) -> Caller:
        """Require the scope to read the usage of one's tenant; an admin may read all."""
        return self._require(request, Scope.USAGE)

    async def metrics(self, request: Request) -> Caller:
        """Require the scope for Prometheus metrics, which name every adapter."""
        return self._require(request, Scope.METRICS)

    async def admin(self, request: Request) -> Caller:
        """Require the admin scope."""
        return self._require(request, Scope.ADMIN)

    def _require(self, request: Request, scope: Scope) -> Caller:
        caller = self._keyring.authenticate(dict(request.scope["headers"]))
        caller.require_scope(scope)
        return caller
