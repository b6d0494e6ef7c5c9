"""Whole jobs on one machine, without network: prepare, train, gate, generate, export."""
