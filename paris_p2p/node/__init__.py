"""Swarm and store joined: join a run, fetch, seed, publish, report."""
