"""Attacks by a stranger who knows one address, against real nodes on loopback: `python -m bench.attacks`."""
