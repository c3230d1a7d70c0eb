"""The guards of routes: FastAPI dependencies that let in who holds a key with the right scope, and tell who it is."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from gateway.auth import Caller, Keyring, Scope

Guard = Callable[[Request], Awaitable[Caller]]


class Guards:
    """One guard per scope. Each raises `AuthenticationError` (401) without a key and `MissingScopeError` (403) when
    the key does not open the scope.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def inference(self, request: Request) -> Caller:
        """Who may ask models."""
        return self._let_in(request, Scope.INFERENCE)

    async def usage(self, request: Request) -> Caller:
        """Who may read what its tenant used; an admin reads everybody's."""
        return self._let_in(request, Scope.USAGE)

    async def metrics(self, request: Request) -> Caller:
        """Who may read the metrics, which name every adapter."""
        return self._let_in(request, Scope.METRICS)

    async def admin(self, request: Request) -> Caller:
        """Who may operate the gateway."""
        return self._let_in(request, Scope.ADMIN)

    def _let_in(self, request: Request, scope: Scope) -> Caller:
        caller = self._keyring.authenticate(dict(request.scope["headers"]))
        caller.demand(scope)
        return caller
