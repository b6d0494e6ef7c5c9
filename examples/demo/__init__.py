"""A demo swarm on gameplay clips: `scripts/demo`."""
