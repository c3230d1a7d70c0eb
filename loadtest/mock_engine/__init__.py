"""Mock engine: an OpenAI-compatible server that answers as vLLM 0.32 does, with chosen timing and faults.

It generates nothing: every answer is the same numbered words at the pace asked for. Tests and benchmarks of the load
tester and the gateway run against it without a model; the product never starts it by default.
"""

from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import Fault, MockEngine, MockSettings

__all__ = ["Fault", "MockEngine", "MockServer", "MockSettings", "serving"]
