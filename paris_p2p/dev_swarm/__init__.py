"""A whole swarm on one machine, broken on purpose, and what became of it."""
