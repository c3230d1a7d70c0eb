"""Benchmarks of the gateway: side by side with other gateways, over many adapters, and a soak for memory.

The side-by-side benchmark puts each system in front of a mock engine and measures them in interleaved rounds. Systems
are processes started by their command line; none of them is imported. A request costs the CPU time of the system's
process tree; latency is the time that a system adds to asking the engine directly in the same round.
"""
