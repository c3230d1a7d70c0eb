"""The OpenAI-compatible server in front of the engines: keys, adapters, usage, costs. No torch here.

`gateway.wiring` builds every object and `gateway.app` runs them. A request goes one way: `server` (bytes from the
client) -> `inference.pipeline` (all steps in order) -> `engines`. Read `gateway.core` first: the data of a request.
"""
