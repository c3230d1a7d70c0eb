"""Errors that keep a load test from starting; a request that fails during the test is a result instead.

    LoadtestError
    ├── InvalidWorkloadError   models, prompts, options or output files are not usable
    └── ServerError            the server does not answer, refuses the key, or does not serve a model

Each message is one sentence that names the thing and the fix.
"""


class LoadtestError(Exception):
    """Base class; `str(error)` is the sentence for the user."""


class InvalidWorkloadError(LoadtestError):
    """Models, prompts, options or output files are not usable."""


class ServerError(LoadtestError):
    """The server does not answer, refuses the key, or does not serve a model."""
