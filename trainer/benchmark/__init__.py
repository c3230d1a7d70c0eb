"""`make bench-trainer`: our defaults beside TRL's, in interleaved rounds, each run in a process of its own."""
