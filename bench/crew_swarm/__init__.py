"""Runs crews in a real swarm on loopback, and does to them what happens to machines."""
