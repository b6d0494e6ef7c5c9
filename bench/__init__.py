"""Holds programs that measure; each prints what docs/benchmarks.md shows."""
