"""The OpenAI-compatible server in front of the engine: keys, adapters, usage, costs. No torch here.

`create_app(settings)` in `gateway.app` builds everything; a request runs routes -> chat -> services -> engine, one way.
"""
