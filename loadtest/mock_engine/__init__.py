"""A mock engine: an OpenAI-compatible server that answers as vLLM 0.32 does, with chosen timing and faults.

It generates nothing: every answer is the same numbered words at the pace asked for. It exists so that the load tester
and the gateway can be tested and measured without a model, and is never a default of the product.
"""

from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import Fault, MockEngine, MockSettings

__all__ = ["Fault", "MockEngine", "MockServer", "MockSettings", "serving"]
