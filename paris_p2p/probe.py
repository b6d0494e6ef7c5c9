"""Dials a node with py-libp2p, an independent libp2p, in a process of its own (FACTS: it cannot share one with hivemind)."""
