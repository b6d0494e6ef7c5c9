"""Programs that measure; each prints what docs/benchmarks.md holds."""
