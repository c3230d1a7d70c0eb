"""A canned engine: an OpenAI-compatible server that answers as vLLM 0.32 does, with chosen timing and faults.

It generates nothing: every answer is the same numbered words at the pace asked for. It exists so that the load tester
and the gateway can be tested and measured without a model, and is never a default of the product.
"""

from loadtest.canned.engine import CannedEngine, CannedSettings, Fault
from loadtest.canned.server import CannedServer, serving

__all__ = ["CannedEngine", "CannedServer", "CannedSettings", "Fault", "serving"]
