"""Why a load test cannot start. A request that fails during the test is a result, not an error.

    LoadtestError
    ├── InvalidWorkloadError   the models, prompts or output files asked for are not usable
    └── ServerError            nothing answers, the key is refused, or a model is not served

Each message is one sentence that names the thing and the fix.
"""


class LoadtestError(Exception):
    """Root of the tree; `str(error)` is the sentence for the user."""


class InvalidWorkloadError(LoadtestError):
    """What was asked for is not usable."""


class ServerError(LoadtestError):
    """The server under test cannot be tested as asked."""
