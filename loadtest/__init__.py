"""Load testing of any OpenAI-compatible server from outside: streamed chat requests, raw timestamps, percentiles.

Gateway, trainer and adapter store are not imported: the load tester must be able to fail when the gateway lies.
`loadtest.mock_engine` is a server to test it, and the gateway, against.
"""

from loadtest.errors import LoadtestError
from loadtest.metrics import Slo, Summary, summarise
from loadtest.records import RequestRecord
from loadtest.report import LoadReport
from loadtest.run import RunSettings, run_load
from loadtest.statistics import Distribution
from loadtest.workload import RequestSpec

__all__ = [
    "Distribution",
    "LoadReport",
    "LoadtestError",
    "RequestRecord",
    "RequestSpec",
    "RunSettings",
    "Slo",
    "Summary",
    "run_load",
    "summarise",
]
