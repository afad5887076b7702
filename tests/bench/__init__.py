"""`make bench`: how fast the guard is, and what it costs, on this machine.  docs/benchmarks.md explains the figures.

The real server, started as its users start it, stands between a load generator (this process) and two
demo providers: one that answers at once, and one that takes half a second.
"""
