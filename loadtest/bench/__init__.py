"""The side-by-side benchmark: a mock engine, and what stands in front of it, measured in interleaved rounds.

Every system is a process started by its command line; nothing of it is imported. What a request costs is the CPU time
of the system's whole process tree; latency is what a system adds over asking the engine directly in the same round.
"""
