"""HTTP in, HTTP out: parse, call one service, answer. Chat is raw ASGI because it is the hot path; the rest is
FastAPI.
"""
