"""Attacks real nodes on loopback as a stranger does who knows one address: `python -m bench.attacks`."""
