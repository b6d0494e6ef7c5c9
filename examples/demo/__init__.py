"""Runs a demo swarm on gameplay clips: `scripts/demo`."""
